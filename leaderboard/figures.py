"""Charts as plain plotly JSON: no colours of their own (the style sheet has them, for light and dark) and no network.

``meta.colour`` of a trace names a custom property of the style sheet; ``charts.js`` puts its value in.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

from . import words
from .board import REFERENCE, Board, Cell, Entry

Figure = dict[str, Any]
SERIES = 10
"""How many colours the style sheet has; further entries take them again with other marks."""
_MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star", "cross", "x")
_AXIS = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}


def accuracy_figure(board: Board) -> Figure | None:
    """Accuracy against budget on a logarithmic axis: one curve an entry, with its 95 % band; None if there is no point."""
    entries = sorted(board.entries, key=lambda entry: (entry is not board.reference, entry.label, entry.variant))
    traces = [trace for entry in entries for trace in _curve(board, entry)]
    if not traces:
        return None
    bands = [trace for trace in traces if trace.get("fill")]
    lines = [trace for trace in traces if not trace.get("fill")]
    return {"data": bands + lines, "layout": _layout(board)}


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
        "xaxis": {**_AXIS, "title": {"text": "epoch"}},
        "yaxis": {**_AXIS, "title": {"text": "training loss"}, "rangemode": "tozero"},
        "yaxis2": {**_AXIS, "title": {"text": "learning rate"}, "overlaying": "y", "side": "right", "rangemode": "tozero",
                   "showgrid": False},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "height": 320,
    }  # fmt: skip
    return {"data": [loss, rate], "layout": layout}


def _curve(board: Board, entry: Entry) -> Iterator[Figure]:
    """A line through every cell with a finite mean (hollow where it does not rank), and the band around it."""
    points = [(x, cell) for budget in board.budgets if (x := board.fraction(budget)) and _drawable(cell := entry.cell(budget))]
    if not points:
        return
    x = [fraction for fraction, _ in points]
    intervals = [interval for _, cell in points if (interval := cell.accuracy)]
    means = [100 * interval.mean for interval in intervals]
    lows = [100 * (interval.mean if math.isnan(interval.low) else interval.low) for interval in intervals]
    highs = [100 * (interval.mean if math.isnan(interval.high) else interval.high) for interval in intervals]
    shared = {"type": "scatter", "legendgroup": str(entry.series) + entry.title, "meta": {"colour": colour(board, entry)}}
    yield {
        **shared, "mode": "lines+markers", "name": _escape(entry.title), "x": x, "y": means,
        "line": {"width": 2, **({"dash": "dash"} if entry is board.reference else {})},
        "marker": {"size": 8, "symbol": [_symbol(entry, cell) for _, cell in points]},
        "text": [_hover(board, entry, cell) for _, cell in points], "hovertemplate": "%{text}<extra></extra>",
        **({"error_y": {"array": [high - y for high, y in zip(highs, means, strict=True)], "thickness": 1.5}} if len(x) == 1 else {}),
    }  # fmt: skip
    if len(x) > 1:
        yield {**shared, "mode": "lines", "fill": "toself", "x": x + x[::-1], "y": highs + lows[::-1], "line": {"width": 0},
               "hoverinfo": "skip", "showlegend": False}  # fmt: skip


def colour(board: Board, entry: Entry) -> str:
    """The custom property that holds an entry's colour; the control has the ink's."""
    return "--ink" if entry is board.reference else f"--series-{entry.series % SERIES}"


def _layout(board: Board) -> Figure:
    places = [(x, budget) for budget in board.budgets if (x := board.fraction(budget))]
    return {
        "xaxis": {**_AXIS, "type": "log", "title": {"text": "parameter budget (of the dense network)"},
                  "tickvals": [x for x, _ in places], "ticktext": [_escape(words.budget(budget)) for _, budget in places]},
        "yaxis": {**_AXIS, "title": {"text": "test accuracy (%)"}},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        "height": 480,
    }  # fmt: skip


def _drawable(cell: Cell) -> bool:
    return cell.accuracy is not None and math.isfinite(cell.accuracy.mean)


def _symbol(entry: Entry, cell: Cell) -> str:
    mark = "circle" if entry.definition.method == REFERENCE else _MARKS[entry.series % len(_MARKS)]
    return mark if cell.rankable and not entry.variant else f"{mark}-open"


def _hover(board: Board, entry: Entry, cell: Cell) -> str:
    interval = cell.accuracy
    if interval is None:
        return ""
    half = "" if math.isnan(interval.half) else f" ± {words.percent(interval.half)}"
    where = f"{words.budget(cell.budget)}, {words.count(board.parameters(cell.budget))} parameters"
    state = "" if cell.kind == "measured" else f"<br>{cell.kind}, not ranked"
    return f"<b>{_escape(entry.title)}</b><br>{_escape(where)}<br>{words.percent(interval.mean)}{half} %, {words.seeds(interval.n)}{state}"


def _escape(text: str) -> str:
    """plotly reads a few tags and entities in its texts; a name is no markup."""
    return html.escape(text if len(text) <= 32 else f"{text[:31]}…", quote=False)


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
