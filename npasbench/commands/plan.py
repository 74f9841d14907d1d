"""``npasbench plan``: what a suite or task would run, and what is done already."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npasbench.commands.options import (
    json_option,
    label_for,
    label_option,
    plugin_option,
    read_knobs,
    read_seeds,
    runs_option,
    set_option,
)
from npasbench.commands.planning import plan_runs
from npasbench.commands.wording import plural

if TYPE_CHECKING:
    from npasbench.plan import RunSpec


@click.command("plan")
@click.argument("name", metavar="SUITE|TASK")
@click.option("--method", help="For a task: the method to run on it.")
@label_option
@click.option("--budget", "budgets", multiple=True, help="0.1, 10% or 18M; may be repeated.")
@click.option("--seeds", help="Such as 0-9 or 0,3.")
@set_option
@plugin_option
@runs_option
@json_option
def plan(
    name: str,
    method: str | None,
    label: str | None,
    budgets: tuple[str, ...],
    seeds: str | None,
    settings: tuple[str, ...],
    plugins: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Show the runs of a suite or task, cell by cell, and how many of them are done.

    \b
    Example:  npasbench plan digits15
    """
    knobs = read_knobs(settings)
    label = label or (label_for(method, knobs) if method else None)
    specs = plan_runs(name, method, label, knobs, budgets, read_seeds(seeds), plugins)
    cells = _cells(specs, runs)
    stale = _changed_since(specs, runs)
    if as_json:
        click.echo(json.dumps({"runs": len(specs), "cells": cells, "source_changed": stale}, indent=1))
        return
    for cell in cells:
        states = ", ".join(f"{number} {state}" for state, number in cell["states"].items())
        click.echo(f"{cell['task']}  {cell['label']:<20} {cell['budget']:>8} = {cell['parameters']:>11,}  {states}")
    total = Counter(state for cell in cells for state, number in cell["states"].items() for _ in range(number))
    click.echo(
        f"{plural(len(specs), 'run')}: "
        + ", ".join(f"{number} {state}" for state, number in sorted(total.items()))
        + "."
    )
    for label in stale:
        click.echo(f"The source of '{label}' has changed since some of its runs were done; they are kept as they are.")


def _cells(specs: list[RunSpec], runs: Path) -> list[dict[str, Any]]:
    from npasbench.running.rundir import RunDirectory

    cells: dict[Path, dict[str, Any]] = {}
    for spec in specs:
        cell = cells.setdefault(
            spec.cell_folder,
            {
                "task": spec.task.name,
                "label": spec.label,
                "budget": spec.budget,
                "parameters": spec.budget_parameters,
                "states": Counter(),
            },
        )
        cell["states"][RunDirectory.of(runs, spec).state()] += 1
    return list(cells.values())


def _changed_since(specs: list[RunSpec], runs: Path) -> list[str]:
    """Labels with finished runs whose method's source was another."""
    from npasbench.errors import RunError
    from npasbench.registry import Registry, source_hash
    from npasbench.running import record
    from npasbench.running.rundir import RunDirectory

    changed = set()
    now = {
        spec.method: source_hash(Registry(spec.plugins).method(spec.method))
        for spec in {s.method: s for s in specs}.values()
    }
    for spec in specs:
        file = RunDirectory.of(runs, spec).result_file
        if not file.exists():
            continue
        try:
            then = record.read(file).provenance.get("method_source")
        except RunError:
            continue
        if then != now[spec.method]:
            changed.add(spec.label)
    return sorted(changed)
