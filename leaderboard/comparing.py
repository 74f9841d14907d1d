"""Paired comparisons: exact sign-flip tests with the seed as the unit, their corrections, and test examples pair by pair."""

from __future__ import annotations

import base64
import binascii
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from npasbench.errors import RunError
from npasbench.running.reading import read_bits

from .statistics import TELLING_SEEDS, Interval, Verdict, paired_difference
from .store import Run

Floats = NDArray[np.float64]
LEVEL = 0.05
"""The chance of a false alarm, for all decisions of a family together."""
EXACT_SEEDS = 12
"""Up to so many seeds all sign flips are counted; of more, a fixed sample."""
DRAWN = 9_999
"""How many flips are drawn above that; with the unflipped one they are 10,000."""
_BLOCK = 1024
_SAME = 1 - 1e-9
"""Accuracies are fractions of one number, so equal sums are common; rounding must not decide between them."""


def least_p(seeds: int) -> float:
    """The smallest p that the test of one pair can reach with so many seeds in common: 2 / 2^n while it is exact."""
    return 2.0 ** (1 - seeds) if 0 < seeds <= EXACT_SEEDS else 1 / (DRAWN + 1) if seeds else 1.0


def flip_test(differences: Sequence[float]) -> float:
    """Two-sided p of a mean paired difference: the share of sign flips with a mean at least as far from zero.

    It is ``scipy.stats.permutation_test`` of the mean with ``permutation_type="samples"``. Without a difference p is 1.
    """
    return float(flip_tests(np.asarray(differences, dtype=float)[:, None])[0])


def flip_tests(differences: Floats) -> Floats:
    """The same for many pairs: ``[seeds, pairs]`` -> ``[pairs]``. NaN is a seed that the pair does not have in common."""
    weights, signs = _weights(differences)
    blocks = [_flipped(weights[:, start : start + _BLOCK], signs) for start in range(0, weights.shape[1], _BLOCK)]
    shares = [(block >= block[0] * _SAME).mean(axis=0) for block in blocks]
    return np.concatenate(shares) if shares else np.empty(0)


def joint_tests(differences: Floats) -> Floats:
    """Corrected p of every pair, by the step-down maximum over the flips of whole seeds (Westfall and Young 1993).

    ``[seeds, pairs]`` -> ``[pairs]``. A flip turns all pairs of a seed at once, so what they have in common is kept. A pair's
    statistic is ``|sum d| / sqrt(sum d^2)``, which orders a pair's flips as its mean does and is of one size for all pairs.
    Each pair is held against the largest statistic among those that are not larger than its own.
    """
    weights, signs = _weights(differences)
    observed = np.abs(weights.sum(axis=0))
    order = np.argsort(observed, kind="stable")
    largest = np.zeros((signs.shape[0], 1))
    p = np.empty(len(order))
    for start in range(0, len(order), _BLOCK):
        chosen = order[start : start + _BLOCK]
        flipped = np.maximum.accumulate(np.hstack([largest, _flipped(weights[:, chosen], signs)]), axis=1)
        p[chosen] = (flipped[:, 1:] >= observed[chosen] * _SAME).mean(axis=0)
        largest = flipped[:, -1:]
    p[order] = np.maximum.accumulate(p[order][::-1])[::-1]
    return p


@dataclass(frozen=True)
class Comparison:
    """One entry against the control at one budget: a paired difference, and what the corrected test says of it."""

    difference: Interval
    p: float | None
    """Of this comparison alone; None if seeds in common are too few to be tested at all, or a number is NaN."""
    corrected: float | None
    """By the step-down maximum over the ``family``."""
    family: int
    """How many comparisons with the control have seeds enough at this budget."""
    verdict: Verdict
    """``too few`` where no outcome of so few seeds could have been told."""


def against(control: Mapping[int, float], others: Sequence[Mapping[int, float]]) -> list[Comparison | None]:
    """Everyone against a control that was named beforehand, as one family; None without a common seed.

    Holm's correction multiplies the smallest p by the size of the family, so that ten seeds could tell nobody from the
    control once 26 are compared with it. The step-down maximum uses that all are held against the same runs of the control.
    """
    found = [paired_difference(other, control) for other in others]
    able = [at for at, one in enumerate(found) if one and one.n >= TELLING_SEEDS and math.isfinite(one.mean)]
    values = scores_table([control, *(others[at] for at in able)])
    differences = values[:, 1:] - values[:, :1]
    p, corrected = flip_tests(differences).tolist(), joint_tests(differences).tolist()
    tested = dict(zip(able, zip(p, corrected, strict=True), strict=True))
    return [_comparison(one, tested.get(at), len(able)) if one else None for at, one in enumerate(found)]


