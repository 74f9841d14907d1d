"""A dense network some of whose weights are switched off: what pruning methods are made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.budget import Budget
from npasbench.errors import BudgetTooSmall, MethodError
from npasbench.measuring.count import count
from npasbench.networks.members import Member, one_by_one
from npasbench.pruning.masks import apart, in_a_row
from npasbench.sharing.layers import LayerSpec

PREFIX = "architecture."
"""What names of the architecture's parameters begin with in a :class:`MaskedNetwork`."""


class MaskedNetwork(nn.Module):
    """``architecture`` whose ``layers`` carry masks: True where a weight remains. A masked weight is zero and stays so.

    ``keep`` is how many weights of the layers may remain at the end, given what else the ``budget`` has to hold:
    under bank accounting no norms and no biases. Masks are by parameter name in this network (of a tied weight the name
    that ``named_parameters`` gives), the form in which :class:`~npasbench.method.Structure` keeps them.

    Raises:
        BudgetTooSmall: if the budget does not leave at least one weight for each layer.
    """

    def __init__(self, architecture: nn.Module, layers: Sequence[LayerSpec], budget: Budget) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers, self.budget = tuple(layers), budget
        first = {id(parameter): name for name, parameter in architecture.named_parameters()}
        self._names = tuple(first[id(architecture.get_parameter(layer.name))] for layer in layers)
        self.prunable = sum(layer.size for layer in layers)
        self.rest = count(architecture).total - self.prunable
        held = self.rest if budget.accounting == "total" else self._unmasked_bank()
        if budget.parameters - held < len(layers):
            raise BudgetTooSmall(smallest=held + len(layers))
        self.keep = min(self.prunable, budget.parameters - held)
        for index, layer in enumerate(layers):
            self.register_buffer(f"mask{index}", torch.ones(layer.shape, dtype=torch.bool), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The architecture's own forward."""
        return self.architecture(*args, **kwargs)

    def one_by_one(self) -> AbstractContextManager[Sequence[Member]] | None:
        """The architecture's members, if it is an ensemble."""
        return one_by_one(self.architecture)

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name."""
        return {f"{PREFIX}{name}": self.get_buffer(f"mask{i}") for i, name in enumerate(self._names)}

    @masks.setter
    def masks(self, masks: Mapping[str, Tensor]) -> None:
        own = self.masks
        if set(masks) != set(own):
            raise MethodError(f"Masks are for {sorted(masks)[:3]} ..., but this network has {sorted(own)[:3]} ...")
        for name, mask in masks.items():
            own[name].copy_(mask)
        self.apply_masks()

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The prunable weights by parameter name."""
        return {f"{PREFIX}{name}": self.architecture.get_parameter(name) for name in self._names}

    def apply_masks(self) -> None:
        """Set every masked weight to zero."""
        masks = self.masks
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(masks[name])

    def mask_gradients(self) -> None:
        """Drop the gradients of masked weights, so that no momentum gathers there."""
        masks = self.masks
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(masks[name])

    def keep_largest(self, scores: Mapping[str, Tensor], keep: int) -> None:
        """Keep exactly the ``keep`` weights of the largest scores over these layers, and switch off the others.

        Of equal scores those stay that torch's topk takes: magnitude's published runs were pruned so. Otherwise
        :func:`~npasbench.pruning.masks.largest` is the function to call.

        Raises:
            LayerCollapse: if a layer would be left without any weight.
        """
        flat = in_a_row(scores, keep)
        kept = torch.zeros_like(flat, dtype=torch.bool)
        kept[flat.topk(keep).indices] = True
        self.masks = {**self.masks, **apart(kept, scores)}

    def export(self) -> nn.Module:
        """The architecture as a plain dense network with zeros where weights were removed."""
        return copy.deepcopy(self.architecture)

    def _unmasked_bank(self) -> int:
        """What bank accounting counts beside the layers: weights that are excluded from pruning."""
        nothing = {
            name: torch.zeros(layer.shape, dtype=torch.bool)
            for name, layer in zip(self._names, self.layers, strict=True)
        }
        return count(self.architecture, masks=nothing).bank_params
