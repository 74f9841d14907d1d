"""What a task's results are made of: a board holds entries (a label under one definition), an entry cells (one a budget)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from . import words
from .cell import Cell as Cell
from .cell import Kind as Kind
from .comparing import Comparison, against
from .statistics import TELLING_SEEDS, Interval
from .store import Identity, Run
from .ties import Decided, Place, decide

REFERENCE = "narrow"
"""The method that every sharing method must beat: the same architecture with fewer channels."""


@dataclass(frozen=True, order=True)
class Definition:
    """What runs must have in common to be averaged."""

    method: str
    version: int
    knobs: str
    """Canonical JSON."""
    addons: str = "[]"
    """The same, of what goes with the method."""

    @classmethod
    def of(cls, run: Run) -> Definition:
        """The definition that a run was made under."""
        identity = run.identity
        addons = json.dumps([one.as_json() for one in identity.addons], sort_keys=True)
        return cls(identity.method, identity.method_version, json.dumps(identity.knobs, sort_keys=True), addons)

    @property
    def plain(self) -> str:
        """The method's name, if nothing goes with it."""
        return self.method if self.addons == "[]" else ""

    @property
    def settings(self) -> dict[str, Any]:
        """Knobs by name, and each add-on's under ``with NAME``."""
        return {**json.loads(self.knobs), **{f"with {one['name']}": one["knobs"] for one in json.loads(self.addons)}}


@dataclass(frozen=True, eq=False)
class Entry:
    """One row: a label under one definition. ``variant`` counts from 1 where a label has several, and is 0 otherwise."""

    label: str
    definition: Definition
    cells: Mapping[str, Cell]
    variant: int = 0
    series: int = 0
    """Which colour of the charts it has."""

    @property
    def title(self) -> str:
        """The label, with the definition's number where there are several."""
        name = words.plain(self.label)
        return f"{name} (definition {self.variant})" if self.variant else name

    def cell(self, budget: str) -> Cell:
        """The cell at a budget, empty if nothing ran there."""
        return self.cells.get(budget) or Cell(budget, ())

    def ranked_at(self, budget: str) -> bool:
        """Whether the cell takes part in a ranking; an entry whose label is ambiguous does not."""
        return not self.variant and self.cell(budget).rankable


@dataclass(frozen=True, eq=False)
class Leader:
    """The highest mean at a budget and those that cannot be told from it."""

    entry: Entry
    tied: tuple[Entry, ...]
    told: bool
    """Whether the leader has enough seeds to be told from anybody."""
    few: tuple[Entry, ...] = ()
    """Those of the tied that have too few seeds in common with it to be told."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The entries ranked at a budget, the highest mean first, and what can be told of each pair of them."""

    entries: tuple[Entry, ...]
    decided: Decided

    @cached_property
    def position(self) -> dict[Entry, int]:
        """Where each stands, from 0."""
        return {entry: number for number, entry in enumerate(self.entries)}

    def place(self, entry: Entry) -> Place | None:
        """Letters and open ranks; None if it is not ranked here."""
        return self.decided.places[self.position[entry]] if entry in self.position else None

    def p(self, one: Entry, other: Entry) -> float | None:
        """The p of a pair, corrected for all pairs; None unless both are ranked here."""
        both = one in self.position and other in self.position
        return float(self.decided.p[self.position[one], self.position[other]]) if both else None

    def tied(self, entry: Entry) -> tuple[Entry, ...]:
        """The others that it is not told to be above of."""
        above = self.decided.above[self.position[entry]]
        return tuple(other for number, other in enumerate(self.entries) if other is not entry and not above[number])


