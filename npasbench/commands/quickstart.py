"""``npasbench quickstart``: real data, every method, a leaderboard in minutes, nothing to download."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click

from npasbench.commands.options import checkpoint_option, runs_option, workers_option
from npasbench.commands.planning import plan_runs
from npasbench.commands.working import INTERRUPTED, do_runs


@click.command("quickstart")
@runs_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("site"), show_default=True, help="Where the site goes."
)
@click.option("--seeds", help="Such as 0-2 for a first look. [default: the suite's ten]")
@workers_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@checkpoint_option
@click.pass_context
def quickstart(
    ctx: click.Context,
    runs: Path,
    out: Path,
    seeds: str | None,
    workers: int | None,
    device: str,
    checkpoint_seconds: float,
) -> None:
    """Train every method on handwritten digits at four budgets with ten seeds, and build the leaderboard.

    \b
    Example:  npasbench quickstart
    """
    from npasbench.commands.options import read_seeds
    from npasbench.running.dispatch import warm_up

    warm_up()
    specs = plan_runs("quickstart", None, None, {}, (), read_seeds(seeds), ())
    code = do_runs(
        specs,
        runs,
        workers=workers,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
        go_on=shlex.join(["npasbench", *sys.argv[1:]]),
    )
    if code == INTERRUPTED:
        sys.exit(code)
    verbs = {verb.name: verb for verb in entry_points(group="npasbench.commands")}
    built = ctx.invoke(verbs["leaderboard"].load(), runs=runs, out=out, as_json=False)
    sys.exit(code or (built if isinstance(built, int) else 0))
