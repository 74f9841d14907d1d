"""A chart of the site on paper: the same traces, colours and order, drawn by matplotlib; the same chart gives the same bytes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench.errors import UsageError
from npasbench.running.files import writing

from .figures import Figure, is_shown
from .palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "pdf", "png")
_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "pentagon": "p", "hexagon": "h",
    "star": "*", "cross": "P", "x": "X",
}  # fmt: skip
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_STEPS = {"hv": "steps-post"}
_PLACES = {"top left": (-5, 3, "right", "bottom"), "bottom right": (5, -3, "left", "top")}
_SETTINGS: dict[Any, Any] = {
    "font.size": 8, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "grid.linewidth": 0.4, "grid.color": LIGHT["--line"], "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "svg.hashsalt": "npasbench", "svg.fonttype": "none", "pdf.fonttype": 42, "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip


def draw(figure: Figure, out: Path, width: float = 5.5, height: float = 3.6) -> None:
    """Draw a chart into a file; its ending is the format. Sizes are in inches, without the legend.

    Raises:
        UsageError: if the ending is none of :data:`FORMATS`.
        RunError: if the file cannot be written.
    """
    ending = out.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UsageError(f"'{out}' does not end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, which say the format.")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_SETTINGS}):
        sheet = Sheet(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(sheet)
        axes = sheet.add_subplot()
        for order, trace in enumerate(filter(is_shown, figure["data"])):
            _trace(axes, trace, order)
        _lines(axes, figure["layout"].get("shapes", ()))
        _axes(axes, figure["layout"])
        _legend(axes)
        # No date, and no name of a version that would change the bytes.
        metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
                    "png": {"Software": None}}[ending]  # fmt: skip
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            sheet.savefig(out, format=ending, dpi=300, metadata=metadata, bbox_inches="tight", pad_inches=0.03)


def _trace(axes: Axes, trace: Figure, order: int) -> None:
    colour = LIGHT[trace["meta"]["colour"]]
    if trace.get("fill"):
        axes.fill(trace["x"], trace["y"], color=colour, alpha=0.1, linewidth=0, zorder=2)
        return
    x, y, mode = trace["x"], trace["y"], trace["mode"]
    name = html.unescape(trace["name"]) if trace.get("showlegend", True) and trace.get("name") else "_nolegend_"
    zorder = 3 + order / 1000
    if "text" in mode.split("+"):
        _texts(axes, trace)
        return
    if "error_y" in trace:
        axes.errorbar(
            x, y, yerr=trace["error_y"]["array"], color=colour, fmt="none", elinewidth=1, capsize=2, zorder=zorder
        )
    if "lines" in mode:
        line = trace.get("line", {})
        axes.plot(x, y, color=colour, linestyle=_DASHES[line.get("dash", "solid")], linewidth=0.6 * line.get("width", 2),
                  drawstyle=_STEPS.get(line.get("shape", ""), "default"), zorder=zorder, label="_nolegend_")  # fmt: skip
    if "markers" in mode:
        _marks(axes, trace, colour, zorder, name)
    elif name != "_nolegend_":
        axes.lines[-1].set_label(name)


def _marks(axes: Axes, trace: Figure, colour: str, zorder: float, name: str) -> None:
    """Each mark by itself, since shape, size and strength may differ; the legend shows the first as it is in full strength."""
    marker, count = trace["marker"], len(trace["x"])
    faint = trace.get("opacity", 1)
    for at, (x, y, symbol, size, strength) in enumerate(
        zip(trace["x"], trace["y"], *(_each(marker.get(key), usual, count) for key, usual in
            (("symbol", "circle"), ("size", 8), ("opacity", 1))), strict=True)
    ):  # fmt: skip
        if not size:
            continue
        shape, hollow = _MARKERS[symbol.removesuffix("-open")], symbol.endswith("-open")
        axes.plot([x], [y], marker=shape, markersize=0.55 * size, alpha=strength * faint, linestyle="none", zorder=zorder + 1,
                  markeredgecolor=colour, markerfacecolor="white" if hollow else colour, markeredgewidth=0.7,
                  label="_nolegend_")  # fmt: skip
        if at == 0 and name != "_nolegend_":
            line = _DASHES[trace.get("line", {}).get("dash", "solid")] if "lines" in trace["mode"] else "none"
            face = "white" if hollow else colour
            axes.plot([], [], color=colour, linestyle=line, linewidth=1.2, label=name, marker=shape, markersize=4.5,
                      markerfacecolor=face, markeredgecolor=colour)  # fmt: skip


def _texts(axes: Axes, trace: Figure) -> None:
    for x, y, text, place in zip(trace["x"], trace["y"], trace["text"], trace["textposition"], strict=True):
        dx, dy, ha, va = _PLACES[place]
        axes.annotate(html.unescape(text), (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=6,
                      color=LIGHT["--ink"], zorder=6)  # fmt: skip


def _lines(axes: Axes, shapes: Iterable[Figure]) -> None:
    for shape in shapes:
        axes.axhline(shape["y0"], color=LIGHT["--muted"], linewidth=0.6, linestyle=":", zorder=1)


def _axes(axes: Axes, layout: Figure) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    x, y = layout["xaxis"], layout["yaxis"]
    if x.get("type") == "log":
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if "tickvals" in x:
        axes.set_xticks(x["tickvals"], [html.unescape(text) for text in x["ticktext"]])
    if "range" in y:
        axes.set_ylim(*y["range"])
    if y.get("zeroline"):
        axes.axhline(0, color=LIGHT["--muted"], linewidth=0.6, zorder=1)
    axes.set_xlabel(x["title"]["text"].replace("<br>", "\n"))
    axes.set_ylabel(y["title"]["text"])
    axes.grid(visible=True, zorder=0)
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=min(4, len(handles)),
                    handlelength=2.2, columnspacing=1.2, fontsize=7)  # fmt: skip


def _each(given: Any, usual: Any, count: int) -> Sequence[Any]:
    if given is None:
        return [usual] * count
    return given if isinstance(given, list) else [given] * count
