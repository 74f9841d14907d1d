"""A run directory: the one place that knows its file names. Run directories are the queue and the record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from npasbench.errors import RunError
from npasbench.plan import RunSpec
from npasbench.running import record
from npasbench.running.commit import commit
from npasbench.running.files import atomic, publish, unfinished, writing
from npasbench.running.lease import Lease
from npasbench.running.reading import LIMITS, bounded, parse_json, read_bytes, read_json, short
from npasbench.running.record import Record

RunState = Literal[
    "waiting", "running", "interrupted", "done", "refused", "skipped", "over-budget", "failed", "corrupt"
]


@dataclass(frozen=True)
class RunDirectory:
    """``runs/<task>/<label>/<budget>/seed<k>-<fingerprint8>/``. ``result.json`` exists <=> the run is done."""

    path: Path

    @classmethod
    def of(cls, root: Path, spec: RunSpec) -> RunDirectory:
        """The directory of a run below the folder of all runs."""
        return cls(root / spec.folder)

    @property
    def spec_file(self) -> Path:
        """The resolved spec."""
        return self.path / "spec.json"

    @property
    def result_file(self) -> Path:
        """The result, written last."""
        return self.path / "result.json"

    @property
    def failure_file(self) -> Path:
        """Why the run failed."""
        return self.path / "failure.json"

    @property
    def lease_file(self) -> Path:
        """Who works on it."""
        return self.path / "lease.json"

    @property
    def checkpoint_file(self) -> Path:
        """Where an interrupted run goes on."""
        return self.path / "checkpoint.pt"

    @property
    def metrics_file(self) -> Path:
        """One JSON object for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def model_file(self) -> Path:
        """The trained numbers, exactly those that are counted."""
        return self.path / "model.safetensors"

    @property
    def correct_file(self) -> Path:
        """Packed bits: which test examples were predicted right."""
        return self.path / "correct.npy"

    @property
    def predictions_file(self) -> Path:
        """The predicted class of every test example, while the certificate is being made."""
        return self.path / "predictions.npy"

    @property
    def findings_file(self) -> Path:
        """What the method's search found."""
        return self.path / "findings.pt"

    @property
    def log_file(self) -> Path:
        """Plain lines of what happened."""
        return self.path / "log.txt"

    def create(self, spec: RunSpec) -> None:
        """Make the folder and write the spec, unless it is there.

        Raises:
            RunError: if it cannot be written.
        """
        with writing(self.path):
            if self.spec_file.exists():
                return
            self.path.mkdir(parents=True, exist_ok=True)
        publish(self.spec_file, json.dumps(spec.as_json(), indent=1).encode(), sync_folder=False)

    def tidy(self) -> None:
        """Remove what a worker that was killed was writing, such as half a checkpoint. For the one that holds the run.

        Specs and leases stay: others may be writing these.
        """
        shared = (f".{self.spec_file.name}.", f".{self.lease_file.name}.")
        for path in unfinished(self.path):
            if not path.name.startswith(shared):
                with writing(path):
                    path.unlink(missing_ok=True)

    def spec(self) -> RunSpec:
        """The spec of this run.

        Raises:
            RunError: if it is missing or damaged.
        """
        try:
            return RunSpec.from_json(bounded(read_json(self.spec_file)))
        except (RunError, ValueError, AttributeError) as error:
            raise RunError(
                f"{self.spec_file} cannot be read: {short(error, 500)} Remove the folder and run again."
            ) from None

    def state(self) -> RunState:
        """What the directory says about the run."""
        return self.standing()[0]

    def standing(self) -> tuple[RunState, Record | None]:
        """What the directory says about the run, and its result if there is one; no file is looked at twice."""
        try:
            files = {path.name for path in self.path.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return "waiting", None
        if self.result_file.name in files:
            try:
                result = record.read(self.result_file)
            except RunError:
                return "corrupt", None
            return result.state, result
        if self.failure_file.name in files:
            return "failed", None
        if self.lease_file.name in files:
            if Lease.is_held(self.lease_file):
                return "running", None
            if self.result_file.exists():  # it was finished meanwhile
                return self.standing()
        return ("interrupted" if self.checkpoint_file.name in files else "waiting"), None

    def open_to_work(self) -> bool:
        """Whether there is neither a result nor a failure."""
        return not self.result_file.exists() and not self.failure_file.exists()

    def failure(self) -> dict[str, Any]:
        """The failure's sentence, traceback and time; empty if it did not fail."""
        try:
            content = bounded(read_json(self.failure_file))
        except (RunError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def fail(self, sentence: str, traceback: str) -> None:
        """Write down why the run failed, of which commit, and the command that repeats it."""
        content = {
            "error": sentence,
            "traceback": traceback,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.spec().command(),
            **commit(),
        }
        with atomic(self.failure_file) as file:
            file.write(json.dumps(content, indent=1).encode())

    def epochs(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; a last line that was cut off is left out."""
        try:
            lines = read_bytes(self.metrics_file, LIMITS[self.metrics_file.name]).splitlines()
        except RunError:
            return []
        rows = []
        for line in lines:
            try:
                row = bounded(parse_json(line, ""))
            except (RunError, ValueError):
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
        return rows

    def log(self, line: str) -> None:
        """Add a line with the time to ``log.txt``."""
        with writing(self.log_file), self.log_file.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")


def find_runs(root: Path) -> list[RunDirectory]:
    """Every run directory below the folder of all runs, in a fixed order."""
    return [RunDirectory(path.parent) for path in sorted(root.glob("*/*/*/*/spec.json"))]
