"""Who can be told from whom at a budget: one family of all pairs, from which letters and rank intervals follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .comparing import LEVEL, Floats, joint_tests, scores_table

Table = NDArray[np.bool_]
MOST_LETTERS = 26
"""Where so many groups do not do, nobody has a letter; ranks are told all the same."""
_MOST_TRIED = 10 * MOST_LETTERS


@dataclass(frozen=True)
class Place:
    """Where an entry stands among those ranked at a budget."""

    letters: str
    """It shares a letter with exactly those that it cannot be told from. None if more than 26 letters were needed."""
    first: int
    """The best rank that the test leaves open to it, from 1: one more than the entries told to be above."""
    last: int
    """The worst one."""


@dataclass(frozen=True, eq=False)
class Decided:
    """The decisions on all pairs of some entries, by their position in the order of their means."""

    p: Floats
    """``[entries, entries]``: corrected for all pairs, 1 on the diagonal."""
    above: Table
    """``[entries, entries]``: whether the row's entry is told to be above the column's."""
    places: tuple[Place, ...]

    def apart(self, one: int, other: int) -> bool:
        """Whether two entries can be told apart."""
        return bool(self.above[one, other] or self.above[other, one])


def decide(scores: Sequence[Mapping[int, float]]) -> Decided:
    """Decide all pairs of entries, given by their accuracies by seed, the highest mean first.

    The best is picked from the very numbers that are tested, so its comparisons stand for all pairs, and correcting only for
    as many as there are others would raise too many false alarms. The family is all pairs; the chance that any two that
    are equal are told apart is at most 5 %.
    """
    p, above = _tested(scores)
    apart = above | above.T
    letters = _letters(apart)
    first, last = 1 + above.sum(axis=0), len(scores) - above.sum(axis=1)
    places = tuple(Place(*each) for each in zip(letters, map(int, first), map(int, last), strict=True))
    return Decided(p, above, places)


def _tested(scores: Sequence[Mapping[int, float]]) -> tuple[Floats, Table]:
    size = len(scores)
    values = scores_table(scores)
    rows, columns = np.triu_indices(size, 1)
    differences = values[:, rows] - values[:, columns]
    p, above = np.ones((size, size)), np.zeros((size, size), dtype=bool)
    if not differences.size:
        return p, above
    p[rows, columns] = p[columns, rows] = joint_tests(differences)
    told = p[rows, columns] <= LEVEL
    higher = np.nansum(differences, axis=0) > 0
    above[rows, columns], above[columns, rows] = told & higher, told & ~higher
    return p, above


def _letters(apart: Table) -> list[str]:
    """A letter for each of some groups in which nobody is told from anybody; together they hold every such pair."""
    groups = sorted(_needed(_groups(apart), len(apart)))
    if len(groups) > MOST_LETTERS:
        return [""] * len(apart)
    return [
        "".join(chr(65 + number) for number, group in enumerate(groups) if entry in group)
        for entry in range(len(apart))
    ]


def _groups(apart: Table) -> list[list[int]]:
    """Each pair that cannot be told apart and is in no group yet begins one, which takes in whom it can, in order."""
    together = ~apart
    covered = np.zeros_like(apart)
    groups: list[list[int]] = []
    for one in range(len(apart)):
        while (open_ := np.flatnonzero(together[one] & ~covered[one])).size and len(groups) <= _MOST_TRIED:
            group = _grown(together, sorted({one, int(open_[-1])}))
            covered[np.ix_(group, group)] = True
            groups.append(group)
    return groups


def _needed(groups: list[list[int]], size: int) -> list[list[int]]:
    """The groups without those of which each pair is in another one too."""
    times = np.zeros((size, size), dtype=int)
    for group in groups:
        times[np.ix_(group, group)] += 1
    kept = []
    for group in sorted(groups, key=len):
        if times[np.ix_(group, group)].min() > 1:
            times[np.ix_(group, group)] -= 1
        else:
            kept.append(group)
    return kept


def _grown(together: Table, group: list[int]) -> list[int]:
    free: Table = np.asarray(together[group].all(axis=0))
    free[group] = False
    while free.any():
        chosen = int(free.argmax())
        group.append(chosen)
        free &= together[chosen]
        free[chosen] = False
    return sorted(group)
