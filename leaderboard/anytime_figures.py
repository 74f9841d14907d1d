"""Anytime curves: what subsets of an ensemble's members reach, against what a prediction by them costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from . import words
from .board import Board, Entry
from .ensembles import Cost, Prediction, envelope
from .figures import AXIS, Figure, colour, escaped, mark_of, room
from .statistics import Interval

Found = Sequence[tuple[Entry, Sequence[Prediction]]]
"""The entries that have numbers at a budget, and their predictions."""
_NAMES_IN_A_LINE = 3
_NAMES_AT_ALL = 12


def anytime_figure(board: Board, budget: str, found: Found, cost: Cost) -> Figure | None:
    """All subsets as small marks and their upper envelope as steps with its 95 % band; None if nothing has the cost."""
    traces = [trace for entry, every in found for trace in _entry(board, entry, budget, every, cost)]
    if not traces:
        return None
    ordered = sorted(traces, key=lambda trace: ("fill" not in trace, trace["mode"] != "markers" or "name" in trace))
    layout = {
        "xaxis": {**AXIS, "title": {"text": cost.axis}},
        "yaxis": {**AXIS, "title": {"text": f"{board.score} (%)"}},
        **room(len(found)),
    }
    return {"data": ordered, "layout": layout}


def _entry(board: Board, entry: Entry, budget: str, every: Sequence[Prediction], cost: Cost) -> Iterator[Figure]:
    best = envelope(every, cost)
    if not best:
        return
    shared: Figure = {
        "type": "scatter", "legendgroup": f"{entry.series} {entry.variant}", "meta": {"colour": colour(board, entry)},
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    prices = [price for one in every if (price := cost.of(one)) is not None and math.isfinite(one.accuracy.mean)]
    yield from _marks(shared, entry, [one for one in every if one not in best], cost)
    yield from _steps(shared, board, entry, budget, best, max(prices), cost)


def _marks(shared: Figure, entry: Entry, others: Sequence[Prediction], cost: Cost) -> Iterator[Figure]:
    """The subsets below the envelope."""
    drawn = [(price, one) for one in others if (price := cost.of(one)) is not None and math.isfinite(one.accuracy.mean)]
    if drawn:
        yield {
            **shared, "mode": "markers", "showlegend": False, "opacity": 0.45, "marker": {"size": 5, "symbol": "circle"},
            "x": [price for price, _ in drawn], "y": [100 * one.accuracy.mean for _, one in drawn],
            "text": [_hover(entry, one, cost) for _, one in drawn],
        }  # fmt: skip


def _steps(
    shared: Figure, board: Board, entry: Entry, budget: str, best: Sequence[Prediction], last: float, cost: Cost
) -> Iterator[Figure]:
    """The envelope, which goes on to the most expensive subset, and its band; one mark with its interval if all cost alike."""
    prices = [cost.of(one) or 0.0 for one in best]
    means = [100 * one.accuracy.mean for one in best]
    mark = mark_of(entry, entry.cell(budget))
    line: Figure = {
        **shared, "mode": "lines+markers", "name": escaped(entry.title), "x": prices, "y": means,
        "line": {"width": 2, "shape": "hv", "dash": "dash" if entry is board.reference else "solid"},
        "marker": {"size": 8, "symbol": mark}, "text": [_hover(entry, one, cost) for one in best],
    }  # fmt: skip
    if last == prices[0]:
        reach = [100 * _ends(one.accuracy)[1] - mean for one, mean in zip(best, means, strict=True)]
        bars = {"error_y": {"array": reach, "thickness": 1.5}} if any(reach) else {}
        yield {**line, "mode": "markers", **bars}
        return
    if last > prices[-1]:
        # With sizes of their own plotly would make them faint and outlined bubbles.
        sizes = [8] * len(best) + [0]
        line |= {
            "x": [*prices, last],
            "y": [*means, means[-1]],
            "marker": {"size": sizes, "symbol": mark, "opacity": 1, "line": {"width": 0}},
        }
        line["text"] = [*line["text"], line["text"][-1]]
    yield line
    yield _band(shared, best, [*prices, last])


def _band(shared: Figure, best: Sequence[Prediction], prices: Sequence[float]) -> Figure:
    """The 95 % intervals as steps: each from its price to the next."""
    x = [price for start, end in pairwise(prices) for price in (start, end)]
    low, high = ([100 * _ends(one.accuracy)[end] for one in best for _ in "ab"] for end in (0, 1))
    quiet = {key: value for key, value in shared.items() if key != "hovertemplate"}
    return {**quiet, "mode": "lines", "fill": "toself", "x": x + x[::-1], "y": high + low[::-1], "line": {"width": 0},
            "hoverinfo": "skip", "showlegend": False}  # fmt: skip


def _ends(interval: Interval) -> tuple[float, float]:
    """The interval's ends; the mean itself where one seed gives none."""
    return (interval.mean, interval.mean) if math.isnan(interval.low) else (interval.low, interval.high)


def _hover(entry: Entry, one: Prediction, cost: Cost) -> str:
    half = "" if math.isnan(one.accuracy.half) else f" ± {words.percent(one.accuracy.half)}"
    lines = [
        f"<b>{escaped(entry.title)}</b>",
        *_members(one),
        f"{words.number(cost.of(one), cost.digits)} {cost.unit}",
        f"{words.percent(one.accuracy.mean)}{half}, {words.seeds(one.accuracy.n)}",
    ]
    return "<br>".join(lines)


def _members(one: Prediction) -> Iterator[str]:
    """How many members, and their names in short lines."""
    if not one.members:
        yield "all at once"
        return
    yield f"{len(one.members)} of {words.plural(one.of, 'member')}:"
    names = [escaped(name) for name in one.members[:_NAMES_AT_ALL]]
    names += ["…"] if len(one.members) > _NAMES_AT_ALL else []
    yield from (" + ".join(names[at : at + _NAMES_IN_A_LINE]) for at in range(0, len(names), _NAMES_IN_A_LINE))
