"""Finding a run by a part of its name, and the files of the jobs that worked on it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from npasbench.cluster.batch import find_batches
from npasbench.commands.wording import plural
from npasbench.errors import UsageError
from npasbench.running.rundir import RunDirectory, find_runs

_NAMED = 5
_BELOW = ("spec.json", "*/spec.json", "*/*/spec.json", "*/*/*/spec.json")
"""Where a run's spec lies below the run, its budget, its label and its task."""
_JOB = re.compile(r" claimed by process .*, job (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """A run: its name is its folder relative to the folder of all runs."""

    root: Path
    name: str

    @property
    def directory(self) -> RunDirectory:
        """Its directory, which is not there before somebody begins it."""
        return RunDirectory(self.root / self.name)


def find_run(given: str, root: Path) -> Found:
    """The run whose folder this is, or the one below ``root``, begun or submitted, whose name has this part.

    Raises:
        UsageError: if there is none, naming the nearest, or if there are several.
    """
    path = Path(given).resolve()
    if (path / "spec.json").is_file() and len(path.parents) > 3:
        return Found(path.parents[3], path.relative_to(path.parents[3]).as_posix())
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}. Name the folder of all runs with --runs.")
    names = {directory.path.relative_to(root).as_posix() for directory in find_runs(root)}
    names |= {run for batch in find_batches(root) for job in batch.jobs for run in job.runs}
    part = path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else given.strip("/")
    fitting = _fitting(part, sorted(names)) or _fitting(given.strip("/"), sorted(names))
    if len(fitting) == 1:
        return Found(root, fitting[0])
    if not names:
        raise UsageError(f"There is no run in {root} yet. Name another folder of runs with --runs.")
    if not fitting:
        raise UsageError(f"There is no run '{given}' in {root}. The nearest: {_some(_nearest(part, names))}.")
    raise UsageError(
        f"'{given}' is a part of {plural(len(fitting), 'run')} in {root}: {_some(fitting)}. Name more of it."
    )


def check_folder(root: Path) -> None:
    """See that this is the folder of all runs, with a run that was begun or submitted.

    Raises:
        UsageError: if it is not, naming the one that it is a part of, or that lies in it, where there is such.
    """
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}. Name the folder of all runs, or start some with 'npasbench run'.")
    if find_runs(root) or find_batches(root):
        return
    for above, pattern in enumerate(reversed(_BELOW)):
        part_of = root.resolve().parents[above : above + 1]
        if part_of and any(root.glob(pattern)):
            raise UsageError(f"{root} is only a part of the folder of all runs. Name that: {part_of[0]}")
    inside = root / "runs"
    hint = str(inside) if inside.is_dir() and find_runs(inside) else "the folder of all runs"
    raise UsageError(f"There is no run in {root}. Name {hint}, or start some with 'npasbench run'.")


def files_of_jobs(root: Path, run: str, directory: RunDirectory) -> list[Path]:
    """The output files of every job that was submitted for a run or that claimed it, the oldest batch first."""
    try:
        claimed = set(_JOB.findall(directory.log_file.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        claimed = set()
    return [
        batch.output(root) / f"{job.id}_0_log.{kind}"
        for batch in find_batches(root)
        for job in batch.jobs
        if run in job.runs or job.id in claimed
        for kind in ("out", "err")
    ]


def _fitting(part: str, names: Sequence[str]) -> list[str]:
    """Names that hold the part; of several those where it stands for whole words: seed1 is not meant to be seed10."""
    holding = [name for name in names if part in name] if part not in ("", ".") else list(names)
    whole = re.compile(rf"(^|/){re.escape(part)}(-[0-9a-f]{{8}})?(/|$)")
    exact = [name for name in holding if whole.search(name)] if len(holding) > 1 else []
    return exact or holding


def _nearest(part: str, names: Iterable[str]) -> list[str]:
    """Names by how well their end, as long as the part, matches it."""
    words = part.count("/") + 1
    ends = {name: "/".join(re.sub(r"-[0-9a-f]{8}$", "", name).split("/")[-words:]) for name in sorted(names)}
    return sorted(ends, key=lambda name: -difflib.SequenceMatcher(None, ends[name], part).ratio())[:_NAMED]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
