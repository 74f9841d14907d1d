"""Results from run directories and from published files. A corrupt one is named, and the others are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from npasbench.card import Card
from npasbench.errors import RunError, UsageError
from npasbench.running import record as records
from npasbench.running.reading import bounded, fault_in, read_json
from npasbench.running.record import AddOns, Count, Fingerprint, Free, Label, Record, Seed, Title
from npasbench.running.rundir import RunDirectory, RunState
from npasbench.running.verification import STATES, Key, Verified, digest, read_states

from .judging import judge
from .merging import once
from .published import Published, bits_of, read_published


class Identity(BaseModel):
    """Which run it is: what record and spec say alike."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: Title
    task_fingerprint: Fingerprint
    label: Label
    method: Title
    method_version: Count
    knobs: Free
    addons: AddOns = ()
    budget: Title
    budget_parameters: Count
    dense_parameters: Count
    seed: Seed
    fingerprint: Fingerprint

    @classmethod
    def of(cls, record: Record) -> Identity:
        """What a record says of it, which was checked when that was read."""
        return cls.model_construct(**{name: getattr(record, name) for name in cls.model_fields})

    @property
    def key(self) -> Key:
        """What a run is known by: two labels of one definition are two rows of a table."""
        return self.label, self.fingerprint


@dataclass(frozen=True)
class Run:
    """One run: which it is, how far it came, and its record if there is one."""

    directory: RunDirectory | None
    """None if all there is of it is a line in a published file."""
    where: str
    """The directory below the folder of all runs, or file and line; unique."""
    identity: Identity
    state: RunState
    record: Record | None = None
    error: str = ""
    """Why it failed or cannot be read, in a sentence."""
    correct: str | None = None
    """Of a published run, its packed correctness bits in Base64."""
    verified: str = STATES[0]
    """How far ``npasbench verify`` came with exactly this record: submitted, re-evaluated or re-run."""
    digest: str = ""
    """Of a published run, of its line."""
    card: Card | None = None
    """The one it was made under, where that is known."""
    fault: str = ""
    """How its record contradicts itself; then it counts nowhere."""

    @property
    def outcome(self) -> RunState | Literal["contradictory"]:
        """How far it came, in one word; a record that contradicts itself says nothing else."""
        return "contradictory" if self.fault else self.state

    @property
    def bits(self) -> str | None:
        """Its packed correctness bits in Base64; None if it left none."""
        return bits_of(self.directory) if self.directory else self.correct

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy on the test set, 0 to 1."""
        return self.record.metrics.get("accuracy") if self.record else None

    @property
    def trial(self) -> bool:
        """Whether it ran from a tree with uncommitted changes."""
        return self.record is not None and self.record.trial


@dataclass(frozen=True)
class Store:
    """All runs below a folder in a fixed order, and a sentence for each thing that is wrong there."""

    runs: tuple[Run, ...]
    problems: tuple[str, ...]


def collect(*roots: Path) -> Store:
    """Read every run directory below the ``roots``, and every published file in them; a root may be such a file itself.

    Two results of one run that contradict each other are named, and neither counts; nor does a record that contradicts itself.

    Raises:
        UsageError: if a folder is not there, or holds no run.
    """
    problems: list[str] = []
    found: list[Run] = []
    for root in dict.fromkeys(roots):
        runs = everything(root, problems)
        folder = root.parent if root.is_file() else root
        found += [replace(run, where=str(folder / run.where)) for run in runs] if len(roots) > 1 else runs
    runs, twice = once(found)
    judged, contradictions = judge(sorted(runs, key=_order))
    return Store(tuple(judged), (*problems, *twice, *contradictions))


def places(root: Path) -> tuple[list[Path], list[Path]]:
    """The run directories below a folder, and the published files in it.

    Raises:
        UsageError: if there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UsageError(
            f"There is no folder '{root}'. Run something first ('npasbench quickstart'), or name your runs' folder."
        )
    folders = sorted({path.parent for name in ("spec.json", "result.json") for path in root.glob(f"*/*/*/*/{name}")})
    files = [] if RunDirectory(root).spec_file.exists() else sorted(root.glob("*.jsonl"))
    if not folders and not files:
        raise UsageError(
            f"There are no runs in '{root}'; expected <task>/<label>/<budget>/seed<k>-<fingerprint>/ or <task>.jsonl in it. "
            "Run something first ('npasbench quickstart'), or name your runs' folder."
        )
    return folders, files


