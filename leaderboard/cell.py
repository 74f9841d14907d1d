"""All seeds of one entry at one budget: which of its runs count, and what keeps it out of a ranking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from . import words
from .statistics import TELLING_SEEDS, Interval, mean_interval
from .store import Run

Kind = Literal[
    "measured",
    "trial",
    "over-budget",
    "contradictory",
    "refused",
    "skipped",
    "failed",
    "corrupt",
    "running",
    "waiting",
    "missing",
]
_LOST = {
    "failed": "failed", "refused": "refused", "skipped": "skipped", "corrupt": "unreadable", "contradictory": "contradictory",
}  # fmt: skip
"""Ends without a number that counts, as they are called."""


@dataclass(frozen=True, eq=False)
class Cell:
    """All seeds of one entry at one budget. Its numbers come from ``counted``, and from nothing else."""

    budget: str
    runs: tuple[Run, ...]
    seeds: tuple[int, ...] = ()
    """Those that the task's card names; none if the card is not known."""
    needed: int = TELLING_SEEDS
    """With how many of them it is ranked."""

    @cached_property
    def kind(self) -> Kind:
        """What the cell is, the most telling state of its runs first."""
        states = {run.outcome for run in self.runs}
        if "over-budget" in states:
            return "over-budget"
        if "done" in states:
            return "measured" if any(run.outcome == "done" and not run.trial for run in self.runs) else "trial"
        order: tuple[Kind, ...] = ("contradictory", "refused", "skipped", "failed", "corrupt", "running")
        return next((kind for kind in order if kind in states), "waiting" if states else "missing")

    @cached_property
    def counted(self) -> tuple[Run, ...]:
        """The runs that the numbers come from: clean ones of the card's seeds; others only where there is nothing else."""
        finished = [run for run in self.runs if run.outcome in ("done", "over-budget") and run.accuracy is not None]
        clean = [run for run in finished if not run.trial] if self.kind == "measured" else finished
        return tuple([run for run in clean if self.asked(run)] or clean)

    def asked(self, run: Run) -> bool:
        """Whether a run's seed is the card's; any is where the card is not known."""
        return not self.seeds or run.identity.seed in self.seeds

    @cached_property
    def unasked(self) -> int:
        """How many finished runs do not count since their seeds are not the card's."""
        finished = [run for run in self.runs if run.outcome in ("done", "over-budget")]
        return 0 if len(self.counted) == len(finished) else sum(not self.asked(run) for run in finished)

    @cached_property
    def scores(self) -> dict[int, float]:
        """Accuracy by seed."""
        return {run.identity.seed: run.accuracy for run in self.counted if run.accuracy is not None}

    @cached_property
    def accuracy(self) -> Interval | None:
        """Mean accuracy with its interval."""
        return mean_interval(list(self.scores.values()))

    def metric(self, name: str) -> Interval | None:
        """Mean of another metric with its interval."""
        values = [run.record.metrics.get(name) for run in self.counted if run.record]
        return mean_interval([value for value in values if value is not None])

    @cached_property
    def breaches(self) -> int:
        """How many counted runs have a certificate that failed."""
        return sum(
            1 for run in self.counted if run.record and run.record.certificate and not run.record.certificate.passed
        )

    @cached_property
    def rankable(self) -> bool:
        """Measured on a clean tree within the budget, certified, finite, with enough of the card's seeds and none lost."""
        return self.kind == "measured" and not self.breaches and not self.lacks

    @cached_property
    def lacks(self) -> str:
        """Why a measured cell is not ranked, by its seeds: ``2 of 10 seeds failed``; nothing if they are in order."""
        if self.kind != "measured" or self.accuracy is None:
            return ""
        every = len(self.seeds) or len(self.runs)
        if lost := self.lost:
            told = [f"{number} {_LOST[outcome]}" for outcome, number in lost.items()]
            first, *more = told
            number, said = first.split(" ", 1)
            return ", ".join([f"{number} of {words.seeds(every)} {said}", *more])
        n = sum(self.asked(run) for run in self.counted)
        if n < self.needed:
            return (
                f"{n} of {words.seeds(len(self.seeds))}" if self.seeds else f"{words.seeds(n)} of {self.needed} needed"
            )
        return "" if math.isfinite(self.accuracy.mean) else "not a number"

    @cached_property
    def lost(self) -> dict[str, int]:
        """How many of the card's seeds ended without a number that counts, by how they ended."""
        ends = [run.outcome for run in self.runs if self.asked(run)]
        return {outcome: ends.count(outcome) for outcome in _LOST if outcome in ends}

    def number_of(self, outcome: str) -> int:
        """How many runs ended so."""
        return sum(1 for run in self.runs if run.outcome == outcome)
