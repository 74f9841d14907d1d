"""Savarese & Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing" (ICLR 2019, arXiv 1902.09701).

Section 3: the layers of a stage mix k shared templates, W_i = sum_j a_ij T_j. A stage is here the layers of one shape,
as in the residual networks of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.api import LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.allocation import tensors_for_each_shape
from npasbench.sharing.groups import by_shape
from npasbench.sharing.initial import common_std, normal, orthogonal


class TemplateBank(SharingMethod):
    """Layers of equal shape mix k shared templates; k is what the budget affords, a orthogonal at the start, undecayed."""

    cite = """@inproceedings{savarese2019learning,
  title = {Learning Implicitly Recurrent {CNNs} Through Parameter Sharing},
  author = {Savarese, Pedro and Maire, Michael},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Templates for each shape and coefficients for each layer, within ``parameters`` scalars."""
        return MixedTemplates(layers, parameters, rng)


class MixedTemplates(WeightGenerator):
    """For each shape ``coefficients [layers, k] @ templates [k, size]``."""

    def __init__(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> None:
        super().__init__()
        groups = list(by_shape(layers).values())
        templates = tensors_for_each_shape(
            [group[0].size for group in groups],
            [len(group) for group in groups],
            parameters,
            limit=lambda layers: parameters,  # noqa: ARG005
            extra=lambda layers, k: layers * k if layers * k > 1 else 0,
        )
        self.templates = nn.ParameterList()
        self.coefficients = nn.ParameterDict()
        self.groups = [[(layer.name, layer.shape) for layer in group] for group in groups]
        for index, (group, k) in enumerate(zip(groups, templates, strict=True)):
            self.templates.append(nn.Parameter(normal(k, group[0].size, std=common_std(group), rng=rng)))
            if len(group) * k > 1:  # a layer that has its one template to itself needs no coefficient
                self.coefficients[str(index)] = nn.Parameter(orthogonal(len(group), k, rng))

    def forward(self) -> dict[str, Tensor]:
        """``[layers, k] @ [k, size] -> [layers, size]``, one product for each shape."""
        weights: dict[str, Tensor] = {}
        for index, (group, templates) in enumerate(zip(self.groups, self.templates, strict=True)):
            key = str(index)
            mixed = self.coefficients[key] @ templates if key in self.coefficients else templates
            weights |= {name: row.view(shape) for (name, shape), row in zip(group, mixed.unbind(0), strict=True)}
        return weights

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Each layer's group and the number of templates it mixes."""
        return {
            name: {"group": index, "templates": templates.shape[0]}
            for index, (group, templates) in enumerate(zip(self.groups, self.templates, strict=True))
            for name, _ in group
        }
