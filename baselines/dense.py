"""The architecture as it is: what every budget is a fraction of."""

from __future__ import annotations

import torch
from torch import nn

from npasbench.api import BudgetTooSmall, Findings, Method, Problem
from npasbench.measuring.count import count


class Dense(Method):
    """The dense network, unchanged. It meets budgets of 1 and more, and uses 1."""

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The dense network of the problem."""
        network = problem.create()
        held = count(network).held(problem.budget.accounting)
        if held > problem.budget.parameters:
            raise BudgetTooSmall(smallest=held)
        return network
