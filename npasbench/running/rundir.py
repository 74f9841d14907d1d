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
from npasbench.running.files import atomic, publish, writing
from npasbench.running.lease import Lease

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
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.spec_file.exists():
            publish(self.spec_file, json.dumps(spec.as_json(), indent=1).encode())

    def spec(self) -> RunSpec:
        """The spec of this run.

        Raises:
            RunError: if it is missing or damaged.
        """
        try:
            return RunSpec.from_json(json.loads(self.spec_file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.spec_file} cannot be read: {error}. Remove the folder and run again.") from None

    def state(self) -> RunState:
        """What the directory says about the run, without loading more than it must."""
        if self.result_file.exists():
            try:
                return record.read(self.result_file).state
            except RunError:
                return "corrupt"
        if self.failure_file.exists():
            return "failed"
        if Lease.is_held(self.lease_file):
            return "running"
        return "interrupted" if self.checkpoint_file.exists() else "waiting"

    def open_to_work(self) -> bool:
        """Whether there is neither a result nor a failure."""
        return not self.result_file.exists() and not self.failure_file.exists()

    def failure(self) -> dict[str, Any]:
        """The failure's sentence, traceback and time; empty if it did not fail."""
        try:
            content: dict[str, Any] = json.loads(self.failure_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

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
            lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def log(self, line: str) -> None:
        """Add a line with the time to ``log.txt``."""
        with writing(self.log_file), self.log_file.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")


def find_runs(root: Path) -> list[RunDirectory]:
    """Every run directory below the folder of all runs, in a fixed order."""
    return [RunDirectory(path.parent) for path in sorted(root.glob("*/*/*/*/spec.json"))]
