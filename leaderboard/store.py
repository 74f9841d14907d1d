"""Results from run directories and from published files. A corrupt one is named, and the others are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from npasbench.errors import RunError, UsageError
from npasbench.running import record as records
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory, RunState

from .published import Published, read_published


class Identity(BaseModel):
    """Which run it is: what record and spec say alike."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    task_fingerprint: str
    label: str
    method: str
    method_version: int
    knobs: dict[str, Any]
    budget: str
    budget_parameters: int
    dense_parameters: int
    seed: int
    fingerprint: str


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


def collect(root: Path) -> Store:
    """Read every run directory below ``root``, and every published file in it.

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
    problems: list[str] = []
    found = [run for folder in folders if (run := _read(RunDirectory(folder), root, problems))]
    found += [run for file in files for run in _published(file, problems)]
    runs, twice = _once(found)
    return Store(tuple(runs), (*problems, *twice))


def spec_of(run: Run) -> dict[str, Any]:
    """What ``spec.json`` holds, as found; empty if it cannot be read."""
    return _json(run.directory.spec_file) if run.directory else {}


def _published(file: Path, problems: list[str]) -> Iterator[Run]:
    for number, line in read_published(file, problems):
        record = line.record
        identity = Identity.model_validate(record.model_dump())
        yield Run(None, f"{file.name}:{number}", identity, record.state, record, correct=line.correct)


def _read(directory: RunDirectory, root: Path, problems: list[str]) -> Run | None:
    where = directory.path.relative_to(root).as_posix()
    if directory.result_file.exists():
        try:
            record = records.read(directory.result_file)
        except (RunError, ValueError, RecursionError) as error:
            sentence = (
                str(error) if isinstance(error, RunError) else f"{directory.result_file} cannot be read: {error}."
            )
            problems.append(sentence)
            return _unfinished(directory, where, sentence, [])
        if not directory.path.name.endswith(record.fingerprint[:8]):
            problems.append(f"{directory.result_file} was copied or renamed: it holds run {record.fingerprint[:8]}.")
        return Run(directory, where, Identity.model_validate(record.model_dump()), record.state, record)
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _once(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Each run once, one with a result and a folder first, and a sentence for each that is there a second time."""
    kept: dict[tuple[str, str], Run] = {}
    problems = []
    for run in sorted(runs, key=lambda run: (run.record is None, run.directory is None, run.where)):
        known = kept.setdefault((run.identity.label, run.identity.fingerprint), run)
        if known is not run and not _copy(run, known):
            problems.append(f"{run.where} is the same run as {known.where}, which is counted. Remove one of the two.")
    return sorted(kept.values(), key=_order), sorted(problems)


def _copy(run: Run, known: Run) -> bool:
    """Whether a published line says what the run directory says: it is expected to be there twice."""
    if run.directory or not known.directory or not run.record or not known.record:
        return False
    return not Published(run.record, None, "").differs(Published(known.record, None, ""))


def _order(run: Run) -> tuple[str, str, int, int, str]:
    one = run.identity
    return one.task, one.label, one.budget_parameters, one.seed, run.where
