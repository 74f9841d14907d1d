"""``npasbench retry``: do failed and corrupt runs again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from npasbench.commands.cluster_options import Where, cluster_options
from npasbench.commands.options import (
    checkpoint_option,
    data_root_option,
    device_option,
    runs_argument,
    workers_option,
)
from npasbench.commands.wording import plural
from npasbench.commands.working import do_runs, faults_of_data
from npasbench.errors import DataError, RunError


@click.command("retry")
@runs_argument
@click.option("--failed", "only_failed", is_flag=True, help="Leave corrupt results alone.")
@workers_option
@device_option
@data_root_option
@checkpoint_option
@cluster_options
def retry(
    runs: Path,
    only_failed: bool,
    workers: int | None,
    device: str | None,
    data_root: Path | None,
    checkpoint_seconds: float,
    where: Where,
) -> None:
    """Do every failed run again, from its last checkpoint if it has one. A corrupt result is set aside first.

    A run whose data are missing, or are others than it was planned with, is left alone; then it exits 1.

    \b
    Example:  npasbench retry runs
    """
    from npasbench.commands.finding import check_folder
    from npasbench.running.files import writing
    from npasbench.running.rundir import find_runs

    check_folder(runs)
    states = ("failed",) if only_failed else ("failed", "corrupt")
    again = [directory for directory in find_runs(runs) if directory.state() in states]
    if not again:
        click.echo("No run has failed.")
        return
    specs = {}
    for directory in again:
        try:
            specs[directory] = directory.spec()
        except RunError as error:
            click.echo(f"left alone: {error}", err=True)
    wrong = faults_of_data(list(specs.values()), data_root)
    able = {directory: spec for directory, spec in specs.items() if spec.task.data not in wrong}
    if wrong and not able:
        raise DataError("\n".join(dict.fromkeys(wrong.values())))
    for data, why in wrong.items():
        those = [directory for directory, spec in specs.items() if spec.task.data == data]
        click.echo(f"left alone: {plural(len(those), 'run')}, such as {those[0].path}: {why}", err=True)
    specs = able
    for directory in specs:
        with writing(directory.path):
            for file in (directory.failure_file, directory.result_file):
                if file.exists():
                    file.replace(file.with_suffix(".previous.json"))
    code = do_runs(
        list(specs.values()),
        runs,
        workers=workers,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
        go_on="the command that planned these runs",
        data_root=data_root,
        where=where,
    )
    sys.exit(code or int(len(specs) < len(again)))
