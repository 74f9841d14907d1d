"""A batch: the jobs that one command submitted and the runs that each of them begins with; kept beside the runs."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from npasbench.errors import RunError
from npasbench.running.files import atomic, writing

Executor = Literal["slurm", "local"]
_FOLDER = ".batches"


class Job(BaseModel):
    """One job, or one task of a job array."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """SLURM's, as ``squeue -r`` and ``sacct`` print it (``123_4`` for a task of an array); of ``local`` the process number."""
    runs: tuple[str, ...]
    """Run folders relative to the folder of all runs: what this job begins with. It goes on with what others left."""


class Batch(BaseModel):
    """What one ``npasbench run --executor`` submitted. ``folder`` holds ``batch.json``, ``code/`` and ``jobs/`` (output)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1] = 1
    name: str
    executor: Executor
    created: datetime
    host: str
    """Where it was submitted; a ``local`` batch runs there."""
    command: str
    jobs: tuple[Job, ...] = ()
    """Empty until they are submitted."""
    commit: dict[str, Any] = {}

    @staticmethod
    def new_name() -> str:
        """A name that sorts by time and that two simultaneous submissions do not share."""
        return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def folder(self, root: Path) -> Path:
        """Where it is kept, below the folder of all runs."""
        return root / _FOLDER / self.name

    def output(self, root: Path) -> Path:
        """The folder of the jobs' standard output and error: ``<id>_0_log.out`` and ``<id>_0_log.err``."""
        return self.folder(root) / "jobs"

    def code(self, root: Path) -> Path:
        """The folder of the code as it was submitted."""
        return self.folder(root) / "code"

    def specs(self, root: Path) -> Path:
        """The runs of all jobs, in their order, a line of JSON each."""
        return self.folder(root) / "specs.jsonl"

    def write(self, root: Path) -> None:
        """Keep it.

        Raises:
            RunError: if it cannot be written.
        """
        folder = self.folder(root)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "batch.json") as file:
            file.write(self.model_dump_json(indent=1).encode())


def find_batches(root: Path) -> list[Batch]:
    """Every batch of a folder of runs, oldest first; one that cannot be read is left out.

    A submission that was interrupted leaves a batch without jobs.
    """
    found = []
    for path in sorted((root / _FOLDER).glob("*/batch.json")):
        try:
            found.append(read_batch(path))
        except RunError:
            continue
    return found


def read_batch(path: Path) -> Batch:
    """Read ``batch.json``.

    Raises:
        RunError: naming the file and what is wrong with it.
    """
    try:
        return Batch.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
