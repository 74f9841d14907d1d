"""Across tasks: mean rank, area under the curve of accuracy, and what is kept of the dense network's accuracy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .board import Board, Entry
from .statistics import Interval, mean_interval

DENSE = "dense"
TELLING_TASKS = 3
"""With fewer tasks a mean rank has no interval."""
KINDS = ("single network", "ensemble", "transformer")
"""What a task trains."""

Name = tuple[str, str]
"""A label and its method: what is one entry across tasks, whose knobs may differ by task."""


@dataclass(frozen=True)
class Across:
    """One entry over all tasks of a scope. Without ``lacks`` it is compared; else it has none of the numbers."""

    label: str
    method: str
    lacks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Tasks by name, with the budgets where it is not ranked; no budgets if it has not one of them."""
    rank: Interval | None = None
    """Over tasks."""
    area: Interval | None = None
    """Over seeds; None where no task has two budgets."""
    kept: Mapping[str, Interval] | None = None
    """By budget, over seeds."""


@dataclass(frozen=True)
class Scope:
    """Some tasks together, and every entry that is ranked in any of them, the compared ones by rank first."""

    title: str
    boards: tuple[Board, ...]
    budgets: Mapping[str, tuple[Board, ...]]
    """The budgets that are compared, from small to large, and in which tasks."""
    entries: tuple[Across, ...]

    @property
    def compared(self) -> tuple[Across, ...]:
        """The entries that lack nothing."""
        return tuple(entry for entry in self.entries if not entry.lacks)


def scopes(boards: Sequence[Board]) -> tuple[Scope, ...]:
    """All tasks together, and each kind of task where there are several.

    Tasks without a ranking are not in them, nor those where nobody has seeds enough, and none that has results under two
    fingerprints: these are two questions, and neither speaks for the task. Nor those of the protocol ``tune``, which reads
    no test images.
    """
    several = ambiguous(boards)
    ranked = [
        board
        for board in boards
        if compared_budgets(board) and not (board.provisional or board.tuning or board.task in several)
    ]
    by_kind = {kind: [board for board in ranked if kind_of(board) == kind] for kind in KINDS}
    kinds = [(kind, found) for kind, found in by_kind.items() if found]
    every = [("all tasks", ranked), *(kinds if len(kinds) > 1 else [])]
    return tuple(scope(title, found) for title, found in every if found)


def ambiguous(boards: Sequence[Board]) -> tuple[str, ...]:
    """Tasks that have test results under more than one fingerprint."""
    times = Counter(board.task for board in boards if not board.tuning)
    return tuple(sorted(task for task, number in times.items() if number > 1))


def kind_of(board: Board) -> str:
    """What a task trains: an ensemble if it has members, a transformer if a network's attention weights are counted."""
    records = [run.record for run in board.runs if run.record]
    members = board.card.get("members")
    if (isinstance(members, (list, tuple)) and len(members) > 1) or any(one.members for one in records):
        return "ensemble"
    return "transformer" if any(one.parameters.get("attention") for one in records) else "single network"


def compared_budgets(board: Board) -> tuple[str, ...]:
    """The budgets with a ranking at which at least half of the entries are ranked that are ranked at any."""
    entries = [entry for entry in board.entries if any(entry.ranked_at(budget) for budget in board.budgets)]
    return tuple(b for b in board.rankings if 2 * sum(entry.ranked_at(b) for entry in entries) >= len(entries))


def scope(title: str, boards: Iterable[Board]) -> Scope:
    """Compare entries over all compared budgets of some tasks."""
    every = tuple(boards)
    cells = [(board, budget) for board in every for budget in compared_budgets(board)]
    budgets: dict[str, tuple[Board, ...]] = {}
    for board, budget in sorted(cells, key=lambda cell: cell[0].fraction(cell[1]) or 0):
        budgets[budget] = (*budgets.get(budget, ()), board)
    found = {board.key: _by_name(board) for board in every}
    names = sorted({name for entries in found.values() for name in entries})
    lacking = {name: tuple(_lacks(every, found, name)) for name in names}
    complete = [name for name in names if not lacking[name]]
    rows = {name: [found[board.key][name] for board in every] for name in complete}
    ranks = {name: _rank(every, rows, name) for name in complete}
    compared = [
        Across(*name, (), ranks[name], _area(every, rows[name]), dict(_kept(every, budgets, rows[name])))
        for name in sorted(complete, key=lambda name: (ranks[name].mean, name))
    ]
    left = [Across(*name, lacking[name]) for name in names if lacking[name]]
    return Scope(title, every, budgets, (*compared, *left))


