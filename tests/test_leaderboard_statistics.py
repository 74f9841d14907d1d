"""Intervals against scipy, and the words for ties and too few seeds."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from npasbench.leaderboard.statistics import TELLING_SEEDS, Interval, mean_interval, paired_difference


@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_a_mean_interval_is_scipys_t_interval(n: int) -> None:
    draw = random.Random(n)
    values = [draw.gauss(0.9, 0.02) for _ in range(n)]
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    assert interval is not None
    assert (interval.low, interval.high, interval.n) == (
        pytest.approx(low, abs=1e-12),
        pytest.approx(high, abs=1e-12),
        n,
    )


def test_a_paired_difference_is_scipys_paired_test_on_common_seeds() -> None:
    draw = random.Random(1)
    ours = {seed: draw.random() for seed in range(9)}
    theirs = {seed: draw.random() for seed in range(2, 12)}
    common = sorted(ours.keys() & theirs.keys())
    expected = stats.ttest_rel([ours[s] for s in common], [theirs[s] for s in common]).confidence_interval(0.95)
    interval = paired_difference(ours, theirs)
    assert interval is not None
    assert interval.n == len(common) == 7
    assert (interval.low, interval.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_nothing_gives_nothing_and_one_seed_gives_no_interval() -> None:
    assert mean_interval([]) is None
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    one = mean_interval([0.5])
    assert one is not None
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.half)


def test_nan_stays_nan() -> None:
    interval = mean_interval([0.5, math.nan, 0.7])
    assert interval is not None
    assert math.isnan(interval.mean)
    assert math.isnan(interval.half)
    assert interval.verdict == "too few"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.2, 0.1, 0.3, TELLING_SEEDS), "higher"),
        (Interval(-0.2, -0.3, -0.1, TELLING_SEEDS), "lower"),
        (Interval(0.1, -0.1, 0.3, TELLING_SEEDS), "tie"),
        (Interval(0.2, 0.1, 0.3, TELLING_SEEDS - 1), "too few"),
    ],
)
def test_a_verdict_needs_seeds_and_an_interval_clear_of_zero(interval: Interval, verdict: str) -> None:
    assert interval.verdict == verdict
