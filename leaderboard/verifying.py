"""Verifying results: which records there are, what is checked of each, and how far each is verified then."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.errors import CardError, NpasbenchError, RunError, UsageError
from npasbench.running.reading import short
from npasbench.running.record import Record
from npasbench.running.record_checks import Check, check_record
from npasbench.running.verification import STATES, State, Verified, digest, write_states

from . import store
from .merging import once
from .store import Run

if TYPE_CHECKING:
    from npasbench.card import Card
    from npasbench.plan import RunSpec
    from npasbench.running.repeating import Here

_BEFORE_REPEATING = ("fingerprint", "task", "budget", "counts")
"""What must agree before anything is built from a record: budgets and knobs decide how much memory that takes."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for."""

    retrain: int = 0
    seed: int = 0
    tasks: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    device: str | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class Subject:
    """One record, and what was found about it."""

    run: Run
    record: Record
    checks: tuple[Check, ...]

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return any(check.outcome == "differs" for check in self.checks)

    @property
    def state(self) -> State | None:
        """How far it is verified; None if something differs."""
        if self.differs:
            return None
        agree = {check.name for check in self.checks if check.outcome == "agrees"}
        return STATES[2] if "training" in agree else STATES[1] if "weights" in agree else STATES[0]

    def outcome(self, name: str) -> str:
        """What was found by one check."""
        return next((check.outcome for check in self.checks if check.name == name), "not checked")


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    subjects: tuple[Subject, ...]
    problems: tuple[str, ...]
    unfinished: int
    """Runs without a result."""
    short_of: int = 0
    """How many runs fewer were trained again than was wished, since no more can be."""

    @property
    def differing(self) -> tuple[Subject, ...]:
        """Records of which something differs."""
        return tuple(one for one in self.subjects if one.differs)


def verify_results(path: Path, wishes: Wishes) -> Report:
    """Check every record at a path, and train some again.

    Raises:
        UsageError: if there is nothing to verify, or the wishes cannot be met.
        NpasbenchError: if a card cannot be read, or data are missing that training needs.
    """
    problems: list[str] = []
    runs = _runs(path, problems)
    cards, around = Cards(wishes.tasks), _Around(wishes)
    subjects = [_checked(run, run.record, cards, around) for run in runs if run.record]
    if wishes.retrain:
        subjects, missing = _retrained(subjects, cards, around, wishes)
    else:
        missing = 0
    unfinished = sum(run.record is None and run.state != "corrupt" for run in runs)
    return Report(tuple(subjects), tuple(problems), unfinished, missing)


def written(report: Report, path: Path, out: Path | None) -> Path | None:
    """Where ``verification.json`` was written: in ``out``, or beside the results; nowhere for a single run directory.

    Raises:
        WriteError: if it cannot be.
    """
    folder = out or (path.parent if path.is_file() else None if _is_directory_of_a_run(path) else path)
    if folder is None:
        return None
    found: dict[tuple[str, str], Verified] = {}
    for one in report.subjects:
        if one.state is None:
            continue
        new = Verified(one.state, digest(store.line(one.run)))
        known = found.get(one.run.identity.key)
        if known is None or STATES.index(new.state) > STATES.index(known.state):
            found[one.run.identity.key] = new
    gone = [one.run.identity.key for one in report.differing]
    return write_states(folder, {key: one for key, one in found.items() if key not in gone}, gone)


class Cards:
    """The cards that results may be of: those that the user names, and those installed."""

    def __init__(self, files: Sequence[str]) -> None:
        from npasbench.card import read_card
        from npasbench.registry import Registry

        self._given = [read_card(Path(file)) for file in files]
        self._registry = Registry()
        self._installed: dict[str, Card | None] = {}

    def of(self, record: Record) -> Card | None:
        """The card of a record's fingerprint; else one of its task's name."""
        candidates = [one for one in (*self._given, self._named(record.task)) if one]
        exact = [one for one in candidates if one.fingerprint == record.task_fingerprint]
        named = [one for one in candidates if one.name == record.task]
        return next(iter([*exact, *named]), None)

    def _named(self, name: str) -> Card | None:
        from npasbench.card import Card

        if name not in self._installed:
            try:
                known = name in self._registry.names(Card)
                self._installed[name] = self._registry.card(name) if known else None
            except CardError:
                self._installed[name] = None
        return self._installed[name]


