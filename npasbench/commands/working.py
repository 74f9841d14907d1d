"""Doing planned runs on this machine and telling the user how it went: shared by run, quickstart and retry."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.cluster_options import Where
from npasbench.commands.other_images import of_other_images
from npasbench.commands.submitting import submit_runs
from npasbench.commands.teams import check_teams
from npasbench.commands.wording import plural, what_is_wrong
from npasbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from npasbench.card import Data
    from npasbench.commands.display import RunDisplay
    from npasbench.plan import RunSpec
    from npasbench.running.rundir import RunDirectory
    from npasbench.running.worker import Options


INTERRUPTED = 130
"""Exit code after Ctrl-C."""
_MOST_NAMED = 5


def do_runs(
    specs: Sequence[RunSpec],
    root: Path,
    *,
    workers: int | None,
    device: str | None,
    checkpoint_seconds: float,
    go_on: str,
    data_root: Path | None = None,
    quiet: bool = False,
    where: Where | None = None,
) -> int:
    """Do what is open of ``specs``; returns the exit code. ``go_on`` is the command that goes on after an interruption.

    Raises:
        DataError: before anything is begun, if data of open runs are not under the data root, or damaged.
    """
    from npasbench import data
    from npasbench.cluster.profile import read_profile
    from npasbench.commands.display import RunDisplay
    from npasbench.running.rundir import RunDirectory
    from npasbench.running.worker import Options

    where = where or Where()
    submitted = where.executor in ("slurm", "local")
    profile = read_profile(where.profile, where.asked)
    options = Options(
        devices=() if submitted else pick_devices(device),
        processes=where.gpus_per_run,
        checkpoint_seconds=checkpoint_seconds,
        data_root=data.data_root(data_root),
    )
    directories = [RunDirectory.of(root, spec) for spec in specs]
    waiting = [spec for spec, directory in zip(specs, directories, strict=True) if directory.open_to_work()]
    check_data(waiting, options.data_root)
    check_teams(waiting, options.processes, options.devices, where.executor)
    workers = workers or _workers(options)
    failed = sum(directory.failure_file.exists() and not directory.result_file.exists() for directory in directories)
    _announce(len(specs), len(waiting), failed, root)
    for sentence in of_other_images(waiting, root):
        click.echo(sentence)
    if submitted:
        return submit_runs(waiting, root, options, workers, device, where, profile) if waiting else 0
    with RunDisplay(len(waiting), quiet=quiet) as display:
        stopped = _do(waiting, root, workers, options, display, here=where.executor == "debug")
    if stopped:
        click.echo(
            f"Stopped: {display.states.total()} of {len(waiting)} runs ended, the others keep their checkpoints."
        )
        click.echo(f"Go on with: {go_on}")
        return INTERRUPTED
    return _sum_up(display, directories, len(waiting), root, go_on)


def check_data(specs: Sequence[RunSpec], data_root: Path | None) -> None:
    """See that the data of all these runs are there and whole.

    Raises:
        DataError: naming all that is missing or damaged, and how to get it.
    """
    wrong = faults_of_data(specs, data_root)
    if wrong:
        raise DataError("\n".join(dict.fromkeys(wrong.values())))


def faults_of_data(specs: Sequence[RunSpec], data_root: Path | None) -> dict[Data, str]:
    """Of the data of these runs those that are missing, damaged or too few, with what is wrong and what to do."""
    from npasbench.data import check

    wrong = {}
    for data in dict.fromkeys(spec.task.data for spec in specs):
        try:
            check(data, data_root)
        except (DataError, UsageError) as error:
            wrong[data] = str(error)
    return wrong


def _do(
    waiting: Sequence[RunSpec], root: Path, workers: int, options: Options, display: RunDisplay, *, here: bool
) -> bool:
    """Do the runs; True if the user stopped them with Ctrl-C."""
    from npasbench.cluster.job import work_here
    from npasbench.running.dispatch import Pool

    try:
        if waiting and here:
            work_here(waiting, root, options, display)
        elif waiting:
            Pool(waiting, root, workers, options, display).work()
    except KeyboardInterrupt:
        return True
    return False


def pick_devices(given: str | None) -> tuple[str, ...]:
    """The devices to work on: the given one; else every GPU that is visible, or the CPU.

    Raises:
        UsageError: for a device that this machine does not have.
    """
    import torch

    if given is None:
        every = (
            tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
        )
        return every or ("cpu",)
    try:
        device = torch.device(given)
        torch.zeros(1, device=device).item()
    except Exception as error:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if given in (*here, "cuda") and len(here) > 1:
            raise UsageError(f"Device '{given}' is here but cannot be used: {str(error).splitlines()[0]}") from None
        raise UsageError(f"There is no device '{given}' here. Name one of these: {', '.join(here)}.") from None
    return (str(device),)


def any_done(specs: Sequence[RunSpec], root: Path) -> bool:
    """Whether there is anything to show: a run that is done."""
    from npasbench.running.rundir import RunDirectory

    return any(RunDirectory.of(root, spec).state() == "done" for spec in specs)


def _workers(options: Options) -> int:
    """One worker for each core, or for each GPU; as many less as processes train a run together."""
    on_cpu = options.devices in ((), ("cpu",))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (cores if on_cpu else len(options.devices)) // options.processes)


def _announce(total: int, waiting: int, failed: int, root: Path) -> None:
    parts = [plural(total, "run"), f"{waiting} to do"]
    if failed:
        parts.append(f"{failed} failed earlier (see 'npasbench status {root}', repeat with 'npasbench retry {root}')")
    click.echo(", ".join(parts) + ".")


def _sum_up(display: RunDisplay, directories: Sequence[RunDirectory], waiting: int, root: Path, go_on: str) -> int:
    """Say how all the runs stand; 1 if one failed or was left over, or if every single one was refused."""
    for (cell, state), reason in sorted(display.reasons.items()):
        if state != "blocked":
            click.echo(f"{state}: {cell}: {reason}")
    states = Counter(directory.state() for directory in directories)
    click.echo(
        f"{plural(len(directories), 'run')}: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())) + "."
    )
    left = waiting - display.states.total()
    if left > 0:
        blocked = next((reason for (_, state), reason in display.reasons.items() if state == "blocked"), "")
        why = f"blocked: {blocked}" if blocked else f"held by other workers or interrupted. Go on with: {go_on}"
        click.echo(f"{plural(left, 'run')} {why}")
    if states["corrupt"]:
        _name_corrupt(directories, root)
    if display.states["failed"]:
        click.echo(f"What failed: npasbench status {root}; once mended: npasbench retry {root}")
    nothing_built = states["refused"] == len(directories)
    return 1 if states["failed"] or states["corrupt"] or left > 0 or nothing_built else 0


def _name_corrupt(directories: Sequence[RunDirectory], root: Path) -> None:
    """Say what is wrong with each result that cannot be read, at most a few of them, and what to do."""
    corrupt = [directory for directory in directories if directory.state() == "corrupt"]
    for directory in corrupt[:_MOST_NAMED]:
        click.echo(f"corrupt: {what_is_wrong(directory)}")
    if len(corrupt) > _MOST_NAMED:
        click.echo(f"corrupt: {len(corrupt) - _MOST_NAMED} more; see 'npasbench status {root}'")
    click.echo(f"Set aside what is corrupt and do it again with: npasbench retry {shlex.quote(str(root))}")
