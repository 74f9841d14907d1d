"""Charts as plain plotly JSON: no colours of their own (the style sheet has them, for light and dark) and no network.

``meta.colour`` of a trace names a custom property of the style sheet; ``charts.js`` puts its value in.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import words
from .board import REFERENCE, Board, Cell, Entry
from .prominent import SERIES, is_prominent
from .statistics import Interval

Figure = dict[str, Any]
Measure = Callable[[Entry, str], Interval | None]
"""What a chart shows of an entry at a budget."""
_MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star", "cross", "x")
AXIS = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}


def accuracy_figure(board: Board, entries: Sequence[Entry] = ()) -> Figure | None:
    """Accuracy against budget on a logarithmic axis: one curve an entry, with its 95 % band; None if there is no point.

    Of ``entries`` alone, where any are given; else those that are not prominent are in the legend alone.
    """
    figure = _figure(board, entries, lambda entry, budget: entry.cell(budget).accuracy, f"{board.score} (%)")
    whole = [entry.cell(b).accuracy for entry in board.entries for b in board.budgets if _is_whole(board, entry, b)]
    if figure and whole and whole[0]:
        line = {"width": 1, "dash": "dot"}
        level = 100 * whole[0].mean
        figure["layout"]["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, "line": line}
        ]
    return figure


def difference_figure(board: Board, entries: Sequence[Entry] = ()) -> Figure | None:
    """Paired difference to the control against budget, with its 95 % band; None without a control."""
    figure = _figure(board, entries, board.difference, "difference to the control (points)")
    if figure:
        figure["layout"]["yaxis"]["zeroline"] = True
    return figure


def training_figure(epochs: Sequence[dict[str, Any]]) -> Figure | None:
    """Loss and learning rate by epoch; None if there is nothing to draw."""
    rows = [row for row in epochs if isinstance(row, dict) and isinstance(row.get("epoch"), int)]
    losses = [_finite(row.get("loss")) for row in rows]
    if not any(value is not None for value in losses):
        return None
    x = [row["epoch"] for row in rows]
    loss = {"type": "scatter", "mode": "lines", "name": "loss", "x": x, "y": losses, "meta": {"colour": "--series-0"},
            "hovertemplate": "epoch %{x}: loss %{y:.4f}<extra></extra>"}  # fmt: skip
    rate = {"type": "scatter", "mode": "lines", "name": "learning rate", "x": x, "y": [_finite(row.get("lr")) for row in rows],
            "yaxis": "y2", "line": {"dash": "dot", "width": 1.5}, "meta": {"colour": "--muted"},
            "hovertemplate": "epoch %{x}: rate %{y:.4g}<extra></extra>"}  # fmt: skip
    layout = {
        "xaxis": {**AXIS, "title": {"text": "epoch"}},
        "yaxis": {**AXIS, "title": {"text": "training loss"}, "rangemode": "tozero"},
        "yaxis2": {**AXIS, "title": {"text": "learning rate"}, "overlaying": "y", "side": "right", "rangemode": "tozero",
                   "showgrid": False, "tickmode": "auto", "nticks": 5, "tickformat": "~g"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "height": 320,
    }  # fmt: skip
    return {"data": [loss, rate], "layout": layout}


def _figure(board: Board, chosen: Sequence[Entry], measure: Measure, title: str) -> Figure | None:
    entries = sorted(
        chosen or board.entries, key=lambda entry: (entry is not board.reference, entry.label, entry.variant)
    )
    shown = [entry for entry in entries if chosen or is_prominent(board, entry)]
    traces = [
        trace if entry in shown else {**trace, "visible": "legendonly"}
        for entry in entries
        for trace in _curve(board, entry, measure)
    ]
    bands = [trace for trace in traces if trace.get("fill")]
    lines = [trace for trace in traces if not trace.get("fill")]
    if not any(is_shown(trace) for trace in traces):
        return None
    layout = _layout(board, title)
    layout["yaxis"]["range"] = _in_view(board, shown, measure)
    return noted({"data": bands + lines, "layout": layout})


def is_shown(trace: Figure) -> bool:
    """Whether a trace is drawn at first, and not only named in the legend."""
    return trace.get("visible") != "legendonly"


def out_of_view(figure: Figure) -> tuple[int, int]:
    """How many marks lie below and above the part of the axis that is shown."""
    low, high = figure["layout"]["yaxis"].get("range", (-math.inf, math.inf))
    marks = [y for trace in figure["data"] if is_shown(trace) and trace["mode"].endswith("markers") for y in trace["y"]]
    return sum(y < low for y in marks), sum(y > high for y in marks)


def noted(figure: Figure) -> Figure:
    """The figure, with a word at its axis for the marks that lie out of view."""
    below, above = out_of_view(figure)
    told = [
        f"{words.plural(below, 'point lies', 'points lie')} below" if below else "",
        f"{words.plural(above, 'point lies', 'points lie') if not below else above} above" if above else "",
    ]
    if below or above:
        title = figure["layout"]["xaxis"]["title"]
        title["text"] = f"{title['text']}<br>{', '.join(filter(None, told))}"
    return figure


def _in_view(board: Board, entries: Sequence[Entry], measure: Measure) -> list[float]:
    """From the lowest mean to the highest with room for most bands; one wide band would leave all others none."""
    found = [point for entry in entries for point in _points(board, entry, measure)]
    means = [point.y for point in found]
    halves = [(point.high - point.low) / 2 for point in found]
    margin = max(0.06 * (max(means) - min(means)), 1.5 * statistics.median(halves), 0.5)
    return [min(means) - margin, max(means) + margin]


@dataclass(frozen=True)
class _Point:
    """A mean on a curve, in percent; its ends are the mean itself where one seed gives no interval."""

    x: float
    y: float
    low: float
    high: float
    symbol: str
    text: str


def _points(board: Board, entry: Entry, measure: Measure) -> Iterator[_Point]:
    """Every finite mean of an entry."""
    for budget in board.budgets:
        x, interval = board.fraction(budget), measure(entry, budget)
        if x and interval and math.isfinite(interval.mean):
            ends = (interval.mean, interval.mean) if math.isnan(interval.low) else (interval.low, interval.high)
            text = _hover(board, entry, budget, interval)
            symbol = mark_of(entry, entry.cell(budget))
            yield _Point(x, 100 * interval.mean, 100 * ends[0], 100 * ends[1], symbol, text)


def _curve(board: Board, entry: Entry, measure: Measure) -> Iterator[Figure]:
    """The line of an entry (hollow marks where it does not rank) and its band, or a single point with its interval."""
    points = list(_points(board, entry, measure))
    if not points:
        return
    meta = {"colour": colour(board, entry)}
    shared: Figure = {"type": "scatter", "legendgroup": f"{entry.series} {entry.variant}", "meta": meta}
    x = [point.x for point in points]
    line: Figure = {
        **shared, "mode": "lines+markers", "name": escaped(entry.title), "x": x, "y": [point.y for point in points],
        "line": {"width": 2, "dash": "dash" if entry is board.reference else "solid"},
        "marker": {"size": 8, "symbol": [point.symbol for point in points]},
        "text": [point.text for point in points], "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    if len(points) == 1:
        yield {**line, "error_y": {"array": [points[0].high - points[0].y], "thickness": 1.5}}
        return
    yield line
    around = [point.high for point in points] + [point.low for point in reversed(points)]
    yield {**shared, "mode": "lines", "fill": "toself", "x": x + x[::-1], "y": around, "line": {"width": 0},
           "hoverinfo": "skip", "showlegend": False}  # fmt: skip


def _is_whole(board: Board, entry: Entry, budget: str) -> bool:
    return (
        entry.definition.method == "dense" and board.fraction(budget) == 1 and entry.cell(budget).accuracy is not None
    )


def colour(board: Board, entry: Entry) -> str:
    """The custom property that holds an entry's colour; the control has the ink's."""
    return "--ink" if entry is board.reference else f"--series-{entry.series % SERIES}"


def _layout(board: Board, title: str) -> Figure:
    places = [(x, budget) for budget in board.budgets if (x := board.fraction(budget))]
    return {
        "xaxis": {**AXIS, "type": "log", "title": {"text": "parameter budget"},
                  "tickvals": [x for x, _ in places], "ticktext": [escaped(words.budget(budget)) for _, budget in places]},
        "yaxis": {**AXIS, "title": {"text": title}},
        **room(len(board.entries)),
    }  # fmt: skip


def room(entries: int) -> Figure:
    """A legend below the axis, in a place of its own, and height for it: on a phone each name may take a line."""
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    return {"legend": legend, "height": 380 + 14 * min(entries, 40)}


def mark_of(entry: Entry, cell: Cell) -> str:
    """The entry's mark, hollow where it does not rank."""
    mark = (
        "circle"
        if entry.definition.plain == REFERENCE
        else _MARKS[(entry.series + entry.series // SERIES) % len(_MARKS)]
    )
    return mark if cell.rankable and not entry.variant else f"{mark}-open"


def _hover(board: Board, entry: Entry, budget: str, interval: Interval) -> str:
    half = "" if math.isnan(interval.half) else f" ± {words.percent(interval.half)}"
    kind = entry.cell(budget).kind
    lines = [
        f"<b>{escaped(entry.title)}</b>",
        escaped(f"{words.budget(budget)}, {words.count(board.parameters(budget))} parameters"),
        f"{words.percent(interval.mean)}{half}, {words.seeds(interval.n)}",
        *([] if kind == "measured" else [f"{kind}, not ranked"]),
        *([f"not ranked: {lacks}"] if (lacks := entry.cell(budget).lacks) else []),
    ]
    return "<br>".join(lines)


def escaped(text: str) -> str:
    """plotly reads a few tags and entities in its texts; a name is no markup."""
    return html.escape(text if len(text) <= 32 else f"{text[:31]}…", quote=False)


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
