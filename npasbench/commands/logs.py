"""``npasbench logs``: what happened in one run, and what the jobs printed that worked on it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.options import runs_option
from npasbench.errors import NpasbenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npasbench.running.rundir import RunDirectory

_EVERY = 1.0


@click.command("logs")
@click.argument("run")
@runs_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends or Ctrl-C, with every new epoch.")
@click.option("--job", is_flag=True, help="Show the output of the jobs that worked on it.")
def logs(run: str, runs: Path, follow: bool, job: bool) -> None:
    """Show what happened in a run, and the traceback if it failed; exits 1 then.

    RUN is a run's folder, or any part of its name that only one run below --runs has.

    \b
    Example:  npasbench logs roast/0.1/seed0 -f
    """
    from npasbench.commands.finding import find_run

    found = find_run(run, runs)
    reader = _JobOutput(found.root, found.name, found.directory, follow) if job else _RunLog(found.directory, follow)
    shown = 0
    for line in reader.new():
        click.echo(line)
        shown += 1
    if follow:
        try:
            _follow(reader, found.directory)
        except KeyboardInterrupt:
            sys.exit(0)
    elif not shown:
        raise NpasbenchError(reader.nothing(found.name))
    sys.exit(_show_failure(found.directory))


def _follow(reader: _RunLog | _JobOutput, directory: RunDirectory) -> None:
    """Print what is new until the run has ended."""
    over = False
    while not over:
        over = not directory.open_to_work()
        time.sleep(_EVERY)  # the last lines are written after the result
        for line in reader.new():
            click.echo(line)


def _show_failure(directory: RunDirectory) -> int:
    """Print why the run failed, if it did; the exit code."""
    failure = directory.failure()
    if not directory.failure_file.exists() or directory.result_file.exists():
        return 0
    click.secho(str(failure.get("error") or f"{directory.failure_file} cannot be read."), fg="red")
    if failure.get("traceback"):
        click.echo(str(failure["traceback"]).rstrip())
    return 1


class _Tail:
    """The lines that a file has had added since they were last asked for; while it grows, one half written is left for later."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def new(self, grows: bool) -> list[str]:
        try:
            if self.path.stat().st_size < self._read:
                self._read = 0
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1] if grows else content
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()


class _RunLog:
    """``log.txt``, and, while it is followed, every epoch that ends."""

    def __init__(self, directory: RunDirectory, follows: bool) -> None:
        self.follows = follows
        self._directory, self._log = directory, _Tail(directory.log_file)
        rows = directory.epochs()
        self._step = rows[-1]["step"] if rows else 0

    def new(self) -> Iterator[str]:
        lines = self._log.new(self.follows)
        if not self.follows:
            yield from lines
            return
        ended = len(lines) if self._directory.open_to_work() else len(lines) - 1
        yield from lines[:ended]
        yield from self._epochs()
        yield from lines[ended:]  # how it ended

    def _epochs(self) -> Iterator[str]:
        rows = self._directory.epochs()
        self._step = min(self._step, rows[-1]["step"] if rows else 0)  # a run that goes on drops what came after
        for row in rows:
            if row["step"] > self._step:
                self._step = row["step"]
                yield _epoch(row)

    @staticmethod
    def nothing(run: str) -> str:
        """What to say where there is no line."""
        return f"Nobody has begun {run} yet. 'npasbench status' tells what it waits for; follow it with -f."


class _JobOutput:
    """What the jobs print that worked on the run or were submitted for it, each line below the name of its file."""

    def __init__(self, root: Path, run: str, directory: RunDirectory, follows: bool) -> None:
        self.follows = follows
        self._root, self._run, self._directory = root, run, directory
        self._tails: dict[Path, _Tail] = {}
        self._last: Path | None = None

    def new(self) -> Iterator[str]:
        from npasbench.commands.finding import files_of_jobs

        for path in files_of_jobs(self._root, self._run, self._directory):
            lines = self._tails.setdefault(path, _Tail(path)).new(self.follows)
            if lines and path != self._last:
                self._last = path
                yield click.style(f"==> {path}", bold=True)
            yield from lines

    @staticmethod
    def nothing(run: str) -> str:
        """What to say where there is no line."""
        return f"No job has printed anything about {run} yet, or it was done without --executor slurm or local."


def _epoch(row: dict[str, float]) -> str:
    progress = f"epoch {row['epoch']:<4} step {row['step']:<7}"
    return f"{progress} loss {row['loss']:<8.4f} lr {row['lr']:<9.4g} {row['seconds']:.1f} s"
