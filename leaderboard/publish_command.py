"""``npasbench publish``: finished runs as one file a task, to be kept in git and rendered anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .publishing import Publication


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder of the files."
)
@click.option("--trial", is_flag=True, help="Publish results from a tree with uncommitted changes too.")
def publish(runs: Path, out: Path, trial: bool) -> None:
    """Write every finished run below RUNS (by default: runs) into one file for each task.

    What the files hold already is kept. A run that is published with another result is refused, and nothing is written. A
    record that contradicts itself is named and left out; a result under the protocol tune is no test result and left out
    too. Ends with 1 if there was nothing to publish, or a result was left out because it could not be read or contradicts
    itself.

    \b
    Example:
      npasbench publish runs --out results
    """
    from . import publishing, words

    done = publishing.publish(runs, out, trial=trial)
    for path, held, new in done.files:
        click.echo(f"{path}: {words.plural(held, 'run')}, {new:,} of them new")
    if done.trials:
        click.echo(_trials(done), err=True)
    if done.tuning:
        left_out = words.plural(done.tuning, "result")
        click.echo(f"{left_out} left out: under the protocol tune they are of held-out training images.", err=True)
    if done.contradictory:
        click.echo(f"{words.plural(done.contradictory, 'result')} left out: what it says contradicts itself.", err=True)
    for problem in done.problems:
        click.echo(f"! {words.plain(problem)}", err=True)
    if done.problems or not done.files:
        click.get_current_context().exit(1)


def _trials(done: Publication) -> str:
    from . import words

    left_out = words.plural(done.trials, "trial result")
    return f"{left_out} left out: from a tree with uncommitted changes. Publish them all the same with --trial."
