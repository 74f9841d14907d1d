"""Masks over what a network generates its weights from: any sharing method's bank, whatever its tensors are called.

The masks are buffers of the network that are in no state; a method's structure holds them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from npasbench.errors import BudgetTooSmall, MethodError
from npasbench.measuring.count import count
from npasbench.problem import Problem
from npasbench.sharing.groups import UNDECAYED
from npasbench.sharing.network import SharedNetwork, WeightGenerator


@dataclasses.dataclass(frozen=True)
class PrunedBank:
    """The tensors of a network that are pruned: their names in it, their ``size`` together, how many entries to ``keep``."""

    names: tuple[str, ...]
    size: int
    keep: int

    @classmethod
    def on(cls, network: nn.Module, problem: Problem, final: int) -> PrunedBank:
        """The bank of a network, which is given full masks; what the rest leaves of the budget is what it is to keep.

        ``final`` is how many trained scalars the network would have at the end if nothing were pruned.

        Raises:
            BudgetTooSmall: if that is not an entry for each tensor.
        """
        tensors = bank_tensors(network)
        size = sum(one.numel() for one in tensors.values())
        others = final - size
        if problem.budget.accounting == "bank":
            nothing = {name: torch.zeros_like(one, dtype=torch.bool) for name, one in tensors.items()}
            others = count(network, masks=nothing).bank_params
        keep = min(size, problem.budget.parameters - others)
        if keep < len(tensors):
            raise BudgetTooSmall
        for place, one in enumerate(tensors.values()):
            network.register_buffer(_buffer(place), torch.ones_like(one, dtype=torch.bool), persistent=False)
        return cls(tuple(tensors), size, keep)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The tensors by name.

        Raises:
            MethodError: if the network has others now than it was built with.
        """
        now, masks = dict(network.named_parameters()), self.masks(network)
        changed = [name for name, mask in masks.items() if name not in now or now[name].shape != mask.shape]
        if changed:
            raise MethodError(
                f"'{changed[0]}' was pruned, and now it is gone or of another shape: masks need a bank that stays as it is "
                "while the network trains."
            )
        return {name: now[name] for name in self.names}

    def masks(self, network: nn.Module) -> dict[str, Tensor]:
        """The masks by their tensors' names."""
        return {name: network.get_buffer(_buffer(place)) for place, name in enumerate(self.names)}

    def mask(self, network: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Take over masks, and set what they remove to zero.

        Raises:
            MethodError: if they are of other tensors.
        """
        own, weights = self.masks(network), self.weights(network)
        if any(name not in masks or masks[name].shape != weight.shape for name, weight in weights.items()):
            raise MethodError(
                f"The masks are of {sorted(masks)[:3]}; the bank is {list(self.names)[:3]}, or of other shapes."
            )
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(masks[name])
                weight.mul_(own[name])


class AbsoluteWeights(WeightGenerator):
    """What another generator makes, as absolute values."""

    def __init__(self, generator: WeightGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self) -> dict[str, Tensor]:
        """By layer name."""
        return {name: weight.abs() for name, weight in self.generator().items()}


def shared_networks(network: nn.Module) -> list[SharedNetwork]:
    """The network itself, or its parts whose weights are generated."""
    return [module for module in network.modules() if isinstance(module, SharedNetwork)]


def bank_tensors(network: nn.Module) -> dict[str, nn.Parameter]:
    """The trained tensors that weights are generated from, but for coefficients, embeddings, scales and biases."""
    wanted = {
        id(parameter)
        for shared in shared_networks(network)
        for name, parameter in shared.generator.named_parameters()
        if parameter.requires_grad and name.split(".")[0] not in UNDECAYED and not _is_bias(name.rpartition(".")[2])
    }
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) in wanted}


def _buffer(place: int) -> str:
    return f"prune_after_mask{place}"


def _is_bias(local: str) -> bool:
    """By its name, as counts tell them."""
    return local.startswith("bias") or local.endswith("_bias")
