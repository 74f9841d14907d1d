"""``npasbench plan``: what a suite or task would run, and what is done already."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npasbench.commands.options import (
    data_root_option,
    json_option,
    label_for,
    label_option,
    plugin_option,
    read_knobs,
    read_seeds,
    runs_option,
    set_option,
    with_option,
)
from npasbench.commands.other_images import of_other_images
from npasbench.commands.planning import plan_runs
from npasbench.commands.wording import plural

if TYPE_CHECKING:
    from npasbench.commands.gaps import Cell, Gaps


@click.command("plan")
@click.argument("name", metavar="SUITE|TASK")
@click.option("--method", help="For a task: the method to run on it.")
@label_option
@click.option("--budget", "budgets", multiple=True, help="0.1, 10% or 18M; may be repeated.")
@click.option("--seeds", help="Such as 0-9 or 0,3.")
@set_option
@with_option
@plugin_option
@runs_option
@data_root_option
@json_option
def plan(
    name: str,
    method: str | None,
    label: str | None,
    budgets: tuple[str, ...],
    seeds: str | None,
    settings: tuple[str, ...],
    addons: tuple[str, ...],
    plugins: tuple[str, ...],
    runs: Path,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Show the runs of a suite or task, cell by cell, the largest gaps first: how many are done, how long the rest takes.

    The estimate is what runs of the same cell took; else of the same label at the nearest budget, else of the same task.

    \b
    Example:  npasbench plan digits15
    """
    from npasbench.commands.gaps import find_gaps

    knobs = read_knobs(settings)
    label = label or (label_for(method, knobs, addons) if method else None)
    specs = plan_runs(name, method, label, knobs, budgets, read_seeds(seeds), plugins, addons, data_root)
    gaps = find_gaps(specs, runs)
    if as_json:
        click.echo(json.dumps(_report(gaps), indent=1))
    else:
        _print(gaps)
        for sentence in of_other_images(specs, runs):
            click.echo(sentence)


def _report(gaps: Gaps) -> dict[str, Any]:
    states = gaps.states
    return {
        "runs": gaps.runs,
        "states": states,
        "open": sum(cell.open for cell in gaps.cells),
        "device_hours_left": _hours(gaps.seconds_left),
        "without_estimate": gaps.unknown,
        "cells": [
            {
                "task": cell.spec.task.name,
                "label": cell.spec.label,
                **({"with": [one.word for one in cell.spec.addons]} if cell.spec.addons else {}),
                "budget": cell.spec.budget,
                "parameters": cell.spec.budget_parameters,
                "states": cell.states,
                "open": cell.open,
                "device_seconds_of_a_run": cell.estimate.seconds if cell.estimate else None,
                "estimated_from": cell.estimate.source if cell.estimate else None,
                "device_hours_left": _hours(cell.seconds_left),
            }
            for cell in gaps.cells
        ],
        "source_changed": gaps.stale,
    }


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def _print(gaps: Gaps) -> None:
    width = max((len(cell.spec.task.name) for cell in gaps.cells), default=0)
    for cell in gaps.cells:
        spec, states = cell.spec, ", ".join(f"{number} {state}" for state, number in cell.states.items())
        left = f"  {_left(cell)}" if cell.open else ""
        if spec.addons:
            left += f"  {spec.method} with {', '.join(one.name for one in spec.addons)}"
        click.echo(
            f"{spec.task.name:<{width}}  {spec.label:<20} {spec.budget:>8} = {spec.budget_parameters:>11,}  {states}{left}"
        )
    click.echo(
        f"{plural(gaps.runs, 'run')}: "
        + ", ".join(f"{number} {state}" for state, number in sorted(gaps.states.items()))
        + "."
    )
    _print_left(gaps)
    for label in gaps.stale:
        click.echo(f"The source of '{label}' has changed since some of its runs were done; they are kept as they are.")


def _left(cell: Cell) -> str:
    from npasbench.commands.estimates import duration

    return "(no estimate)" if cell.seconds_left is None else f"({duration(cell.seconds_left)} left)"


def _print_left(gaps: Gaps) -> None:
    """The device time that is missing and how it is known."""
    from npasbench.commands.estimates import duration

    known = [cell for cell in gaps.cells if cell.open and cell.estimate]
    if known and gaps.seconds_left is not None:
        by: Counter[str] = Counter()
        for cell in known:
            by[cell.estimate.source if cell.estimate else ""] += cell.open
        of = ", ".join(
            f"{by[source]} by others of their {source}" for source in ("cell", "label", "task") if by[source]
        )
        click.echo(f"Left: about {duration(gaps.seconds_left)} of one device, for {plural(by.total(), 'run')} ({of}).")
    for task, number in gaps.unknown.items():
        click.echo(f"{task}: no run of this task is done yet; no estimate for {plural(number, 'run')}.")
