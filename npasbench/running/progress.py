"""How far a run that is not done has come, from the ends of its files: epochs, time left, how often it was begun anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npasbench.running.rundir import RunDirectory

_TAIL = 4096


@dataclass(frozen=True)
class Progress:
    """``epoch`` of ``epochs`` are done; ``seconds`` of training went into them, over all attempts."""

    epoch: int
    epochs: int | None
    """None where the spec cannot be read."""
    seconds: float
    restarts: int

    @property
    def part(self) -> float:
        """Of the epochs how much is done, 0 to 1."""
        return min(1.0, self.epoch / self.epochs) if self.epochs else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the pace so far; None before the first epoch is done."""
        if not self.epochs or not self.epoch:
            return None
        return self.seconds / self.epoch * max(0, self.epochs - self.epoch)


def progress(directory: RunDirectory) -> Progress:
    """How far a run has come; nothing done where nothing is written or can be read."""
    row = _last_row(directory.metrics_file)
    epoch, seconds = row.get("epoch", 0), row.get("seconds", 0.0)
    return Progress(epoch, _epochs(directory.spec_file), seconds, restarts(directory))


def restarts(directory: RunDirectory) -> int:
    """How often a run was claimed after it was claimed first: after a preemption, a time limit, a death or a retry."""
    try:
        lines = directory.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    claims = sum(line.partition(" ")[2].startswith("claimed by ") for line in lines)
    return max(0, claims - 1)


def _last_row(path: Path) -> dict[str, Any]:
    """The last line of ``metrics.jsonl`` that is whole and a row."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        row = _parsed(line)
        if isinstance(row.get("epoch"), int) and isinstance(row.get("seconds", 0), int | float):
            return row
    return {}


def _epochs(path: Path) -> int | None:
    try:
        spec = _parsed(path.read_bytes())
        epochs = spec["task"]["recipe"]["epochs"]
    except (OSError, KeyError, TypeError):
        return None
    return epochs if isinstance(epochs, int) else None


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
