"""What surrounds a training in a run directory: checkpoints, metric rows, signs of life, the wish to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from npasbench.running.best_epoch import BestEpoch
from npasbench.running.files import atomic, writing
from npasbench.running.lease import Lease
from npasbench.running.rundir import RunDirectory
from npasbench.training.checkpoint import write_checkpoint
from npasbench.training.loop import EpochRow, Training

SAVE, STOP = 1, 2
_TELL_EVERY = 0.5


class Stopped(Exception):
    """A run was asked to stop, and has written down where it stands."""


class RunObserver:
    """Writes a checkpoint when ``checkpoint_seconds`` have passed (a quarter of that at an epoch's end), and rows.

    ``best`` looks at the network after every epoch, where the card's protocol asks for it.

    In a team each process has one; the first decides when to save, and it alone writes; all stop if one is asked to.

    Raises from its callbacks:
        Stopped: after a checkpoint, if ``should_stop`` says so.
        LeaseLost: if the run was taken over by another worker.
        WriteError: if nothing can be written.
    """

    def __init__(
        self,
        directory: RunDirectory,
        lease: Lease | None,
        checkpoint_seconds: float,
        should_stop: Callable[[], bool],
        tell: Callable[[dict[str, Any]], None],
        *,
        writes: bool = True,
        best: BestEpoch | None = None,
    ) -> None:
        self.writes, self.best = writes, best
        self.directory, self.lease, self.checkpoint_seconds = directory, lease, checkpoint_seconds
        self.should_stop, self.tell = should_stop, tell
        self.restarts = 0
        self._before = 0.0
        self._begun = self._saved = self._told = time.monotonic()
        self._rows: list[str] = []

    @property
    def seconds(self) -> float:
        """Training time over all restarts."""
        return self._before + time.monotonic() - self._begun

    def begin(self) -> None:
        """Training starts now: what came before is not training time."""
        self._begun = self._saved = time.monotonic()

    def resumed(self, state: dict[str, Any], step: int) -> None:
        """Take over from an earlier attempt that stood at ``step``; later metric rows are dropped."""
        self._before, self.restarts = state["seconds"], state["restarts"] + 1
        self._begun = time.monotonic()
        if not self.writes:
            return
        rows = [json.dumps(row) + "\n" for row in self.directory.epochs() if row["step"] <= step]
        with atomic(self.directory.metrics_file) as file:
            file.write("".join(rows).encode())
        self.directory.log(f"goes on from step {step}")

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        """Look at held-out images, note the row, and tell the parent now and then."""
        if not self.writes:
            return
        held = {} if self.best is None else {"held_out_accuracy": self.best.look(training)}
        self._rows.append(json.dumps({**asdict(row), **held, "seconds": round(self.seconds, 3)}) + "\n")
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY or training.step == training.steps:
            self._told = now
            self._flush()
            self.tell({"epoch": row.epoch, "epochs": training.recipe.epochs, "loss": row.loss})

    def after_step(self, training: Training) -> None:
        """Stop or checkpoint, if it is time."""
        epoch_ended = training.step % training.batches.steps_per_epoch == 0
        interval = self.checkpoint_seconds / 4 if epoch_ended else self.checkpoint_seconds
        wish = self.wish(time.monotonic() - self._saved >= interval)
        wish = training.team.most(wish)
        if wish:
            self.save(training)
        if wish == STOP:
            raise Stopped

    def wish(self, due: bool) -> int:
        """What this process would do now: :data:`STOP`, :data:`SAVE` if it writes and that is due, or nothing."""
        if self.should_stop():
            return STOP
        return SAVE if due and self.writes else 0

    def save(self, training: Training) -> None:
        """Write the rows so far and a checkpoint."""
        state = {"training": training.state(), "observer": {"seconds": self.seconds, "restarts": self.restarts}}
        if self.best is not None:
            state["best_epoch"] = self.best.state()
        if self.writes:
            self._flush()
            write_checkpoint(self.directory.checkpoint_file, state)
        self._saved = time.monotonic()

    def _flush(self) -> None:
        if self.lease is not None:
            self.lease.check()
        with writing(self.directory.metrics_file), self.directory.metrics_file.open("a", encoding="utf-8") as file:
            file.write("".join(self._rows))
        self._rows.clear()
