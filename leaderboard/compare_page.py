"""Two entries of a task side by side: data from which a script draws any pair, and a table of all against the control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from . import words
from .board import Board, Cell, Entry, Ranking
from .comparing import example_pairs
from .details import difference_item
from .figures import AXIS, colour
from .measures import MEASURES
from .names import Names
from .standings import reason
from .statistics import TELLING_SEEDS, Verdict
from .store import Run
from .tables import Column, Item, Link, Part, Plain, Row, Sheet, Table

Shared = dict[tuple[Entry, str], dict[str, Any]]
COSTS = ("parameters", "macs", "train_seconds")
_OTHER_WAY: dict[Verdict, Verdict] = {"higher": "lower", "lower": "higher", "tie": "tie", "too few": "too few"}


@dataclass(frozen=True)
class ComparePage:
    """One task's entries, any two of them."""

    title: str
    name: str
    task: Link
    data: dict[str, Any]
    control: str
    table: Table | None
    """Every entry against the control; None without one."""


def compare_page(board: Board, names: Names) -> ComparePage:
    """A task's page of pairs."""
    control = board.reference
    table = _against(board, names) if control else None
    task = Link(board.title, f"../{names.task(board)}")
    return ComparePage(board.title, board.name, task, _data(board, names), control.title if control else "", table)


def _data(board: Board, names: Names) -> dict[str, Any]:
    most = max((len(cell.scores) for entry in board.entries for cell in entry.cells.values()), default=0)
    shared = _examples(board)
    costs = [measure for measure in MEASURES if measure.key in COSTS]
    return {
        "budgets": [
            {
                "text": words.budget(budget),
                "fraction": board.fraction(budget),
                "parameters": board.parameters(budget),
                "decided": decisions(board, budget),
            }
            for budget in board.budgets
        ],
        "costs": [
            {"title": cost.column.title, "unit": cost.column.small, "digits": cost.digits, "scale": cost.scale} for cost in costs
        ],
        "entries": [_entry(board, entry, names, shared) for entry in board.entries],
        "first": _first(board),
        "quantiles": _quantiles(most),
        "axis": AXIS,
    }  # fmt: skip


def decisions(board: Board, budget: str) -> dict[str, Any]:
    """What the task's page decides of each ``pair`` of entries, with the corrected p, and the ``families`` of tests.

    Keys are the two entries' places on the board, the smaller first: ``"0 3": ["higher", "0.012", 0]`` says that entry 0 is
    higher than entry 3, by a test that is corrected for family 0, all pairs. Family 1 are the comparisons with the control,
    which decide of a pair that it is in. A pair of which one does not rank is not decided.
    """
    ranking = board.rankings.get(budget)
    several = len(ranking.entries) if ranking else 0
    against = [one for entry in board.entries if (one := board.comparison(entry, budget))]
    control = board.reference.title if board.reference else ""
    families = [
        f"all {words.plural(several * (several - 1) // 2, 'pair')}",
        f"{words.plural(max((one.family for one in against), default=0), 'comparison')} with {control}",
    ]
    pairs = dict(_ranked_pairs(board, ranking, budget)) if ranking else {}
    return {"families": families, "pairs": pairs | dict(_control_pairs(board, budget))}


def _ranked_pairs(board: Board, ranking: Ranking, budget: str) -> Iterator[tuple[str, list[Plain]]]:
    ranked = [(place, entry) for place, entry in enumerate(board.entries) if entry in ranking.position]
    above = ranking.decided.above
    for (place, one), (later, other) in combinations(ranked, 2):
        ours, theirs = ranking.position[one], ranking.position[other]
        verdict: Verdict = "higher" if above[ours, theirs] else "lower" if above[theirs, ours] else "tie"
        if len(one.cell(budget).scores.keys() & other.cell(budget).scores.keys()) < TELLING_SEEDS:
            verdict = "too few"
        yield f"{place} {later}", [verdict, words.p(ranking.p(one, other)), 0]


def _control_pairs(board: Board, budget: str) -> Iterator[tuple[str, list[Plain]]]:
    for place, entry in enumerate(board.entries):
        compared = board.comparison(entry, budget)
        if board.reference and compared:
            control = board.entries.index(board.reference)
            verdict = compared.verdict if place < control else _OTHER_WAY[compared.verdict]
            p = "" if compared.corrected is None else words.p(compared.corrected)
            yield f"{min(place, control)} {max(place, control)}", [verdict, p, 1]


def _quantiles(most: int) -> list[float | None]:
    """By number of seeds, how many standard errors half of a 95 % t interval has."""
    from scipy.special import stdtrit

    return [None, None, *(float(stdtrit(n - 1, 0.975)) for n in range(2, most + 1))]


