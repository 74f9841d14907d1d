"""What cannot be about figures, whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from npasbench.running.reading import short

TOLERANCE = 1e-9
_ROUNDING = 1e-6
_SHARES = ("accuracy", "top5", "ece")


def metric_faults(metrics: Mapping[str, float]) -> Iterator[str]:
    """What cannot be about metrics: a share outside of 0 to 1, a negative figure, no number, top5 below accuracy."""
    for name, value in metrics.items():
        if math.isnan(value):
            yield f"{short(name)} is no number"
        elif name in _SHARES and not -TOLERANCE <= value <= 1 + TOLERANCE:
            yield f"{name} is {value}, not between 0 and 1"
        elif value < 0:
            yield f"{short(name)} is negative"
    if metrics.get("top5", 1) < metrics.get("accuracy", 0) - TOLERANCE:
        yield "top5 is below accuracy"
    yield from nll_faults(metrics)


def nll_faults(metrics: Mapping[str, float]) -> Iterator[str]:
    """An NLL below what the wrong predictions alone cost.

    Accuracy and NLL are of the same probabilities. Where another class than the right one is the most probable, the right
    one has at most 1/2, and costs at least ln 2.
    """
    accuracy, nll = metrics.get("accuracy", 1.0), metrics.get("nll", math.inf)
    least = (1 - accuracy) * math.log(2)
    if 0 <= nll < least - _ROUNDING:
        yield (
            f"an NLL of {nll:.4g} cannot be with an accuracy of {accuracy:.4g}: each wrong prediction costs at least ln 2, "
            f"all of them {least:.4g}"
        )
