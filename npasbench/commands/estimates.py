"""How long runs will take, from what others took: of the same cell, else of the same label, else of the same task."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from npasbench.plan import RunSpec
    from npasbench.running.record import Record

Source = Literal["cell", "label", "task"]
_ENOUGH = 20


@dataclass(frozen=True)
class Estimate:
    """The device-seconds of one run, and whose runs say so."""

    seconds: float
    source: Source


class Measured:
    """What done runs took, below the folder of all runs. Runs that were not planned are read only where they are needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cells: dict[Path, list[float]] = defaultdict(list)
        self._labels: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._tasks: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        self._read: set[Path] = set()
        self._looked: set[str] = set()

    def add(self, spec: RunSpec, record: Record) -> None:
        """Take the result of a planned run."""
        self._read.add(self.root / spec.folder)
        self._cells[spec.cell_folder].append(device_seconds(record))
        self._note(spec, record)

    def estimate(self, spec: RunSpec) -> Estimate | None:
        """What one run of this cell will take; None if no run of the task is done."""
        if own := self._cells.get(spec.cell_folder):
            return Estimate(fmean(own), "cell")
        wider: tuple[tuple[Source, str, Callable[[RunSpec], float | None]], ...] = (
            ("label", f"{spec.label}/*/*", self._of_label),
            ("task", "*/*/*", self._of_task),
        )
        for source, where, seconds_of in wider:
            if seconds_of(spec) is None:
                self._look(spec, where)
            seconds = seconds_of(spec)
            if seconds is not None:
                return Estimate(seconds, source)
        return None

    def _of_label(self, spec: RunSpec) -> float | None:
        """The mean at the budget that is nearest by its ratio."""
        budgets = self._labels.get((spec.task.fingerprint, spec.label))
        if not budgets:
            return None
        return fmean(budgets[min(budgets, key=lambda budget: abs(math.log(budget / spec.budget_parameters)))])

    def _of_task(self, spec: RunSpec) -> float | None:
        total, runs = self._tasks[spec.task.fingerprint]
        return total / runs if runs else None

    def _look(self, spec: RunSpec, where: str) -> None:
        """Read a few results that were not planned."""
        place = f"{spec.task.name}/{where}"
        if place in self._looked:
            return
        self._looked.add(place)
        for record in itertools.islice(self._others(spec, place), _ENOUGH):
            self._note(spec, record)

    def _others(self, spec: RunSpec, where: str) -> Iterator[Record]:
        from npasbench.errors import RunError
        from npasbench.running import record as records

        for file in sorted(self.root.glob(f"{where}/result.json")):
            if file.parent in self._read:
                continue
            self._read.add(file.parent)
            try:
                record = records.read(file)
            except RunError:
                continue
            if record.task_fingerprint == spec.task.fingerprint and device_seconds(record):
                yield record

    def _note(self, spec: RunSpec, record: Record) -> None:
        seconds, task = device_seconds(record), spec.task.fingerprint
        if not seconds:
            return
        self._labels[task, record.label][record.budget_parameters].append(seconds)
        self._tasks[task][0] += seconds
        self._tasks[task][1] += 1


def device_seconds(record: Record) -> float:
    """What a run took, over all attempts and devices; nothing if it was refused or skipped."""
    costs = {name: cost or 0.0 for name, cost in record.costs.items()}
    attempts = costs.get("train_seconds", 0.0) + costs.get("search_seconds", 0.0)
    processes = record.provenance.get("processes", 1)
    return max(costs.get("wall_seconds", 0.0), attempts) * (processes if isinstance(processes, int) else 1)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``, ``250 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
