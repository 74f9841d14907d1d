"""Hard tying without a search: layers simply use the same tensor.

The orders are those of Takase & Kiyono, "Lessons on Parameter Sharing across Layers in Transformers" (arXiv 2104.06022,
section 2): *sequence* gives neighbours one tensor, *cycle* repeats the tensors in turn, *cycle-reverse* reverses the
last turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from npasbench.api import Knobs, LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.allocation import tensors_for_each_shape
from npasbench.sharing.bank import read_cyclic
from npasbench.sharing.groups import by_shape, contiguous_runs
from npasbench.sharing.initial import common_std, normal

Order = Literal["sequence", "cycle", "cycle-reverse"]


class NaiveKnobs(Knobs):
    """``order`` says which layers of a shape use one tensor; ``scope = "all"`` ties all layers to one flat vector."""

    order: Order = "sequence"
    scope: Literal["shape", "all"] = "shape"


class Naive(SharingMethod):
    """Layers of equal shape use one of as many tensors as the budget affords; or all layers read one flat vector."""

    knobs = NaiveKnobs
    cite = """@inproceedings{takase2023lessons,
  title = {Lessons on Parameter Sharing across Layers in Transformers},
  author = {Takase, Sho and Kiyono, Shun},
  booktitle = {SustaiNLP Workshop at ACL},
  year = {2023},
  note = {arXiv:2104.06022}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Tied tensors, or one vector of ``parameters`` scalars whose leading values every layer reads."""
        if self.settings.scope == "all":
            return OneVector(layers, parameters, rng)
        return TiedTensors(layers, parameters, self.settings.order, rng)


def tensor_of_each_layer(layers: int, tensors: int, order: Order) -> list[int]:
    """Which tensor each of ``layers`` layers uses, in network order (Takase & Kiyono, section 2)."""
    if order == "sequence":
        return contiguous_runs(layers, tensors)
    last_turn = (-(-layers // tensors) - 1) * tensors
    return [
        tensors - 1 - i % tensors if order == "cycle-reverse" and i >= last_turn else i % tensors for i in range(layers)
    ]


class TiedTensors(WeightGenerator):
    """One of several tensors for each layer of a shape: nothing is computed."""

    def __init__(self, layers: Sequence[LayerSpec], parameters: int, order: Order, rng: torch.Generator) -> None:
        super().__init__()
        groups = list(by_shape(layers).values())
        tensors = tensors_for_each_shape([g[0].size for g in groups], [len(g) for g in groups], parameters)
        self.bank = nn.ParameterList()
        self.tensor_of: dict[str, int] = {}
        for group, number in zip(groups, tensors, strict=True):
            for layer, which in zip(group, tensor_of_each_layer(len(group), number, order), strict=True):
                self.tensor_of[layer.name] = len(self.bank) + which
            std = common_std(group)
            self.bank.extend([nn.Parameter(normal(*group[0].shape, std=std, rng=rng)) for _ in range(number)])

    def forward(self) -> dict[str, Tensor]:
        """Each layer's tensor itself."""
        tensors = list(self.bank)
        return {name: tensors[which] for name, which in self.tensor_of.items()}

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Which tensor each layer uses."""
        return {name: {"tensor": which} for name, which in self.tensor_of.items()}


class OneVector(WeightGenerator):
    """Each layer reads the leading values of one vector, starting over where it needs more."""

    def __init__(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.sizes = [layer.size for layer in layers]
        self.bank = nn.Parameter(normal(min(parameters, max(self.sizes)), std=common_std(layers), rng=rng))

    def forward(self) -> dict[str, Tensor]:
        """``[n] -> [size]`` for each layer, with one gradient buffer."""
        read = read_cyclic(self.bank, self.sizes)
        return {name: flat.view(shape) for (name, shape), flat in zip(self.shapes.items(), read, strict=True)}

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Which part of the vector each layer reads, and how many times over."""
        length = self.bank.shape[0]
        return {
            name: {"start": 0, "end": min(size, length), "turns": -(-size // length)}
            for name, size in zip(self.shapes, self.sizes, strict=True)
        }
