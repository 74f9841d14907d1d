"""``npasbench cancel``: end submitted jobs; runs keep their checkpoints."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.options import runs_argument
from npasbench.commands.wording import plural
from npasbench.errors import NpasbenchError, UnknownName, UsageError

if TYPE_CHECKING:
    from npasbench.cluster.batch import Batch


@click.command("cancel")
@runs_argument
@click.option("--batch", "names", multiple=True, help="Only this batch; may be repeated. [default: every batch]")
def cancel(runs: Path, names: tuple[str, ...]) -> None:
    """End the jobs that were submitted for a folder of runs. The same 'npasbench run' goes on where they stopped.

    \b
    Example:  npasbench cancel runs
    """
    from npasbench.cluster.batch import find_batches

    if not runs.is_dir():
        raise UsageError(f"There is no folder {runs}. Name the folder of all runs.")
    batches = {batch.name: batch for batch in find_batches(runs)}
    for name in names:
        if name not in batches:
            raise UnknownName("batch", name, batches)
    chosen = [batch for batch in batches.values() if not names or batch.name in names]
    ended = sum(_cancel(batch) for batch in chosen)
    click.echo(f"{plural(ended, 'job')} told to end." if ended else "No job is waiting or running.")


def _cancel(batch: Batch) -> int:
    """End what is left of a batch; how many jobs that were."""
    from npasbench.cluster import scheduler

    ids = [job.id for job in batch.jobs]
    if batch.executor == "local":
        return sum(_end_process(int(one), batch.host) for one in ids)
    found = scheduler.states(ids)
    for complaint in found.complaints:
        click.echo(complaint, err=True)
    live = [one for one in ids if one not in found.states or not found.states[one].ended] if ids else []
    if not found.complaints:
        live = [one for one in live if one in found.states]
    if live:
        scheduler.cancel(live)
    return len(live)


def _end_process(number: int, host: str) -> bool:
    """Tell a background process to end; False if it is gone already."""
    if not _works_here(number, host):
        return False
    os.kill(number, signal.SIGTERM)
    return True


def _works_here(number: int, host: str) -> bool:
    """Whether the process number still is a background worker of npasbench."""
    if host != socket.gethostname():
        raise NpasbenchError(f"Process {number} works on {host}: cancel it there.")
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"submitit.local._local" in words
