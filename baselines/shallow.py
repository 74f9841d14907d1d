"""The other dense control: the same architecture with fewer (or more) blocks."""

from __future__ import annotations

import torch
from torch import nn

from npasbench.api import BudgetTooSmall, Findings, Method, Problem
from npasbench.measuring.count import count


class Shallow(Method):
    """The deepest network of the same family and width that fits the budget."""

    def skip(self, problem: Problem) -> str | None:
        """An architecture without a depth setting, or at its least depth, cannot get shallower."""
        for architecture in problem.architectures:
            if not architecture.depths:
                return f"{architecture.name} has no depth setting"
            if architecture.depth == min(architecture.depths):
                return f"{architecture.name} cannot get shallower"
        return "members would need a depth each" if len(problem.architectures) > 1 else None

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The deepest network that fits."""
        return problem.create(depth=deepest(problem))


def deepest(problem: Problem) -> int:
    """The largest depth of the architecture's family with which the network fits the budget.

    Raises:
        BudgetTooSmall: if the least depth is too much.
    """
    chosen: int | None = None
    for depth in problem.architectures[0].depths:
        with torch.device("meta"):
            size = count(problem.create(depth=depth)).held(problem.budget.accounting)
        if size > problem.budget.parameters:
            if chosen is None:
                raise BudgetTooSmall(smallest=size)
            break
        chosen = depth
    return chosen or problem.architectures[0].depths[0]
