"""Which entries charts show at first, and have a colour of their own, where there are more entries than colours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from .board import Board, Entry

SERIES: Final = 10
"""How many colours the style sheet has; further entries take them again with other marks."""


def numbered(board: Board) -> Board:
    """The board with the series of its labels: first those that charts show, then the others, last the control."""
    control = board.reference.label if board.reference else ""
    labels = list(dict.fromkeys(entry.label for entry in board.entries if entry.label != control))
    first = labels if len(labels) <= SERIES else sorted(_highest(board, control))
    order = dict.fromkeys([*first, *labels, control])
    series = {label: number for number, label in enumerate(order)}
    return replace(board, entries=tuple(replace(entry, series=series[entry.label]) for entry in board.entries))


def is_prominent(board: Board, entry: Entry) -> bool:
    """Whether charts show it without being asked."""
    return entry is board.reference or entry.series < SERIES


def at_first(board: Board) -> str:
    """A sentence that says which entries charts show at first; empty if all."""
    shown = sum(is_prominent(board, entry) for entry in board.entries)
    if shown == len(board.entries):
        return ""
    control = " and the control" if board.reference else ""
    return f"Of {len(board.entries)} entries, those with the highest means{control} are shown at first."


def _highest(board: Board, control: str) -> list[str]:
    """At each budget in turn, the largest first, whoever has the next highest mean; what is not ranked comes last."""
    others = [entry for entry in board.entries if entry.label != control]
    orders = [iter(sorted(others, key=lambda entry: _behind(entry, budget))) for budget in reversed(board.budgets)]
    chosen: list[str] = []
    while len(chosen) < SERIES:
        for order in orders:
            following = next((entry.label for entry in order if entry.label not in chosen), None)
            if following is not None and len(chosen) < SERIES:
                chosen.append(following)
    return chosen


def _behind(entry: Entry, budget: str) -> tuple[bool, float]:
    accuracy = entry.cell(budget).accuracy
    mean = accuracy.mean if accuracy and math.isfinite(accuracy.mean) else -math.inf
    return not entry.ranked_at(budget), -mean
