"""What a user sees while runs are done: a progress bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FINAL = ("done", "refused", "skipped", "over-budget", "failed")
TOLD_AT_THE_END = (*FINAL[1:], "blocked")


class RunDisplay:
    """Shows workers' events; ``states`` counts how runs ended, ``reasons`` says why cells were not done."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.states: Counter[str] = Counter()
        self.reasons: dict[tuple[str, str], str] = {}
        self.begun = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = self._make_bar() if self._console.is_terminal and not quiet else None
        self._task = self._bar.add_task("starting", total=total) if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event of a worker."""
        state, run = event["state"], event["run"]
        if state in FINAL:
            self.states[state] += 1
        if state in TOLD_AT_THE_END:
            self.reasons.setdefault((run.rsplit("/", 1)[0], state), event.get("reason", ""))
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.states.total(), description=_describe(event))
            if state in ("failed", "interrupted") and event.get("reason"):
                self._bar.console.print(f"{run}: {event['reason']}", markup=False, highlight=False)
        elif not self.quiet and state != "blocked" and (state in FINAL or event.get("reason")):
            click.echo(f"[{self.states.total()}/{self.total}] {run}: {_outcome(event)}")

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )


def _describe(event: dict[str, Any]) -> str:
    _, label, budget, seed = event["run"].rsplit("/", 3)
    where = f"{label} {budget} {seed.rpartition('-')[0]}"
    return f"{where} epoch {event['epoch']}/{event['epochs']}" if "epoch" in event else where


def _outcome(event: dict[str, Any]) -> str:
    accuracy = (event.get("metrics") or {}).get("accuracy")
    if accuracy is not None:
        return f"{event['state']}, accuracy {accuracy:.4f}"
    told_later = event["state"] in TOLD_AT_THE_END  # mostly the same for every seed: said once, at the end
    return f"{event['state']}: {event['reason']}" if event.get("reason") and not told_later else str(event["state"])