def everything(root: Path, problems: list[str]) -> list[Run]:
    """Every run of one folder or published file, those that are there twice too, with how far it was verified.

    Raises:
        UsageError: as :func:`collect`.
    """
    if root.is_file() and root.suffix == ".jsonl":
        found, folder = [*_published(root, root.parent, problems)], root.parent
    else:
        folders, files = places(root)
        found = [
            *_directories(folders, root, problems),
            *(one for file in files for one in _published(file, root, problems)),
        ]
        folder = root
    states = read_states(folder)
    return [
        replace(run, verified=known.state) if (known := states.get(run.identity.key)) and _is_meant(run, known) else run
        for run in found
    ]


def line(run: Run) -> str:
    """A finished run as a published line; what ``verification.json`` says is of exactly this one."""
    return Published(run.record, run.bits, "").text if run.record else ""


def one_directory(path: Path, problems: list[str]) -> list[Run]:
    """A single run directory."""
    if fault := fault_in(path, path):
        problems.append(fault)
        return []
    run = _read(RunDirectory(path), path, problems)
    return [replace(run, where=str(path))] if run else []


def _is_meant(run: Run, known: Verified) -> bool:
    if known.state == STATES[0] or run.record is None:
        return False
    return digest(line(run)) == known.digest


def _directories(folders: list[Path], root: Path, problems: list[str]) -> Iterator[Run]:
    outside: dict[Path, bool] = {}
    for folder in folders:
        levels = (folder, label := folder.parent.parent, label.parent, folder.parent)
        if any(_leads_out(level, root, outside) for level in levels):
            problems.append(f"{folder} leads out of {root} and is left out. Put a copy in its place.")
        elif fault := fault_in(folder, root):
            problems.append(fault)
        elif run := _read(RunDirectory(folder), root, problems):
            yield run


def _leads_out(folder: Path, root: Path, known: dict[Path, bool]) -> bool:
    if folder not in known:
        known[folder] = folder.is_symlink() and not folder.resolve().is_relative_to(root.resolve())
    return known[folder]


def spec_of(run: Run) -> dict[str, Any]:
    """What ``spec.json`` holds, as found; empty if it cannot be read."""
    return _json(run.directory.spec_file) if run.directory else {}


def _published(file: Path, root: Path, problems: list[str]) -> Iterator[Run]:
    if file.is_symlink() and not file.resolve().is_relative_to(root.resolve()):
        problems.append(f"{file} leads out of {root} and is left out. Put a copy in its place.")
        return
    for number, line in read_published(file, problems):
        record = line.record
        yield Run(
            None,
            f"{file.name}:{number}",
            Identity.of(record),
            record.state,
            record,
            correct=line.correct,
            digest=line.digest,
        )


def _read(directory: RunDirectory, root: Path, problems: list[str]) -> Run | None:
    where = directory.path.relative_to(root).as_posix()
    if directory.result_file.exists():
        try:
            record = records.read(directory.result_file)
        except RunError as error:
            problems.append(str(error))
            return _unfinished(directory, where, str(error), [])
        if not directory.path.name.endswith(record.fingerprint[:8]):
            problems.append(f"{directory.result_file} was copied or renamed: it holds run {record.fingerprint[:8]}.")
        return Run(directory, where, Identity.of(record), record.state, record)
    return _unfinished(directory, where, "", problems)


def _unfinished(directory: RunDirectory, where: str, error: str, problems: list[str]) -> Run | None:
    """A run without a readable result: what its spec says, or None and a problem if there is no reading that either."""
    spec = _json(directory.spec_file)
    card = spec.get("task")
    try:
        identity = Identity.model_validate({**spec, "task": card.get("name") if isinstance(card, dict) else None})
    except ValidationError:
        problems.append(f"{directory.spec_file} cannot be read. Remove the folder and run again.")
        return None
    state: RunState = "corrupt" if error else directory.state()
    failure = _json(directory.failure_file).get("error", "failed without a word") if state == "failed" else ""
    return Run(directory, where, identity, state, error=error or str(failure))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = bounded(read_json(path))
    except (RunError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _order(run: Run) -> tuple[str, str, int, int, str]:
    one = run.identity
    return one.task, one.label, one.budget_parameters, one.seed, run.where
