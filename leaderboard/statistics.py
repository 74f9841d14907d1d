"""From seeds to intervals: means, paired differences, and an honest word when there are too few seeds to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

RANKED_SEEDS = 3
"""A cell with fewer seeds is shown, but not ranked."""
TELLING_SEEDS = 6
"""With fewer common seeds a paired comparison is not decided: 6 is the least with which a sign-flip test can reach
p <= .05, at 2/2^6; below that a verdict would rest on the assumption of normality alone."""

Verdict = Literal["higher", "lower", "tie", "too few"]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` seeds and its 95 % Student t interval; the ends are NaN where ``n`` is 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width; NaN for one seed."""
        return (self.high - self.low) / 2

    @property
    def verdict(self) -> Verdict:
        """What an interval of paired differences says against zero, on its own: not corrected for other comparisons."""
        if self.n < TELLING_SEEDS or math.isnan(self.low):
            return "too few"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "tie"


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Mean and 95 % t interval of the values, one a seed; None without values. A NaN makes everything NaN."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _quantile(n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Mean of ``ours - theirs`` over the seeds both have, with its 95 % t interval; None without a common seed.

    A seed fixes split, order and augmentation for every method, so pairing removes what they share.
    """
    return mean_interval([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


@lru_cache(maxsize=1024)
def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
