"""``npasbench check``: the conformance kit, with a readable verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from npasbench.commands.options import data_root_option, json_option, plugin_option, set_option, with_option


@click.command("check")
@click.argument("method")
@click.option(
    "--task", default="digits15-wrn-10-1", show_default=True, help="The task whose budgets and data are used."
)
@set_option
@with_option
@plugin_option
@data_root_option
@json_option
def check(
    method: str,
    task: str,
    settings: tuple[str, ...],
    addons: tuple[str, ...],
    plugins: tuple[str, ...],
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Check a method against the contract: budgets, gradients, seeds, saving, copying, exporting, learning.

    \b
    Example:  npasbench check my-idea --plugin my_idea.py
    """
    from npasbench.commands.options import read_knobs
    from npasbench.conformance import check_method

    knobs = read_knobs(settings)
    verdicts = check_method(method, task=task, knobs=knobs, plugins=plugins, addons=addons, data_root=data_root)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if as_json:
        click.echo(json.dumps([vars(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            mark = click.style("ok    ", fg="green") if verdict.passed else click.style("FAILED", fg="red")
            click.echo(f"{mark}  {verdict.name}{': ' + verdict.detail if verdict.detail else ''}")
        answer = (
            "keeps the contract" if not failed else f"breaks the contract in {len(failed)} of {len(verdicts)} checks"
        )
        click.secho(f"{method} {answer}.", bold=True)
    sys.exit(1 if failed else 0)