@dataclass(frozen=True)
class _Around:
    """Where results are made again; torch is imported when one is."""

    wishes: Wishes
    specs: dict[str, RunSpec | str] = field(default_factory=dict)

    @cached_property
    def here(self) -> Here:
        import torch

        from npasbench.commands.working import pick_devices
        from npasbench.data import data_root
        from npasbench.running.repeating import Here

        device = torch.device(pick_devices(self.wishes.device)[0])
        return Here(device, data_root(self.wishes.data_root), self.wishes.plugins)

    def spec(self, record: Record, card: Card) -> RunSpec:
        """The run that a record is of. Raises as :func:`~npasbench.running.repeating.spec_from`."""
        from npasbench.running.repeating import spec_from

        return spec_from(record, card, self.here)


def _runs(path: Path, problems: list[str]) -> list[Run]:
    """Every run at a path, those that are there twice too; contradictions among them are problems."""
    if path.is_file() and path.suffix != ".jsonl":
        raise UsageError(f"{path} is no file of published results. Name one (*.jsonl), or a folder of runs or results.")
    runs = store.one_directory(path, problems) if _is_directory_of_a_run(path) else store.everything(path, problems)
    problems += once(runs)[1]
    return runs


def _is_directory_of_a_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("result.json", "spec.json"))


def _checked(run: Run, record: Record, cards: Cards, around: _Around) -> Subject:
    """A record with everything but training."""
    from npasbench.running.repeating import packed

    correct, card = packed(run.bits), cards.of(record)
    spec, checks = _spec(run)
    checks += check_record(record, correct, card, spec)
    subject = Subject(run, record, tuple(checks))
    if run.directory is None or not run.directory.model_file.exists():
        return subject
    return replace(subject, checks=(*checks, _weights(subject, card, correct, around)))


def _spec(run: Run) -> tuple[RunSpec | None, list[Check]]:
    """What ``spec.json`` says, where there is one."""
    if run.directory is None or not run.directory.spec_file.exists():
        return None, []
    try:
        return run.directory.spec(), []
    except RunError as error:
        return None, [Check("spec", "differs", short(error, 300))]


def _weights(subject: Subject, card: Card | None, correct: bytes | None, around: _Around) -> Check:
    from npasbench.running.repeating import reevaluate

    if (why := _not_repeatable(subject)) or card is None or subject.run.directory is None:
        return Check("weights", "not checked", why)
    try:
        spec = around.spec(subject.record, card)
    except NpasbenchError as error:
        return Check("weights", "not checked", short(error, 300))
    return reevaluate(subject.run.directory, subject.record, spec, correct, around.here)


def _not_repeatable(subject: Subject) -> str:
    """Why nothing is built from a record; nothing if it may be."""
    wrong = [name for name in _BEFORE_REPEATING if subject.outcome(name) != "agrees"]
    return f"its {wrong[0]} does not agree with the card" if wrong else ""


def _retrained(subjects: list[Subject], cards: Cards, around: _Around, wishes: Wishes) -> tuple[list[Subject], int]:
    """Train some runs again: drawn by the seed from those that can be, each run once."""
    from npasbench.commands.working import check_data
    from npasbench.running.repeating import packed, retrain

    order = sorted(
        {one.record.fingerprint: one for one in reversed(subjects)}.values(), key=lambda one: one.record.fingerprint
    )
    random.Random(wishes.seed).shuffle(order)
    chosen: list[tuple[Subject, RunSpec]] = []
    for one in order:
        card = cards.of(one.record)
        if len(chosen) == wishes.retrain or card is None or one.record.state != "done" or _not_repeatable(one):
            continue
        try:
            chosen.append((one, around.spec(one.record, card)))
        except NpasbenchError:
            continue
    check_data([spec for _, spec in chosen], around.here.data_root)
    with tempfile.TemporaryDirectory(prefix="npasbench-verify-") as folder:
        work = [(one.record, packed(one.run.bits), spec) for one, spec in chosen]
        checks = retrain(work, around.here, Path(folder), workers=1) if work else []
    found = {one.record.fingerprint: check for (one, _), check in zip(chosen, checks, strict=True)}
    again = [
        replace(one, checks=(*one.checks, found[one.record.fingerprint])) if one.record.fingerprint in found else one
        for one in subjects
    ]
    return again, wishes.retrain - len(chosen)
