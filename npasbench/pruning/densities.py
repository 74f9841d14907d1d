"""How many weights each layer keeps where nothing is known yet: Erdos-Renyi-kernel densities.

Mocanu et al. (Nature Communications 2018) draw a linear layer's connections with a probability in proportion to
(inputs + outputs) / (inputs * outputs); Evci et al. (ICML 2020, section 3) add a convolution's kernel to both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from npasbench.errors import BudgetTooSmall

_HALVINGS = 100


def erk(shapes: Sequence[Sequence[int]], keep: int) -> list[int]:
    """The weights that each of ``shapes`` keeps of ``keep`` in all: at least one, at most all, and exactly ``keep`` together.

    A layer's density is in proportion to the sum of its dimensions over their product, its count therefore to their
    sum. A layer that would keep more than it has is made dense, and the others share what it leaves. What rounding
    leaves goes to the largest remainders. With ``keep`` at or above the size of all layers, all are dense.

    Raises:
        BudgetTooSmall: if there are more layers than weights to keep.
    """
    sizes = [math.prod(shape) for shape in shapes]
    sums = [sum(shape) for shape in shapes]
    if keep < len(sizes):
        raise BudgetTooSmall(smallest=len(sizes))
    if keep >= sum(sizes):
        return sizes
    shares = _shares(sizes, sums, keep)
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - shares[i])
    room = [index for index in by_remainder if counts[index] < sizes[index]]
    for index in room[: keep - sum(counts)]:
        counts[index] += 1
    return counts


def _shares(sizes: Sequence[int], sums: Sequence[int], keep: int) -> list[float]:
    """``scale * sum`` of each layer's dimensions, between 1 and its size, at the scale with which all come to ``keep``."""

    def at(scale: float) -> list[float]:
        return [min(float(size), max(1.0, scale * one)) for size, one in zip(sizes, sums, strict=True)]

    low, high = 0.0, max(size / one for size, one in zip(sizes, sums, strict=True))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= keep else (low, middle)
    return at(low)
