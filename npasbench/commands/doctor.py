"""``npasbench doctor``: what this machine and cluster can do."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.options import data_root_option, json_option, runs_option
from npasbench.commands.wording import plural

if TYPE_CHECKING:
    from npasbench.cluster.checks import Check

_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}
_NAME = 15


@click.command("doctor")
@runs_option
@data_root_option
@json_option
def doctor(runs: Path, data_root: Path | None, as_json: bool) -> None:
    """Tell what this machine and cluster can do, line by line: ok, note or wrong. Exits 1 if something is wrong.

    \b
    Example:  npasbench doctor
    """
    from npasbench.cluster.checks import installation_checks, machine_checks
    from npasbench.cluster.folder_checks import folder_checks
    from npasbench.cluster.slurm_checks import slurm_checks

    rooms: dict[str, Iterable[Check]] = {
        "Machine": machine_checks(),
        "Installation": installation_checks(data_root),
        "Folder of runs": folder_checks(runs),
        "Cluster": slurm_checks(runs),
    }
    levels = _report(rooms) if as_json else _print(rooms)
    sys.exit(1 if levels["wrong"] else 0)


def _report(rooms: Mapping[str, Iterable[Check]]) -> Counter[str]:
    checks = [{"room": room, **asdict(check)} for room, found in rooms.items() for check in found]
    levels = Counter(str(check["level"]) for check in checks)
    click.echo(json.dumps({"levels": levels, "checks": checks}, indent=1))
    return levels


def _print(rooms: Mapping[str, Iterable[Check]]) -> Counter[str]:
    """A line for each check as soon as it is made."""
    levels: Counter[str] = Counter()
    for room, found in rooms.items():
        click.secho(room, bold=True)
        for check in found:
            levels[check.level] += 1
            level = click.style(f"{check.level:<5}", fg=_COLOURS[check.level])
            click.echo(f"  {level}  {check.name:<{_NAME}}  {check.said}")
    wrong = f"{plural(levels['wrong'], 'thing')} wrong" if levels["wrong"] else "Nothing is wrong"
    click.echo(f"{wrong}, {plural(levels['note'], 'note')}.")
    return levels