def scores_table(scores: Sequence[Mapping[int, float]]) -> Floats:
    """``[seeds, entries]``, with NaN where an entry lacks a seed."""
    seeds = sorted({seed for one in scores for seed in one})
    return np.array([[one.get(seed, math.nan) for one in scores] for seed in seeds]).reshape(len(seeds), len(scores))


def _comparison(difference: Interval, tested: tuple[float, float] | None, family: int) -> Comparison:
    if tested is None:
        return Comparison(difference, None, None, family, "too few")
    verdict: Verdict = "tie" if tested[1] > LEVEL else "higher" if difference.mean > 0 else "lower"
    return Comparison(difference, *tested, family, verdict)


@dataclass(frozen=True)
class ExamplePairs:
    """How two runs predict the same test examples."""

    both: int
    """Examples that both predict right."""
    first_only: int
    second_only: int
    neither: int
    p: float
    """McNemar's exact test: whether one of the two is right alone more often. It says something of these two trained
    networks on this test set, and nothing of other seeds."""


def example_pairs(first: Run, second: Run) -> ExamplePairs | None:
    """The 2x2 table of the test examples of two runs of one task and seed, from their packed correctness bits.

    None if task fingerprint or seed differ (then they have other test examples), or either has no readable bits.
    """
    ours, theirs = first.identity, second.identity
    if (ours.task_fingerprint, ours.seed) != (theirs.task_fingerprint, theirs.seed):
        return None
    examples = first.record.test_examples if first.record else None
    a, b = correct_bits(first), correct_bits(second)
    if a is None or b is None or not examples or not second.record or examples != second.record.test_examples:
        return None
    both = (a & b).bit_count()
    one, other = a.bit_count() - both, b.bit_count() - both
    return ExamplePairs(both, one, other, examples - both - one - other, _mcnemar(one, other))


def correct_bits(run: Run) -> int | None:
    """A bit for each test example, set where it was predicted right; None if the run has none, or not as many as examples."""
    examples = run.record.test_examples if run.record else None
    if not examples or examples < 1:
        return None
    packed = _from_directory(run) if run.directory else _from_line(run)
    if packed is None or len(packed) != (examples + 7) // 8:
        return None
    return int.from_bytes(packed, "big") >> (-examples % 8)


def _from_line(run: Run) -> bytes | None:
    try:
        return base64.b64decode(run.correct or "", validate=True)
    except (ValueError, binascii.Error):
        return None


def _from_directory(run: Run) -> bytes | None:
    try:
        return read_bits(run.directory.correct_file) if run.directory else None
    except RunError:
        return None


@lru_cache(maxsize=65_536)
def _mcnemar(one: int, other: int) -> float:
    """The two-sided binomial test; ``scipy.stats`` has it too, but takes a second to import."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5))) if one + other else 1.0


def _weights(differences: Floats) -> tuple[Floats, Floats]:
    """Each pair's differences by its root of squares, zero where it lacks a seed, and the signs that flip them."""
    known = np.where(np.isnan(differences), 0.0, differences)
    size = np.sqrt((known**2).sum(axis=0))
    return known / np.where(size > 0, size, 1.0), _signs(len(differences))


def _flipped(weights: Floats, signs: Floats) -> Floats:
    """The statistic of each pair under each flip; the first is the unflipped one. [flips, seeds] @ [seeds, pairs]"""
    return np.abs(signs @ weights)


@lru_cache(maxsize=8)
def _signs(seeds: int) -> Floats:
    """Flips as rows of 1 and -1, the first all 1. The tests are two-sided, so half of all flips stand for all."""
    if seeds <= EXACT_SEEDS:
        flips = list(range(2 ** max(seeds - 1, 0)))
    else:
        draw = random.Random(seeds)
        flips = [0, *(draw.getrandbits(seeds) for _ in range(DRAWN))]
    return np.array([[-1.0 if flip >> seed & 1 else 1.0 for seed in range(seeds)] for flip in flips])
