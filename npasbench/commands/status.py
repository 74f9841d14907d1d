"""``npasbench status``: how the runs of a folder stand."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npasbench.commands.options import json_option, runs_argument
from npasbench.commands.wording import what_is_wrong
from npasbench.errors import UsageError

if TYPE_CHECKING:
    from npasbench.running.rundir import RunDirectory


@click.command("status")
@runs_argument
@json_option
def status(runs: Path, as_json: bool) -> None:
    """Show which runs wait, run, are done or failed, and why. Exits 1 if one failed or is corrupt.

    \b
    Example:  npasbench status runs
    """
    from npasbench.running.rundir import find_runs

    if not runs.is_dir():
        raise UsageError(f"There is no folder {runs}. Name the folder of all runs, or start some with 'npasbench run'.")
    rows = [_row(directory, runs) for directory in find_runs(runs)]
    states = Counter(row["state"] for row in rows)
    if as_json:
        click.echo(json.dumps({"runs": len(rows), "states": states, "rows": rows}, indent=1))
    else:
        _print(rows, states)
    sys.exit(1 if states["failed"] or states["corrupt"] else 0)


def _row(directory: RunDirectory, runs: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(directory.path.relative_to(runs)), "state": directory.state()}
    if row["state"] == "failed":
        row["reason"] = directory.failure().get("error", "failure.json cannot be read")
    if row["state"] == "corrupt":
        row["reason"] = what_is_wrong(directory)
    if row["state"] in ("running", "interrupted"):
        epochs = directory.epochs()
        row["epoch"] = epochs[-1]["epoch"] if epochs else 0
    return row


def _print(rows: list[dict[str, Any]], states: Counter[str]) -> None:
    cells: dict[str, Counter[str]] = {}
    for row in rows:
        cells.setdefault(row["run"].rsplit("/", 1)[0], Counter())[row["state"]] += 1
    width = max(map(len, cells), default=0)
    for cell, counts in cells.items():
        click.echo(f"{cell:<{width}}  " + ", ".join(f"{number} {state}" for state, number in sorted(counts.items())))
    for row in rows:
        if row["state"] in ("running", "interrupted"):
            click.echo(f"{row['run']}: {row['state']}, {row['epoch']} epochs done")
        elif "reason" in row:
            click.secho(f"{row['run']}: {row['state']}: {row['reason']}", fg="red")
    click.echo(
        f"{len(rows)} runs: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none") + "."
    )