@dataclass(frozen=True, eq=False)
class Board:
    """All entries that were run on one task under one fingerprint; boards are never mixed."""

    task: str
    fingerprint: str
    card: Mapping[str, Any]
    budgets: tuple[str, ...]
    entries: tuple[Entry, ...]
    notices: tuple[str, ...]
    provisional: bool = False
    """Whether no entry has seeds enough to be ranked. Then those with the fewest that make an interval stand in a ranking
    that tells nothing."""

    @property
    def key(self) -> tuple[str, str]:
        """Name and fingerprint."""
        return self.task, self.fingerprint

    @property
    def name(self) -> str:
        """The task's name, fit to be shown."""
        return words.plain(self.task)

    @property
    def title(self) -> str:
        """The card's title, or the name."""
        return words.plain(self.card.get("title") or self.task)

    @property
    def seeds(self) -> int:
        """How many seeds the card asks for; 0 if unknown."""
        seeds = self.card.get("seeds")
        return len(seeds) if isinstance(seeds, (list, tuple)) else 0

    @property
    def tuning(self) -> bool:
        """Whether the card's protocol is ``tune``: then no number is a test result."""
        data = self.card.get("data")
        return isinstance(data, Mapping) and data.get("protocol") == "tune"

    @property
    def score(self) -> str:
        """What its accuracies are, in words."""
        return "accuracy on held-out training images" if self.tuning else "test accuracy"

    @property
    def runs(self) -> Iterator[Run]:
        """Every run of this board."""
        return (run for entry in self.entries for cell in entry.cells.values() for run in cell.runs)

    @cached_property
    def reference(self) -> Entry | None:
        """The entry that differences refer to; None if there is none, or more definitions than one under its label."""
        narrow = [entry for entry in self.entries if entry.definition.plain == REFERENCE and not entry.variant]
        return min(narrow, key=lambda entry: (entry.label != REFERENCE, entry.label), default=None)

    @cached_property
    def _resolved(self) -> dict[str, Identity]:
        return {run.identity.budget: run.identity for run in reversed(list(self.runs))}

    def parameters(self, budget: str) -> int:
        """How many parameters a budget allows."""
        return self._resolved[budget].budget_parameters

    def fraction(self, budget: str) -> float | None:
        """The budget over the dense network's count; None if a record claims a dense network without parameters."""
        resolved = self._resolved[budget]
        return resolved.budget_parameters / resolved.dense_parameters if resolved.dense_parameters > 0 else None

    def difference(self, entry: Entry, budget: str) -> Interval | None:
        """Paired difference to the reference on common seeds; None for the reference itself and where there is none."""
        compared = self.comparison(entry, budget)
        return compared.difference if compared else None

    def comparison(self, entry: Entry, budget: str) -> Comparison | None:
        """The same with its test, corrected over all comparisons with the reference at this budget.

        What is not ranked counts among them for itself alone: nobody's trial changes what is said of another.
        """
        return self._comparisons.get((entry, budget))

    @cached_property
    def _comparisons(self) -> dict[tuple[Entry, str], Comparison]:
        if self.reference is None:
            return {}
        found: dict[tuple[Entry, str], Comparison] = {}
        for budget in self.budgets:
            control = self.reference.cell(budget)
            every = [entry for entry in self.entries if self._comparable(entry.cell(budget), control)]
            ranked = [entry for entry in every if entry.ranked_at(budget)]
            for family in (every, ranked) if len(ranked) < len(every) else (every,):
                compared = against(control.scores, [entry.cell(budget).scores for entry in family])
                found |= {(entry, budget): one for entry, one in zip(family, compared, strict=True) if one}
        return found

    def _comparable(self, ours: Cell, control: Cell) -> bool:
        """A trial result may be held against a clean control, a clean result never against a trial one."""
        return ours is not control and (control.kind == "measured" or control.kind == ours.kind == "trial")

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """The ranking at each budget that has one: where at least two entries are ranked."""
        return {budget: ranking for budget in self.budgets if (ranking := self._ranking(budget))}

    @cached_property
    def leaders(self) -> dict[str, Leader]:
        """The leader and its ties at each budget that has a ranking."""
        return {budget: _leader(budget, ranking) for budget, ranking in self.rankings.items()}

    def place(self, entry: Entry, budget: str) -> Place | None:
        """An entry's letters and open ranks at a budget; None where it is not ranked."""
        ranking = self.rankings.get(budget)
        return ranking.place(entry) if ranking else None

    def standing(self, entry: Entry, budget: str) -> Literal["leader", "tied", ""]:
        """Whether an entry leads at a budget, or cannot be told from the leader."""
        leader = self.leaders.get(budget)
        if leader is None:
            return ""
        return "leader" if entry is leader.entry else "tied" if entry in leader.tied else ""

    def _ranking(self, budget: str) -> Ranking | None:
        ranked = sorted(
            (entry for entry in self.entries if entry.ranked_at(budget)), key=lambda entry: -_mean(entry, budget)
        )
        if len(ranked) < 2:
            return None
        return Ranking(tuple(ranked), decide([entry.cell(budget).scores for entry in ranked]))


def _leader(budget: str, ranking: Ranking) -> Leader:
    best = ranking.entries[0]
    seeds = best.cell(budget).scores.keys()
    tied = ranking.tied(best)
    few = tuple(one for one in tied if len(seeds & one.cell(budget).scores.keys()) < TELLING_SEEDS)
    return Leader(best, tied, len(seeds) >= TELLING_SEEDS, few)


def _mean(entry: Entry, budget: str) -> float:
    interval = entry.cell(budget).accuracy
    return interval.mean if interval else -math.inf
