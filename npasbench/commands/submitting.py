"""Submitting planned runs and telling the user what was submitted: shared by run and retry."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.wording import plural

if TYPE_CHECKING:
    from npasbench.cluster.batch import Batch
    from npasbench.cluster.profile import Profile
    from npasbench.commands.cluster_options import Where
    from npasbench.plan import RunSpec
    from npasbench.running.worker import Options


def submit_runs(
    specs: Sequence[RunSpec],
    root: Path,
    options: Options,
    workers: int,
    device: str | None,
    where: Where,
    profile: Profile,
) -> int:
    """Submit them, print the jobs' ids and what to do next; returns the exit code."""
    from npasbench.cluster.submitting import Request, submit

    request = Request(
        executor="slurm" if where.executor == "slurm" else "local",
        profile=profile,
        command=where.command,
        processes=options.processes,
        device=device,
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
        workers=workers,
    )
    _tell(submit(specs, root, request), root)
    return 0


def _tell(batch: Batch, root: Path) -> None:
    if batch.executor == "local":
        click.echo(f"Process {batch.jobs[0].id} works in the background (batch {batch.name}).")
    else:
        arrays: dict[str, int] = {}
        for job in batch.jobs:
            array = job.id.partition("_")[0]
            arrays[array] = arrays.get(array, 0) + 1
        ids = ", ".join(f"{array} ({plural(number, 'job')})" for array, number in arrays.items())
        click.echo(f"Submitted to SLURM: {ids} (batch {batch.name}).")
    if batch.commit.get("dirty"):
        click.echo("The tree has uncommitted changes: these will be trial results.")
    folder = shlex.quote(str(root))
    click.echo(f"Watch them: npasbench status {folder} --watch; end them: npasbench cancel {folder}")
