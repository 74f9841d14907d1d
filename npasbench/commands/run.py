"""``npasbench run``: a suite, or one method on one task."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from npasbench.commands.cluster_options import Where, cluster_options
from npasbench.commands.options import (
    checkpoint_option,
    data_root_option,
    device_option,
    label_for,
    label_option,
    plugin_option,
    read_knobs,
    read_seeds,
    runs_option,
    set_option,
    with_option,
    workers_option,
)
from npasbench.commands.planning import plan_runs
from npasbench.commands.working import INTERRUPTED, any_done, do_runs


@click.command("run")
@click.argument("name", metavar="SUITE|TASK")
@click.option("--method", help="For a task: the method to run on it.")
@label_option
@click.option("--budget", "budgets", multiple=True, help="0.1, 10% or 18M; may be repeated. [default: the task's]")
@click.option("--seeds", help="Such as 0-9 or 0,3. [default: the suite's or the task's]")
@set_option
@with_option
@plugin_option
@runs_option
@workers_option
@device_option
@data_root_option
@checkpoint_option
@cluster_options
def run(
    name: str,
    method: str | None,
    label: str | None,
    budgets: tuple[str, ...],
    seeds: str | None,
    settings: tuple[str, ...],
    addons: tuple[str, ...],
    plugins: tuple[str, ...],
    runs: Path,
    workers: int | None,
    device: str | None,
    data_root: Path | None,
    checkpoint_seconds: float,
    where: Where,
) -> None:
    """Do every run of a suite, or of one method on a task. What is done already is not done again.

    \b
    Example:  npasbench run digits15-wrn-10-1 --method roast --budget 0.1 --seeds 0-2
    """
    from npasbench.running.dispatch import warm_up

    knobs = read_knobs(settings)
    warm_up()
    label = label or (label_for(method, knobs, addons) if method else None)
    specs = plan_runs(name, method, label, knobs, budgets, read_seeds(seeds), plugins, addons, data_root)
    code = do_runs(
        specs,
        runs,
        workers=workers,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
        go_on=shlex.join(["npasbench", *sys.argv[1:]]),
        data_root=data_root,
        where=where,
    )
    if code != INTERRUPTED and where.executor not in ("slurm", "local") and any_done(specs, runs):
        click.echo(f"Show them: npasbench leaderboard {shlex.quote(str(runs))}")
    sys.exit(code)
