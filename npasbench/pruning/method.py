"""What methods that prune have in common: a masked network whose removed weights stay zero while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from npasbench import streams
from npasbench.method import Findings, Method, Progress
from npasbench.problem import Problem
from npasbench.pruning.network import PREFIX, MaskedNetwork
from npasbench.sharing.layers import shareable_layers


class PruningMethod(Method):
    """Trains the dense network under masks, those that its search has found (:func:`found`) or that it sets in its hooks."""

    def skip(self, problem: Problem) -> str | None:
        """At the dense size and above there is nothing to remove."""
        return "nothing to prune: the dense network fits" if problem.budget.fraction >= 1 else None

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The dense network, which remembers how many weights it has to end with, under the masks found, if any."""
        network = masked(problem)
        masks = masks_of(findings)
        if masks:
            network.masks = masks
        return network

    def final_count(self, network: nn.Module) -> int:
        """What remains when all masks are set."""
        own = masked_network(self, network)
        return own.rest + own.keep

    def after_backward(self, network: nn.Module, progress: Progress) -> None:  # noqa: ARG002
        """Removed weights gather no momentum."""
        masked_network(self, network).mask_gradients()

    def after_step(self, network: nn.Module, progress: Progress) -> None:  # noqa: ARG002
        """Removed weights stay at zero."""
        masked_network(self, network).apply_masks()


def masked(problem: Problem) -> MaskedNetwork:
    """The problem's dense network with full masks on all layers that may be pruned.

    Raises:
        BudgetTooSmall: if the budget does not leave at least one weight for each layer.
    """
    dense = problem.create()
    return MaskedNetwork(dense, shareable_layers(dense, problem.excluded), problem.budget)


def initial(problem: Problem, seed: int) -> MaskedNetwork:
    """The network that a run of this seed builds, weight for weight, for a search to look at; raises as :func:`masked`."""
    with streams.global_stream(seed, "init"):
        return masked(problem)


def found(masks: Mapping[str, Tensor], **facts: Any) -> Findings:
    """Findings of masks by parameter name, and of facts."""
    return Findings(facts, {name: mask.cpu() for name, mask in masks.items()})


def masks_of(findings: Findings) -> dict[str, Tensor]:
    """The masks among findings, as :func:`found` put them there: bool, by parameter name in the masked network."""
    return {
        name: mask for name, mask in findings.tensors.items() if name.startswith(PREFIX) and mask.dtype == torch.bool
    }


def masked_network(method: Method, network: nn.Module) -> MaskedNetwork:
    """``network``, which has to be one that a pruning method built."""
    if not isinstance(network, MaskedNetwork):
        raise TypeError(f"{method.name} works on the network it built, not on {type(network).__name__}")
    return network
