"""The Pareto front of a task: which cells no other cell beats in both accuracy and cost, by the means over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import words
from .board import Board, Cell, Entry
from .figures import AXIS, Figure, colour, escaped, mark_of, noted, room
from .measures import MEASURES, Measure, mean_item
from .names import Names
from .statistics import Interval
from .tables import Column, Item, Row, Sheet, Table

COSTS = {
    "parameters": ("Count", "trained parameters"),
    "macs": ("MACs", "MACs of one example (millions)"),
    "train_seconds": ("Training time", "training time (s)"),
}
"""What accuracy is weighed against: the measure, the panel's title and the axis."""


@dataclass(frozen=True)
class Point:
    """A cell's mean accuracy and what it cost, in the unit that is shown."""

    entry: Entry
    cell: Cell
    accuracy: Interval
    cost: float


@dataclass(frozen=True)
class ParetoPanel:
    """One cost's chart, and the members of its front."""

    title: str
    key: str
    figure: Figure
    table: Table


def pareto(board: Board, names: Names) -> tuple[ParetoPanel, ...]:
    """A panel for each cost that at least two cells have."""
    panels = []
    for key, (title, _) in COSTS.items():
        figure = pareto_figure(board, key)
        if figure:
            panels.append(ParetoPanel(title, key, figure, _table(board, key, names)))
    return tuple(panels)


def points(board: Board, key: str, entries: Sequence[Entry] = ()) -> list[Point]:
    """Every cell with a finite mean and a positive cost, in the board's order."""
    measure = measure_of(key)
    found = []
    for entry in entries or board.entries:
        for budget in board.budgets:
            cell = entry.cell(budget)
            mean, cost = cell.accuracy, measure.value(cell)
            if mean and cost and math.isfinite(mean.mean) and math.isfinite(cost) and cost > 0:
                found.append(Point(entry, cell, mean, cost * measure.scale))
    return found


def front(found: Iterable[Point]) -> tuple[Point, ...]:
    """The cheapest first, each with a higher mean than all that cost no more. What does not rank is left out."""
    ranked = [one for one in found if one.entry.ranked_at(one.cell.budget)]
    kept: list[Point] = []
    for one in sorted(ranked, key=lambda one: (one.cost, -one.accuracy.mean, one.entry.label)):
        if not kept or one.accuracy.mean > kept[-1].accuracy.mean:
            kept.append(one)
    return tuple(kept)


def measure_of(key: str) -> Measure:
    """A column of the cost table by its key."""
    return next(measure for measure in MEASURES if measure.key == key)


def pareto_figure(board: Board, key: str, entries: Sequence[Entry] = ()) -> Figure | None:
    """The front as steps with its members named, and faint marks for what is dominated; None with fewer than two points."""
    found = points(board, key, entries)
    if len(found) < 2:
        return None
    best = front(found)
    # Points of the front are drawn with their entry too, so that a name in the legend stands for all of its marks.
    traces = [trace for entry in entries or board.entries if (trace := _marks(board, entry, found, best))]
    if best:
        traces.insert(0, _steps(best))
        traces.append(_labels(best))
    values, texts = _ticks([one.cost for one in found])
    layout = {
        "xaxis": {**AXIS, "type": "log", "title": {"text": COSTS[key][1]}, "tickvals": values, "ticktext": texts},
        "yaxis": {**AXIS, "title": {"text": f"{board.score} (%)"}, **_in_view(best)},
        **room(len(entries or board.entries)),
    }
    return noted({"data": traces, "layout": layout})


def _ticks(costs: Sequence[float]) -> tuple[list[float], list[str]]:
    """1, 2 and 5 times powers of ten from the last below the costs to the first above."""
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    every = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    first = max((at for at, tick in enumerate(every) if tick <= min(costs)), default=0)
    last = min((at for at, tick in enumerate(every) if tick >= max(costs)), default=len(every) - 1)
    kept = every[first : last + 1]
    return kept, [_short(tick) for tick in kept]


def _short(tick: float) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if tick >= s), (1.0, ""))
    return f"{tick / scale:g}{unit}"


