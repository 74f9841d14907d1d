"""What differs between two folders of results: which cells became better or worse, and which runs are not the same any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from npasbench.running.verification import Key

from .board import Cell, Definition
from .grouping import boards
from .published import Published
from .quantities import Shift, Verdict, judged, shifts
from .statistics import Interval
from .store import Run, Store

_ENDED = ("measured", "over-budget", "contradictory", "refused", "skipped", "failed", "corrupt")


@dataclass(frozen=True, order=True)
class CellKey:
    """What two cells must have in common to be compared."""

    task: str
    fingerprint: str
    label: str
    definition: Definition
    budget: str


@dataclass(frozen=True)
class Change:
    """A cell in both folders."""

    key: CellKey
    verdict: Verdict
    difference: Interval | None
    """Of accuracy, the second folder's minus the first's, over the seeds that both have."""
    why: str = ""
    shifts: tuple[Shift, ...] = ()
    """What became of everything else that both tell."""


@dataclass(frozen=True)
class Differences:
    """Everything that differs, and what does not."""

    changes: tuple[Change, ...]
    only_a: tuple[CellKey, ...]
    only_b: tuple[CellKey, ...]
    runs: tuple[tuple[Run, Run], ...]
    """Runs of one fingerprint and label with different results: what is repeated should come out the same."""
    problems: tuple[str, ...]

    def number_of(self, verdict: Verdict) -> int:
        """How many cells have a verdict in their accuracy."""
        return sum(change.verdict == verdict for change in self.changes)

    @property
    def shifted(self) -> tuple[tuple[CellKey, Shift], ...]:
        """Everything beside accuracy, cell by cell."""
        return tuple((change.key, shift) for change in self.changes for shift in change.shifts)

    @property
    def worsened(self) -> bool:
        """Whether anything became worse."""
        return bool(self.number_of("worse")) or any(shift.verdict == "worse" for _, shift in self.shifted)


def differences(a: Store, b: Store) -> Differences:
    """Compare two folders of results."""
    ours, theirs = _cells(a), _cells(b)
    both = sorted(ours.keys() & theirs.keys())
    return Differences(
        changes=tuple(_change(key, ours[key], theirs[key]) for key in both),
        only_a=tuple(sorted(ours.keys() - theirs.keys())),
        only_b=tuple(sorted(theirs.keys() - ours.keys())),
        runs=tuple(_contradictions(a.runs, b.runs)),
        problems=(*a.problems, *b.problems),
    )


def _cells(store: Store) -> dict[CellKey, Cell]:
    return {
        CellKey(board.task, board.fingerprint, entry.label, entry.definition, budget): cell
        for board in boards(store.runs)
        for entry in board.entries
        for budget, cell in entry.cells.items()
    }


def _change(key: CellKey, a: Cell, b: Cell) -> Change:
    if a.kind != b.kind:
        return _changed_kind(key, a, b)
    if not a.scores and not b.scores:
        return Change(key, "the same" if a.kind in _ENDED else "undecided", None, a.kind)
    others = tuple(shifts(a, b))
    verdict, interval, why = judged(a.scores, b.scores, more_is_better=True)
    if interval and (lost := len(a.scores.keys() - b.scores.keys())):
        return Change(key, "worse", interval, f"{lost} of {len(a.scores)} seeds are gone", others)
    return Change(key, verdict, interval, why, others)


def _changed_kind(key: CellKey, a: Cell, b: Cell) -> Change:
    """A cell that ended otherwise: to be measured no more is worse, to be measured now is better."""
    why = f"{a.kind}, now {b.kind}"
    if b.kind not in _ENDED or a.kind not in _ENDED:
        return Change(key, "undecided", None, why)
    if a.kind == "measured":
        return Change(key, "worse", None, why)
    return Change(key, "better" if b.kind == "measured" else "undecided", None, why)


def _contradictions(ours: Iterable[Run], theirs: Iterable[Run]) -> Iterable[tuple[Run, Run]]:
    known: dict[Key, Run] = {run.identity.key: run for run in ours if run.record}
    for run in theirs:
        other = known.get(run.identity.key)
        if other and other.record and run.record:
            one, two = (Published(r.record, r.bits, "") for r in (other, run) if r.record)
            if one.differs(two):
                yield other, run
