"""What is missing of planned runs, cell by cell, the largest gaps first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from npasbench.commands.estimates import Estimate, Measured
from npasbench.plan import RunSpec
from npasbench.registry import Registry, source_hash
from npasbench.running.progress import progress
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory

_ENDED = ("done", "refused", "skipped", "over-budget")


@dataclass
class Cell:
    """All seeds of one method at one budget."""

    spec: RunSpec
    states: Counter[str] = field(default_factory=Counter)
    missing: float = 0.0
    """Runs without a result, one that was begun by what is left of it."""
    estimate: Estimate | None = None

    @property
    def open(self) -> int:
        """Runs without a result."""
        return sum(number for state, number in self.states.items() if state not in _ENDED)

    @property
    def seconds_left(self) -> float | None:
        """The device-seconds of what is missing; None if nobody knows."""
        if not self.open:
            return 0.0
        return None if self.estimate is None else self.estimate.seconds * self.missing

    @property
    def gap(self) -> tuple[bool, float, int]:
        """Sorts largest first: of what nobody knows how long it takes, then by time."""
        return self.seconds_left is not None, -(self.seconds_left or 0.0), -self.open


@dataclass(frozen=True)
class Gaps:
    """Of planned runs, how all cells stand; ``stale`` lists labels whose method's source has changed since."""

    runs: int
    cells: list[Cell]
    stale: list[str]

    @property
    def states(self) -> Counter[str]:
        """Runs by state."""
        total: Counter[str] = Counter()
        for cell in self.cells:
            total.update(cell.states)
        return total

    @property
    def unknown(self) -> dict[str, int]:
        """Open runs by task of which none is done."""
        found: Counter[str] = Counter()
        for cell in self.cells:
            if cell.seconds_left is None:
                found[cell.spec.task.name] += cell.open
        return found

    @property
    def seconds_left(self) -> float | None:
        """The device-seconds of all that is missing and can be estimated; None if nothing that is missing can."""
        open_ = [cell.seconds_left for cell in self.cells if cell.open]
        known = [seconds for seconds in open_ if seconds is not None]
        return sum(known) if known or not open_ else None


def find_gaps(specs: Sequence[RunSpec], runs: Path) -> Gaps:
    """How all runs stand and what is missing; every result is read once."""
    cells: dict[Path, Cell] = {}
    measured, there, stale = Measured(runs), _Folders(runs), set()
    sources: dict[str, str | None] = {}
    for spec in specs:
        cell = cells.setdefault(spec.cell_folder, Cell(spec))
        directory = RunDirectory.of(runs, spec)
        state, record = directory.standing() if there.has(spec) else ("waiting", None)
        cell.states[state] += 1
        if record is not None:
            measured.add(spec, record)
            if _changed(spec, record, sources):
                stale.add(spec.label)
        elif state in ("running", "interrupted"):
            cell.missing += 1 - progress(directory).part
        else:
            cell.missing += 1
    for cell in cells.values():
        if cell.open:
            cell.estimate = measured.estimate(cell.spec)
    return Gaps(len(specs), sorted(cells.values(), key=lambda cell: cell.gap), sorted(stale))


def _changed(spec: RunSpec, record: Record, sources: dict[str, str | None]) -> bool:
    """Whether the method or an add-on has another source now than when a run was done; ``sources`` keeps what is now."""
    registry, then = Registry(spec.plugins), record.provenance.get("addons")
    told = {spec.method: record.provenance.get("method_source")}
    if spec.method not in sources:
        sources[spec.method] = source_hash(registry.method(spec.method))
    for one in spec.addons:
        if one.name not in sources:
            sources[one.name] = source_hash(registry.addon(one.name))
        known = then.get(one.name) if isinstance(then, dict) else None
        told[one.name] = known.get("source") if isinstance(known, dict) else None
    return any(source != sources[name] for name, source in told.items())


class _Folders:
    """Which run directories exist: one look into each cell's folder instead of one for each run."""

    def __init__(self, root: Path) -> None:
        self._root, self._of_cell = root, dict[Path, frozenset[str]]()

    def has(self, spec: RunSpec) -> bool:
        folder = spec.folder
        cell = folder.parent
        if cell not in self._of_cell:
            try:
                self._of_cell[cell] = frozenset(path.name for path in (self._root / cell).iterdir())
            except OSError:
                self._of_cell[cell] = frozenset()
        return folder.name in self._of_cell[cell]
