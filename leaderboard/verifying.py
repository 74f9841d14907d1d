"""Verifying results: which records there are, what is checked of each, and how far each is verified then."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.errors import NpasbenchError, RunError, UsageError
from npasbench.running.reading import short
from npasbench.running.record import Record
from npasbench.running.record_checks import Check, check_record
from npasbench.running.verification import STATES, State, Verified, digest, write_states

from . import store
from .doubts import doubts
from .known_cards import Cards
from .lots import Lots, draw, lines_at, unforeseen
from .merging import once
from .store import Run

if TYPE_CHECKING:
    from npasbench.card import Card
    from npasbench.plan import RunSpec
    from npasbench.running.rebuilding import Builder
    from npasbench.running.repeating import Here

_BEFORE_REPEATING = ("fingerprint", "task", "budget", "counts")
"""What must agree before anything is built from a record: budgets and knobs decide how much memory that takes."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for."""

    retrain: int = 0
    draw_seed: str = ""
    """Decides which runs are trained again; without one a new one is made."""
    new_since: Path | None = None
    """Results of which none is trained again."""
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
    doubts: tuple[str, ...] = ()
    """What is no fault, and still asks for a second look."""
    lots: Lots | None = None
    """How it was decided what is trained again, where anything is."""

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
    known = lines_at(wishes.new_since) if wishes.new_since else frozenset[str]()
    runs = _runs(path, problems)
    cards, around = Cards(wishes.tasks), _Around(wishes)
    subjects = [_checked(run, run.record, cards, around) for run in runs if run.record]
    lots = None
    if wishes.retrain:
        subjects, lots = _retrained(subjects, cards, around, known)
    unfinished = sum(run.record is None and run.state != "corrupt" for run in runs)
    doubtful = doubts([(one.run, one.record) for one in subjects], cards.of)
    return Report(tuple(subjects), tuple(problems), unfinished, tuple(doubtful), lots)


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


@dataclass(frozen=True)
class _Around:
    """Where results are made again; torch is imported when one is."""

    wishes: Wishes
    unable: dict[str, str] = field(default_factory=dict)

    @cached_property
    def here(self) -> Here:
        import torch

        from npasbench.commands.working import pick_devices
        from npasbench.data import data_root
        from npasbench.running.repeating import Here

        device = torch.device(pick_devices(self.wishes.device)[0])
        return Here(device, data_root(self.wishes.data_root), self.wishes.plugins)

    @cached_property
    def builder(self) -> Builder:
        from npasbench.running.rebuilding import Builder

        return Builder()

    def spec(self, record: Record, card: Card) -> RunSpec:
        """The run that a record is of. Raises as :func:`~npasbench.running.repeating.spec_from`."""
        from npasbench.running.repeating import spec_from

        return spec_from(record, card, self.here)

    def fault(self, record: Record, card: Card) -> str:
        """Why no spec can be had; asked once for all seeds of a cell."""
        key = _cell(record)
        if key not in self.unable:
            try:
                self.spec(record, card)
                self.unable[key] = ""
            except NpasbenchError as error:
                self.unable[key] = short(error, 300)
        return self.unable[key]


def _cell(record: Record) -> str:
    """What all seeds of a cell have in common."""
    decides = [record.task_fingerprint, record.method, record.method_version, record.knobs, record.budget]
    return json.dumps([*decides, [one.model_dump() for one in record.addons]], sort_keys=True)


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
    subject = replace(subject, checks=(*checks, *_network(subject, card, around)))
    if run.directory is None or not run.directory.model_file.exists():
        return subject
    return replace(subject, checks=(*subject.checks, _weights(subject, card, correct, around)))


def _network(subject: Subject, card: Card | None, around: _Around) -> list[Check]:
    """The network as it is built today, unless none was built then, or something else says no already."""
    record = subject.record
    if record.state not in ("done", "over-budget") or card is None or _not_repeatable(subject):
        return []
    if fault := around.fault(record, card):
        return [Check("network", "not checked", fault)]
    return [around.builder.check(record, _cell(record), lambda: around.spec(record, card))]


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


def _retrained(
    subjects: list[Subject], cards: Cards, around: _Around, known: frozenset[str]
) -> tuple[list[Subject], Lots]:
    """Train some runs again: drawn by the seed from those that can be."""
    from npasbench.commands.working import check_data
    from npasbench.running.repeating import packed, retrain

    wishes, by_run = around.wishes, {one.run.where: one for one in subjects}

    def unable(run: Run, record: Record) -> str:
        card = cards.of(record)
        if record.state != "done":
            return f"it was {record.state}"
        return _not_repeatable(by_run[run.where]) or (around.fault(record, card) if card else "no card of its task")

    every = [(one.run, one.record) for one in subjects]
    lots = draw(every, wishes.retrain, wishes.draw_seed or unforeseen(), known, unable)
    first = {one.record.fingerprint: one for one in reversed(subjects)}
    chosen = [first[fingerprint] for fingerprint in lots.drawn]
    specs = [around.spec(one.record, card) for one in chosen if (card := cards.of(one.record))]
    check_data(specs, around.here.data_root)
    with tempfile.TemporaryDirectory(prefix="npasbench-verify-") as folder:
        work = [(one.record, packed(one.run.bits), spec) for one, spec in zip(chosen, specs, strict=True)]
        checks = retrain(work, around.here, Path(folder), workers=1) if work else []
    found = dict(zip(lots.drawn, checks, strict=True))
    again = [
        replace(one, checks=(*one.checks, found[one.record.fingerprint])) if one.record.fingerprint in found else one
        for one in subjects
    ]
    return again, lots
