"""The tables of entries across tasks: those that have every cell compared, and those that lack some, with what they lack."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from . import words
from .across import TELLING_TASKS, Across, Scope
from .names import Names
from .statistics import Interval
from .tables import Column, Item, Part, Plain, Row, Sheet, Table

RANK = "its rank by mean accuracy among the entries compared here, averaged over a task’s budgets and then over tasks"
AREA = "its mean test accuracy over the logarithm of the budget, from the smallest budget compared to the largest (trapezoids)"
KEPT = "its accuracy as a share of that of the dense network at its own size on the same seed"
DEFINITIONS = (
    ("Mean rank", f"{RANK}."),
    ("Area", f"{AREA}; 100 would be no error at any budget."),
    (
        "Kept",
        f"{KEPT}. Area and kept are averaged over tasks seed by seed; their 95 % t intervals are over the n seeds that all "
        "of them have.",
    ),
)


@dataclass(frozen=True)
class ScopeView:
    """One comparison across tasks."""

    title: str
    table: Table
    lacking: Table | None
    """Entries that are not compared, with what they lack."""
    left: str
    """How many those are."""


def scope_view(scope: Scope, names: Names) -> ScopeView:
    """Both tables of a scope."""
    name = scope.title.replace(" ", "-")
    lacking = [entry for entry in scope.entries if entry.lacks]
    tasks = words.plural(len(scope.boards), "task")
    left = f"Not ranked here for lack of budgets: {words.plural(len(lacking), 'entry', 'entries')}"
    table = _compared(scope, names, f"across-{name}.csv")
    return ScopeView(
        f"{scope.title.capitalize()} ({tasks})", table, _lacking(lacking, names) if lacking else None, left
    )


def _compared(scope: Scope, names: Names, csv: str) -> Table:
    budgets = [
        budget for budget in scope.budgets if any(entry.kept and budget in entry.kept for entry in scope.compared)
    ]
    columns = (
        Column("Entry", text=True),
        Column("Mean rank", f"of {len(scope.compared)}", RANK),
        Column("Area", "%", AREA),
        *(Column(f"Kept at {words.budget(b)}", words.plural(len(scope.budgets[b]), "task"), KEPT) for b in budgets),
    )
    rows = tuple(_row(entry, budgets, names) for entry in scope.compared)
    sheet = Sheet(tuple(_heads([*scope.budgets])), tuple(tuple(_line(one, [*scope.budgets])) for one in scope.entries))
    return Table("across", _caption(scope), columns, rows, sheet, csv)


def _caption(scope: Scope) -> str:
    n = len(scope.boards)
    if n < TELLING_TASKS:
        return f"{words.plural(n, 'task').capitalize()}: too few for an interval of the mean rank."
    return (
        f"Below the mean rank its 95 % Student t interval over the {n} tasks, cut off at the first and the last rank."
    )


def _row(entry: Across, budgets: list[str], names: Names) -> Row:
    kept = entry.kept or {}
    rank = entry.rank
    title = words.plain(entry.label)
    head = Item(title, order=title, href=names.method(entry.method))
    place = Item(words.MISSING)
    if rank:
        ends = () if math.isnan(rank.low) else (Part(f"[{words.number(rank.low, 1)}, {words.number(rank.high, 1)}]"),)
        place = Item(words.number(rank.mean, 2), order=rank.mean, small=ends)
    return Row((head, place, _share(entry.area), *(_share(kept.get(budget)) for budget in budgets)))


def _share(interval: Interval | None) -> Item:
    if interval is None:
        return Item(words.MISSING)
    half = "" if math.isnan(interval.half) else f"± {words.percent(interval.half)}"
    small = (Part(f"n {interval.n}", title=words.seeds(interval.n)),)
    return Item(
        words.percent(interval.mean), order=interval.mean, spread=half, small=small, title=words.seeds(interval.n)
    )


def _lacking(entries: list[Across], names: Names) -> Table:
    rows = tuple(
        Row(
            (
                Item(words.plain(entry.label), order=entry.label, href=names.method(entry.method)),
                Item(lacks(entry), tone="prose"),
            )
        )
        for entry in entries
    )
    columns = (Column("Entry", text=True), Column("Is not ranked at", text=True))
    return Table("lacking", "", columns, rows, Sheet((), ()))


def lacks(entry: Across) -> str:
    """``0.02× and 0.05× of one task; all of another``."""
    return "; ".join(
        f"{words.listed(map(words.budget, budgets)) if budgets else 'any budget'} of {task}"
        for task, budgets in entry.lacks
    )


def _heads(budgets: list[str]) -> Iterator[str]:
    yield from (
        "label",
        "method",
        "mean_rank",
        "rank_low",
        "rank_high",
        "tasks",
        "area",
        "area_low",
        "area_high",
        "area_seeds",
    )
    for budget in budgets:
        kept = f"kept_{words.plain(budget)}"
        yield from (kept, f"{kept}_low", f"{kept}_high", f"{kept}_seeds")
    yield "not_ranked_at"


def _line(entry: Across, budgets: list[str]) -> Iterator[Plain]:
    yield from (words.plain(entry.label), words.plain(entry.method))
    for interval in (entry.rank, entry.area, *((entry.kept or {}).get(budget) for budget in budgets)):
        yield from (interval.mean, interval.low, interval.high, interval.n) if interval else (None,) * 4
    yield lacks(entry)