def _in_view(best: Sequence[Point]) -> Figure:
    """Accuracies around the front; what lies far below it would leave it no room."""
    if not best:
        return {}
    low, high = 100 * best[0].accuracy.mean, 100 * best[-1].accuracy.mean
    room_left = max(0.12 * (high - low), 2.0)
    return {"range": [low - 1.5 * room_left, high + room_left]}


def _marks(board: Board, entry: Entry, found: Sequence[Point], best: Sequence[Point]) -> Figure | None:
    # The legend shows the first mark.
    mine = sorted((one for one in found if one.entry is entry), key=lambda one: one not in best)
    if not mine:
        return None
    marker = {
        "symbol": [mark_of(entry, one.cell) for one in mine],
        "size": [9 if one in best else 7 for one in mine],
        "opacity": [1 if one in best else 0.32 for one in mine],
        "line": {"width": 0},
    }
    return {
        "type": "scatter", "mode": "markers", "name": escaped(entry.title), "legendgroup": f"{entry.series} {entry.variant}",
        "meta": {"colour": colour(board, entry)}, "x": [one.cost for one in mine], "marker": marker,
        "y": [100 * one.accuracy.mean for one in mine], "text": [_hover(one) for one in mine],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _steps(best: Sequence[Point]) -> Figure:
    return {
        "type": "scatter", "mode": "lines", "name": "front", "meta": {"colour": "--muted"}, "hoverinfo": "skip",
        "x": [one.cost for one in best], "y": [100 * one.accuracy.mean for one in best],
        "line": {"shape": "hv", "width": 1.5}, "legendgroup": "front",
    }  # fmt: skip


def _labels(best: Sequence[Point]) -> Figure:
    """Names below and right of the front, where by its nature nothing better can stand; a step's neighbours alternate."""
    return {
        "type": "scatter", "mode": "markers+text", "showlegend": False, "meta": {"colour": "--ink"}, "hoverinfo": "skip",
        "legendgroup": "front", "x": [one.cost for one in best], "y": [100 * one.accuracy.mean for one in best],
        "text": [escaped(f"{one.entry.title} {words.budget(one.cell.budget)}") for one in best],
        "textposition": ["top left" if place % 2 else "bottom right" for place in range(len(best))],
        "marker": {"size": 12, "opacity": 0}, "textfont": {"size": 11},
    }  # fmt: skip


def _hover(one: Point) -> str:
    half = "" if math.isnan(one.accuracy.half) else f" ± {words.percent(one.accuracy.half)}"
    return "<br>".join(
        [
            f"<b>{escaped(one.entry.title)}</b>, {escaped(words.budget(one.cell.budget))}",
            f"{words.percent(one.accuracy.mean)}{half}, {words.seeds(one.accuracy.n)}",
            f"at {words.number(one.cost, 0 if one.cost >= 1000 else 2)}",
            *([] if one.entry.ranked_at(one.cell.budget) else ["not ranked"]),
        ]
    )


def _table(board: Board, key: str, names: Names) -> Table:
    measure = measure_of(key)
    rows = tuple(_row(board, one, measure, names) for one in front(points(board, key)))
    columns = (
        Column("Entry", text=True),
        Column("Budget"),
        measure.column,
        Column("Accuracy", "%"),
        Column("n", "seeds"),
    )
    return Table("front", "The front, the cheapest first; means over seeds ± half of the 95 % interval.", columns, rows,
                 Sheet((), ()))  # fmt: skip


def _row(board: Board, one: Point, measure: Measure, names: Names) -> Row:
    href = f"../{names.cell(board, one.entry, one.cell)}"
    return Row(
        (
            Item(one.entry.title, order=one.entry.title, href=href, swatch=colour(board, one.entry)),
            Item(words.budget(one.cell.budget), order=board.parameters(one.cell.budget)),
            measure.item(one.cell),
            mean_item(one.accuracy, 2, 100),
            Item(str(one.accuracy.n), order=one.accuracy.n),
        )
    )
