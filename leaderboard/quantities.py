"""What a cell has beside its accuracy, before and after: metrics with intervals over seeds, counts and multiply-adds exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from npasbench.running.record import Record

from . import words
from .board import Cell
from .statistics import Interval, paired_difference

Verdict = Literal["better", "worse", "undecided", "the same"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Values = Mapping[int, float]
"""By seed."""


@dataclass(frozen=True)
class Quantity:
    """Something that every record tells, of which less is better unless said otherwise."""

    key: str
    title: str
    read: Callable[[Record], float | None]
    exact: bool = True
    """Whether it follows from the definition, or is measured with the noise of training."""
    digits: int = 0
    scale: float = 1.0
    more_is_better: bool = False


def _metric(key: str) -> Callable[[Record], float | None]:
    return lambda record: record.metrics.get(key)


QUANTITIES = (
    Quantity("top5", "top-5 accuracy (points)", _metric("top5"), False, 2, 100, more_is_better=True),
    Quantity("nll", "NLL", _metric("nll"), False, 4),
    Quantity("ece", "ECE (points)", _metric("ece"), False, 2, 100),
    Quantity("parameters", "parameters", lambda record: record.parameters.get("total")),
    Quantity("bank_params", "parameters in banks", lambda record: record.bank_params),
    Quantity("effective_parameters", "effective parameters", lambda record: record.effective_parameters),
    Quantity("side_information_bits", "bits of side information", lambda record: record.side_information_bits),
    Quantity("macs", "MACs", lambda record: record.costs.get("macs")),
    Quantity("generation_macs", "MACs of generation", lambda record: record.costs.get("generation_macs")),
)


@dataclass(frozen=True)
class Shift:
    """One quantity of a cell that is in both folders, over the seeds that both have."""

    quantity: Quantity
    verdict: Verdict
    n: int
    difference: Interval | None = None
    """The second folder's minus the first's, of a metric."""
    before: float | None = None
    """The largest over the seeds, of what is exact."""
    after: float | None = None
    why: str = ""


def judged(before: Values, after: Values, *, more_is_better: bool) -> tuple[Verdict, Interval | None, str]:
    """What became of something measured: by the 95 % interval of the paired differences, corrected for nothing."""
    common = before.keys() & after.keys()
    if not common:
        return "undecided", None, "no seed in common"
    difference = paired_difference(after, before)
    if all(_alike(before[seed], after[seed]) for seed in common):
        return "the same", difference, ""
    lost = sum(math.isnan(after[seed]) and not math.isnan(before[seed]) for seed in common)
    found = sum(math.isnan(before[seed]) and not math.isnan(after[seed]) for seed in common)
    if lost or found:
        verdict: Verdict = "undecided" if lost and found else "worse" if lost else "better"
        return verdict, difference, f"{words.seeds(lost)} became NaN, {found} became a number"
    match difference.verdict if difference else "too few":
        case "too few":
            return "undecided", difference, "too few common seeds to tell"
        case "tie":
            return "undecided", difference, "the interval holds zero"
        case "higher":
            return ("better" if more_is_better else "worse"), difference, ""
    return ("worse" if more_is_better else "better"), difference, ""


def shifts(a: Cell, b: Cell) -> Iterator[Shift]:
    """Every quantity that either cell's records tell."""
    for quantity in QUANTITIES:
        before, after = _values(a, quantity), _values(b, quantity)
        common = before.keys() & after.keys()
        if not before and not after:
            continue
        if not before or not after:
            why = f"only the {'first' if before else 'second'} folder tells it"
            yield Shift(quantity, "undecided", 0, before=_most(before), after=_most(after), why=why)
        elif not quantity.exact:
            verdict, difference, why = judged(before, after, more_is_better=quantity.more_is_better)
            yield Shift(quantity, verdict, len(common), difference, why=why)
        elif common:
            yield _exact(quantity, {seed: before[seed] for seed in common}, {seed: after[seed] for seed in common})


def _exact(quantity: Quantity, before: Values, after: Values) -> Shift:
    gaps = [after[seed] - before[seed] for seed in sorted(before)]
    verdict: Verdict = "undecided"
    if not any(gaps):
        verdict = "the same"
    elif all(gap <= 0 for gap in gaps):
        verdict = "better"
    elif all(gap >= 0 for gap in gaps):
        verdict = "worse"
    why = "more with some seeds, fewer with others" if verdict == "undecided" else ""
    return Shift(quantity, verdict, len(before), None, _most(before), _most(after), why)


def _values(cell: Cell, quantity: Quantity) -> dict[int, float]:
    found = {run.identity.seed: quantity.read(run.record) for run in cell.counted if run.record}
    return {seed: value for seed, value in found.items() if value is not None}


def _most(values: Values) -> float | None:
    return max(values.values(), default=None)


def _alike(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
