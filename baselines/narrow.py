"""The control that every sharing method must beat: the same architecture with fewer (or more) channels."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from npasbench.api import Architecture, BudgetTooSmall, Findings, Method, Problem
from npasbench.budget import Accounting
from npasbench.measuring.count import count

_HALVINGS = 40
_LEAST = 1e-6
"""A width that leaves one channel everywhere."""


class Narrow(Method):
    """Every channel count, the stem's included, times the largest real number with which the network fits the budget."""

    def skip(self, problem: Problem) -> str | None:
        """An architecture without a width setting cannot be narrowed."""
        rigid = [a.name for a in problem.architectures if not a.has_width]
        return f"{', '.join(rigid)} has no width setting" if rigid else None

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The widest network that fits."""
        return problem.create(width=widest(problem.architectures, problem.budget.parameters, problem.budget.accounting))


@functools.lru_cache(maxsize=64)
def widest(architectures: tuple[Architecture, ...], parameters: int, accounting: Accounting) -> float:
    """The largest width with which the dense networks together fit ``parameters``, by bisection on their count.

    Raises:
        BudgetTooSmall: if even one channel everywhere is too much.
    """
    return largest_width(functools.partial(_size, architectures, accounting), parameters)


def largest_width(size: Callable[[float], int], parameters: int) -> float:
    """The largest width whose ``size``, which never falls as the width grows, is within ``parameters``; by bisection.

    Raises:
        BudgetTooSmall: if even one channel everywhere is too much.
    """
    low, high = 0.0, 1.0
    if size(_LEAST) > parameters:
        raise BudgetTooSmall(smallest=size(_LEAST))
    while size(high) <= parameters:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return max(low, _LEAST)


def _size(architectures: tuple[Architecture, ...], accounting: Accounting, width: float) -> int:
    with torch.device("meta"):
        counted = [(times, count(one.create(width=width))) for one, times in Counter(architectures).items()]
    return sum(times * one.held(accounting) for times, one in counted)
