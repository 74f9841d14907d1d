"""What ``npasbench verify`` prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import click

from npasbench.commands.wording import plural
from npasbench.running.reading import short
from npasbench.running.verification import STATES

from .lots import Lots
from .verifying import Report, Subject

_MOST = 30
_DIFFERS = "differs"


def show(report: Report, file: Path | None) -> None:
    """A line for each cell with its states, then what differs, what could not be checked, and a sum."""
    cells: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for one in report.subjects:
        identity = one.run.identity
        cells[identity.task, identity.label, identity.budget][_state(one)] += 1
    for (task, label, budget), states in sorted(cells.items()):
        click.echo(f"{short(task, 60)}  {short(label, 60)}  {short(budget, 30)}: {_sum(states)}")
    for one in report.subjects:
        for check in one.checks:
            if check.name == "training":
                click.echo(f"trained again: {short(one.run.where, 200)}: {check.outcome}: {short(check.detail, 1000)}")
    if report.lots:
        _show_lots(report.lots)
    _show_differing(report)
    _show_unchecked(report)
    for doubt in report.doubts[:_MOST]:
        click.secho(f"? {short(doubt, 600)}", fg="yellow")
    if len(report.doubts) > _MOST:
        click.echo(f"? and {len(report.doubts) - _MOST:,} more doubts (--json lists them all)")
    for problem in report.problems[:_MOST]:
        click.echo(f"! {short(problem, 600)}", err=True)
    if len(report.problems) > _MOST:
        click.echo(f"! and {len(report.problems) - _MOST:,} more problems (--json lists them all)", err=True)
    total = Counter(_state(one) for one in report.subjects)
    unfinished = f" {plural(report.unfinished, 'run')} without a result passed over." if report.unfinished else ""
    click.echo(f"{plural(len(report.subjects), 'record')}: {_sum(total) or 'nothing to verify'}.{unfinished}")
    if file:
        click.echo(str(file))


def as_content(report: Report, file: Path | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    total = Counter(_state(one) for one in report.subjects)
    return {
        "states": {state: total[state] for state in (*STATES, _DIFFERS)},
        "runs": [_content(one) for one in report.subjects],
        "unfinished": report.unfinished,
        "doubts": list(report.doubts),
        "lots": {**vars(report.lots), "unable": dict(report.lots.unable)} if report.lots else None,
        "problems": list(report.problems),
        "written": str(file) if file else None,
    }


def _content(one: Subject) -> dict[str, Any]:
    names = ("task", "label", "budget", "seed", "fingerprint")
    return {
        "where": one.run.where,
        **{name: getattr(one.record, name) for name in names},
        "state": _state(one),
        "checks": [vars(check) for check in one.checks],
    }


def _show_lots(lots: Lots) -> None:
    """What was drawn, from how many, and what could not be."""
    known = f"; {plural(lots.known, 'run')} not new" if lots.known else ""
    click.echo(
        f"drawn by the seed {short(lots.seed, 200)}: {len(lots.drawn)} of {plural(lots.able, 'run')} that can be{known}"
    )
    for why, number in Counter(lots.unable).most_common(_MOST):
        click.echo(f"not drawn: {plural(number, 'run')}: {short(why, 300)}")
    if lots.short_of:
        click.echo(f"! {plural(lots.short_of, 'run')} fewer trained again than wished: no others can be.", err=True)


def _show_differing(report: Report) -> None:
    for one in report.differing[:_MOST]:
        for check in one.checks:
            if check.outcome == "differs":
                click.secho(
                    f"differs: {short(one.run.where, 200)}: {check.name}: {short(check.detail, 1000)}", fg="red"
                )
    if len(report.differing) > _MOST:
        click.echo(f"and {len(report.differing) - _MOST:,} more records that differ (--json lists them all)")


def _show_unchecked(report: Report) -> None:
    every = [check for one in report.subjects for check in one.checks if check.outcome == "not checked"]
    counted = Counter((check.name, check.detail) for check in every)
    for (name, detail), number in counted.most_common(_MOST):
        click.echo(f"not checked: {name} of {plural(number, 'record')}: {short(detail, 400)}")


def _state(one: Subject) -> str:
    return one.state or _DIFFERS


def _sum(states: Counter[str]) -> str:
    return ", ".join(f"{states[state]:,} {state}" for state in (*STATES, _DIFFERS) if states[state])