def _by_name(board: Board) -> dict[Name, Entry]:
    """Entries that are ranked at some budget; a label with several definitions is not."""
    return {
        (entry.label, entry.definition.method): entry
        for entry in board.entries
        if any(entry.ranked_at(budget) for budget in board.budgets)
    }


def _lacks(
    boards: Sequence[Board], found: Mapping[tuple[str, str], Mapping[Name, Entry]], name: Name
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for board in boards:
        entry, budgets = found[board.key].get(name), compared_budgets(board)
        missing = tuple(budget for budget in budgets if entry is None or not entry.ranked_at(budget))
        if missing:
            yield board.name, () if len(missing) == len(budgets) else missing


def _rank(boards: Sequence[Board], rows: Mapping[Name, Sequence[Entry]], name: Name) -> Interval:
    """Its rank among the compared entries: the mean over a task's budgets, then over tasks, with a t interval over tasks."""
    by_task = []
    for number, board in enumerate(boards):
        budgets = compared_budgets(board)
        means = [{other: _mean(entries[number], budget) for other, entries in rows.items()} for budget in budgets]
        by_task.append(math.fsum(_place(one, name) for one in means) / len(means))
    found = mean_interval(by_task)
    if found is None or found.n < TELLING_TASKS:
        return Interval(found.mean if found else math.nan, math.nan, math.nan, len(by_task))
    return Interval(found.mean, max(found.low, 1.0), min(found.high, float(len(rows))), found.n)


def _place(means: Mapping[Name, float], name: Name) -> float:
    """The rank from 1; equal means share the middle of their ranks."""
    above = sum(1 for mean in means.values() if mean > means[name])
    return above + (1 + sum(1 for mean in means.values() if mean == means[name])) / 2


def _mean(entry: Entry, budget: str) -> float:
    interval = entry.cell(budget).accuracy
    return interval.mean if interval else math.nan


def _area(boards: Sequence[Board], entries: Sequence[Entry]) -> Interval | None:
    """Mean height of the curve of accuracy over the logarithm of the budget, seed by seed, then over tasks."""
    curves = [(board, entry) for board, entry in zip(boards, entries, strict=True) if len(compared_budgets(board)) > 1]
    by_task = [_areas(board, entry) for board, entry in curves]
    return _over_seeds(by_task)


def _areas(board: Board, entry: Entry) -> dict[int, float]:
    budgets = compared_budgets(board)
    at = [math.log(board.parameters(budget)) for budget in budgets]
    scores = [entry.cell(budget).scores for budget in budgets]
    seeds = set.intersection(*({*one} for one in scores))
    width = at[-1] - at[0]
    if width <= 0:
        return {}
    return {
        seed: math.fsum((right - left) * (a[seed] + b[seed]) / 2
                        for (left, right), (a, b) in zip(pairwise(at), pairwise(scores), strict=True)) / width
        for seed in seeds
    }  # fmt: skip


def _kept(
    boards: Sequence[Board], budgets: Mapping[str, Sequence[Board]], entries: Sequence[Entry]
) -> Iterator[tuple[str, Interval]]:
    """By budget: accuracy over that of the dense network at its own size, seed by seed, then over tasks that have one."""
    mine = {board.key: entry for board, entry in zip(boards, entries, strict=True)}
    for budget, where in budgets.items():
        shares = []
        for board in where:
            whole, scores = dense_scores(board), mine[board.key].cell(budget).scores
            if whole:
                shares.append(
                    {seed: scores[seed] / whole[seed] for seed in scores.keys() & whole.keys() if whole[seed]}
                )
        if found := _over_seeds(shares):
            yield budget, found


def dense_scores(board: Board) -> Mapping[int, float]:
    """Accuracy by seed of the dense network at its own size; empty if it is not ranked there, or ambiguous."""
    cells = [
        entry.cell(budget).scores
        for entry in board.entries
        for budget in board.budgets
        if entry.definition.method == DENSE and board.fraction(budget) == 1 and entry.ranked_at(budget)
    ]
    return cells[0] if len(cells) == 1 else {}


def _over_seeds(tasks: Sequence[Mapping[int, float]]) -> Interval | None:
    """The mean over tasks of each seed that all have, and of these the mean with its t interval over seeds."""
    seeds = sorted(set.intersection(*({*task} for task in tasks))) if tasks else []
    return mean_interval([math.fsum(task[seed] for task in tasks) / len(tasks) for seed in seeds])
