"""``npasbench compare``: what became better, worse or undecided from one folder of results to another."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .differences import CellKey, Change, Differences
    from .quantities import Shift
    from .statistics import Interval

_MOST = 20
_TOLD = ("worse", "better", "undecided")
_COLOURS = {"worse": "red", "better": "green"}


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare the results in A with those in B: folders of runs, folders of published results, or files of them.

    Cells are held against each other by task, label, definition and budget, over the seeds that both have, B minus A.
    Accuracy, top-5 accuracy, NLL and ECE are better or worse where the 95 % interval of the paired differences lies clear of
    zero; that is not corrected for how many cells there are. Counts, side information and MACs are compared exactly. Ends with
    1 if anything became worse, or a result could not be read.

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
    sys.exit(1 if found.worsened or found.problems else 0)


def _show(found: Differences, a: Path, b: Path) -> None:
    from . import words
    from .quantities import VERDICTS

    for verdict in _TOLD:
        for change in found.changes:
            if change.verdict == verdict:
                click.secho(_line(change), fg=_COLOURS.get(verdict))
    _show_shifted(found)
    for place, keys in ((a, found.only_a), (b, found.only_b)):
        for key in keys[:_MOST]:
            click.echo(f"only in {place}: {_named(key)}")
        if len(keys) > _MOST:
            click.echo(f"only in {place}: {len(keys) - _MOST:,} more cells (--json lists them all)")
    for one, other in found.runs[:_MOST]:
        click.echo(f"not the same result: {_brief(one.where)} and {_brief(other.where)} are one run")
    if len(found.runs) > _MOST:
        click.echo(f"not the same result: {len(found.runs) - _MOST:,} more runs")
    for problem in found.problems:
        click.echo(f"! {_brief(problem)}", err=True)
    counts = ", ".join(f"{found.number_of(v):,} {v}" for v in VERDICTS)
    click.echo(f"{words.plural(len(found.changes), 'cell')} in both: {counts}.")
    click.echo(f"Beside accuracy: {'; '.join(_sums(found)) or 'nothing changed'}.")
    click.echo(
        f"{words.plural(len(found.only_a), 'cell')} only in {a}, {len(found.only_b):,} only in {b}; "
        f"{words.plural(len(found.runs), 'run')} with another result."
    )


def _show_shifted(found: Differences) -> None:
    """What became worse or better beside accuracy; what is undecided stands in the sum alone."""
    for verdict in ("worse", "better"):
        several = [(key, shift) for key, shift in found.shifted if shift.verdict == verdict]
        for key, shift in several[:_MOST]:
            click.secho(f"{verdict}: {_named(key)}: {_shift(shift)}", fg=_COLOURS[verdict])
        if len(several) > _MOST:
            click.echo(f"{verdict}: {len(several) - _MOST:,} more quantities beside accuracy (--json lists them all)")


def _line(change: Change) -> str:
    interval = change.difference
    if interval is None:
        return f"{change.verdict}: {_named(change.key)}: {change.why}"
    why = f", {change.why}" if change.why else ""
    return f"{change.verdict}: {_named(change.key)}: {_apart(interval, 2, 100)} points, n {interval.n}{why}"


def _shift(shift: Shift) -> str:
    from . import words

    one, why = shift.quantity, f", {shift.why}" if shift.why else ""
    if shift.difference:
        return f"{one.title} {_apart(shift.difference, one.digits, one.scale)}, n {shift.n}{why}"
    before, after = (words.number(value, one.digits, scale=one.scale) for value in (shift.before, shift.after))
    return f"{one.title} {before} → {after}, n {shift.n}{why}"


def _sums(found: Differences) -> Iterator[str]:
    """How many cells became what in each quantity that changed anywhere."""
    from .quantities import QUANTITIES, VERDICTS

    for quantity in QUANTITIES:
        verdicts = [shift.verdict for _, shift in found.shifted if shift.quantity is quantity]
        if set(verdicts) - {"the same"}:
            counts = ", ".join(f"{verdicts.count(v):,} {v}" for v in VERDICTS if v in verdicts)
            yield f"{quantity.title.partition(' (')[0]} {counts}"


def _apart(interval: Interval, digits: int, scale: float) -> str:
    """A difference with its sign and its interval."""
    from . import words

    def signed(value: float) -> str:
        return f"{'+' if value > 0 else ''}{words.number(value, digits, scale=scale)}"

    ends = "" if math.isnan(interval.low) else f" [{signed(interval.low)}, {signed(interval.high)}]"
    return f"{signed(interval.mean)}{ends}"


def _named(key: CellKey) -> str:
    return " ".join(_brief(part, 60) for part in (key.task, key.label, key.budget))


def _brief(text: str, most: int = 600) -> str:
    from . import words

    return words.brief(text, most)


def _content(found: Differences) -> dict[str, Any]:
    from .quantities import VERDICTS

    return {
        "counts": {verdict: found.number_of(verdict) for verdict in VERDICTS},
        "cells": [
            {
                **_key(change.key),
                "verdict": change.verdict,
                "why": change.why,
                **_interval(change.difference),
                "others": [_other(shift) for shift in change.shifts],
            }
            for change in found.changes
        ],
        "only_a": [_key(key) for key in found.only_a],
        "only_b": [_key(key) for key in found.only_b],
        "runs_with_another_result": [[one.where, other.where] for one, other in found.runs],
        "problems": list(found.problems),
    }


def _key(key: CellKey) -> dict[str, Any]:
    return {"task": key.task, "task_fingerprint": key.fingerprint, "label": key.label, "budget": key.budget}


def _other(shift: Shift) -> dict[str, Any]:
    told = {"quantity": shift.quantity.key, "verdict": shift.verdict, "why": shift.why, "n": shift.n}
    if shift.quantity.exact or shift.difference is None:
        return told | {"before": _finite(shift.before), "after": _finite(shift.after)}
    return told | _interval(shift.difference)


def _interval(one: Interval | None) -> dict[str, Any]:
    if one is None:
        return {"difference": None, "low": None, "high": None, "n": 0}
    return {"difference": _finite(one.mean), "low": _finite(one.low), "high": _finite(one.high), "n": one.n}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
