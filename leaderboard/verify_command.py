"""``npasbench verify``: whether results are what they say they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from npasbench.commands.options import data_root_option, device_option, json_option, plugin_option
from npasbench.errors import UsageError


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--retrain", type=click.IntRange(min=0), default=0, metavar="N", help="Train N of the runs again and compare."
)
@click.option(
    "--draw-seed", default="", metavar="TEXT", help="Decides which N are drawn. [default: a new one, which is printed]"
)
@click.option(
    "--new-since",
    type=click.Path(path_type=Path),
    help="Draw only from results that are not in this folder or file, or are there with another content.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="FILE.toml",
    help="A card that the results may be of, beside those installed.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder of verification.json. [default: that of the results]"
)
@plugin_option
@device_option
@data_root_option
@json_option
def verify(
    path: Path,
    retrain: int,
    draw_seed: str,
    new_since: Path | None,
    tasks: tuple[str, ...],
    out: Path | None,
    plugins: tuple[str, ...],
    device: str | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Check the results at PATH: a folder of runs, one run's directory, published results, or one file of them.

    Each record's schema, fingerprint, budget, counts, metrics and certificate are held against each other and against the
    task's card, and counts and multiply-adds against the network that its spec builds. Where weights are stored the test set
    is predicted again with them. Nothing that a record names is run: methods and cards are those installed here, or named
    with --plugin and --task. How far each record was verified goes into verification.json, for the leaderboard. Ends with 1
    if something differs; what is only doubtful is printed with a question mark.

    \b
    Example:  npasbench verify results --retrain 1 --new-since before/results
    """
    from .verifying import Wishes, verify_results, written
    from .verifying_display import as_content, show

    if (draw_seed or new_since) and not retrain:
        raise UsageError("--draw-seed and --new-since decide what --retrain N draws; there is no --retrain.")
    report = verify_results(path, Wishes(retrain, draw_seed, new_since, tasks, plugins, device, data_root))
    file = written(report, path, out)
    if as_json:
        click.echo(json.dumps(as_content(report, file), indent=1))
    else:
        show(report, file)
    sys.exit(1 if report.differing or report.problems else 0)