def _first(board: Board) -> list[int]:
    """The pair that is shown at first: who leads at most budgets, and the control."""
    leads = [sum(leader.entry is entry for leader in board.leaders.values()) for entry in board.entries]
    control = board.entries.index(board.reference) if board.reference else 0
    others = [place for place in range(len(board.entries)) if place != control]
    best = max(others, key=lambda place: leads[place], default=control)
    return [best, control]


def _entry(board: Board, entry: Entry, names: Names, shared: Shared) -> dict[str, Any]:
    return {
        "title": entry.title,
        "method": words.plain(entry.definition.method),
        "href": f"../{names.method(entry.definition.method)}",
        "colour": colour(board, entry),
        "cells": [_cell(entry.cell(budget)) | shared.get((entry, budget), {}) for budget in board.budgets],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": cell.kind}
    if cell.scores:
        costs = [measure.value(cell) for measure in MEASURES if measure.key in COSTS]
        return told | {"scores": {str(seed): score for seed, score in cell.scores.items()}, "costs": costs}
    return told | {"reason": reason(cell)}


def _examples(board: Board) -> Shared:
    """How each cell and the control's, or the leader's, predict the same test examples, put together over common seeds."""
    found: Shared = {}
    for budget in board.budgets:
        leader = board.leaders.get(budget)
        anchors = dict.fromkeys(one for one in (board.reference, leader.entry if leader else None) if one)
        runs = {entry: {run.identity.seed: run for run in entry.cell(budget).counted} for entry in board.entries}
        for entry, mine in runs.items():
            tables = {
                str(board.entries.index(other)): table
                for other in anchors
                if other is not entry and (table := _table(mine, runs[other]))
            }
            if tables:
                found[entry, budget] = {"examples": tables}
    return found


def _table(mine: Mapping[int, Run], theirs: Mapping[int, Run]) -> list[int] | None:
    """Examples that both, the first only, the second only and neither predicts right."""
    pairs = [pair for seed in mine if seed in theirs and (pair := example_pairs(mine[seed], theirs[seed]))]
    told = [[pair.both, pair.first_only, pair.second_only, pair.neither] for pair in pairs]
    return [sum(column) for column in zip(*told, strict=True)] if told else None


def _against(board: Board, names: Names) -> Table:
    entries = [entry for entry in board.entries if entry is not board.reference]
    columns = [Column("Entry", text=True)]
    columns += [
        Column(words.budget(one), f"{words.count(board.parameters(one))} parameters", key=one) for one in board.budgets
    ]
    rows = tuple(_row(board, entry, names) for entry in entries)
    sheet = Sheet(
        ("label", "budget", "difference", "low", "high", "common_seeds", "p", "p_corrected", "verdict"),
        tuple(_line(board, entry, budget) for entry in entries for budget in board.budgets),
    )
    caption = (
        "Points of accuracy, mean of the differences seed by seed ± half of the 95 % interval, and the number n of common seeds. "
        "Colours are those of tests corrected for all comparisons made at the budget; the intervals are not."
    )
    return Table(
        "against", caption, tuple(columns), rows, sheet, f"{names.tasks[board.key]}.against.csv", searchable=True
    )


def _row(board: Board, entry: Entry, names: Names) -> Row:
    page = f"../{names.method(entry.definition.method)}"
    head = Item(entry.title, order=entry.title, href=page, swatch=colour(board, entry))
    return Row((head, *(_gap(board, entry, budget) for budget in board.budgets)))


def _gap(board: Board, entry: Entry, budget: str) -> Item:
    item, gap = difference_item(board, entry, budget), board.difference(entry, budget)
    if gap is None:
        kind = entry.cell(budget).kind
        return Item("not run" if kind == "missing" else kind, tone="empty", title=reason(entry.cell(budget)))
    return Item(item.text, order=item.order, spread=item.spread, half=item.half, tone=item.tone, title=item.title,
                small=(Part(f"n {gap.n}"),))  # fmt: skip


def _line(board: Board, entry: Entry, budget: str) -> tuple[Plain, ...]:
    return tuple(_written(board, entry, budget))


def _written(board: Board, entry: Entry, budget: str) -> Iterator[Plain]:
    compared = board.comparison(entry, budget)
    yield from (entry.title, words.plain(budget))
    if compared is None:
        yield from (None,) * 7
        return
    gap = compared.difference
    yield from (gap.mean, gap.low, gap.high, gap.n, compared.p, compared.corrected, compared.verdict)
