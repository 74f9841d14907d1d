"""``npasbench compare``: what became better, worse or undecided from one folder of results to another."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .differences import CellKey, Change, Differences

_MOST = 20


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare the results in A with those in B: folders of runs, folders of published results, or files of them.

    Cells are held against each other by task, label, definition and budget: accuracy in B minus accuracy in A over the
    seeds that both have, with its 95 % interval. Better and worse are cells whose interval lies clear of zero; they are not
    corrected for how many cells there are. Ends with 1 if a cell became worse, or a result could not be read.

    \b
    Example:  npasbench compare results runs
    """
    from .differences import differences
    from .store import collect

    found = differences(collect(a), collect(b))
    if as_json:
        click.echo(json.dumps(_content(found), indent=1))
    else:
        _show(found, a, b)
    sys.exit(1 if found.number_of("worse") or found.problems else 0)


def _show(found: Differences, a: Path, b: Path) -> None:
    from . import words
    from .differences import VERDICTS

    for verdict in ("worse", "better", "undecided"):
        for change in found.changes:
            if change.verdict == verdict:
                click.secho(_line(change), fg={"worse": "red", "better": "green"}.get(verdict))
    for place, keys in ((a, found.only_a), (b, found.only_b)):
        for key in keys[:_MOST]:
            click.echo(f"only in {place}: {_named(key)}")
        if len(keys) > _MOST:
            click.echo(f"only in {place}: {len(keys) - _MOST:,} more cells (--json lists them all)")
    for one, other in found.runs[:_MOST]:
        click.echo(f"not the same result: {words.plain(one.where)} and {words.plain(other.where)} are one run")
    if len(found.runs) > _MOST:
        click.echo(f"not the same result: {len(found.runs) - _MOST:,} more runs")
    for problem in found.problems:
        click.echo(f"! {words.plain(problem)}", err=True)
    counts = ", ".join(f"{found.number_of(v):,} {v}" for v in VERDICTS)
    click.echo(f"{words.plural(len(found.changes), 'cell')} in both: {counts}.")
    click.echo(
        f"{words.plural(len(found.only_a), 'cell')} only in {a}, {len(found.only_b):,} only in {b}; "
        f"{words.plural(len(found.runs), 'run')} with another result."
    )


def _line(change: Change) -> str:
    from . import words

    interval = change.difference
    if interval is None:
        return f"{change.verdict}: {_named(change.key)}: {change.why}"
    ends = "" if math.isnan(interval.low) else f" [{words.signed(interval.low)}, {words.signed(interval.high)}]"
    why = f", {change.why}" if change.why else ""
    return f"{change.verdict}: {_named(change.key)}: {words.signed(interval.mean)}{ends} points, n {interval.n}{why}"


def _named(key: CellKey) -> str:
    from . import words

    return words.plain(f"{key.task} {key.label} {key.budget}")


def _content(found: Differences) -> dict[str, Any]:
    from .differences import VERDICTS

    return {
        "counts": {verdict: found.number_of(verdict) for verdict in VERDICTS},
        "cells": [
            {**_key(change.key), "verdict": change.verdict, "why": change.why, **_interval(change)}
            for change in found.changes
        ],
        "only_a": [_key(key) for key in found.only_a],
        "only_b": [_key(key) for key in found.only_b],
        "runs_with_another_result": [[one.where, other.where] for one, other in found.runs],
        "problems": list(found.problems),
    }


def _key(key: CellKey) -> dict[str, Any]:
    return {"task": key.task, "task_fingerprint": key.fingerprint, "label": key.label, "budget": key.budget}


def _interval(change: Change) -> dict[str, Any]:
    one = change.difference
    if one is None:
        return {"difference": None, "low": None, "high": None, "n": 0}
    low, high, mean = (None if math.isnan(value) else value for value in (one.low, one.high, one.mean))
    return {"difference": mean, "low": low, "high": high, "n": one.n}
