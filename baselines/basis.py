"""Wang, Chen, Lin, Li & Zhang, "Basis Sharing: Cross-Layer Parameter Sharing for Large Language Model Compression" (ICLR 2025).

The weights of several layers stand side by side in one matrix, whose singular value decomposition, cut at k, gives a
basis that they share and coefficients of each layer: W_l = B C_l. The paper compresses trained layers of one type;
here the layers of equal shape share a basis, which is trained from the decomposition of their initial weights.

The coefficients are most of what is trained, a column for each input of each layer. So they are called factors here,
and are decayed and counted as the basis is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from npasbench.api import Knobs, LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.factors import Factored, ends, ranks_around, spectral
from npasbench.sharing.groups import group_by
from npasbench.sharing.initial import normal


class BasisKnobs(Knobs):
    """What is cut off makes ``"spectral"`` weights smaller than ordinary ones; ``"scaled"`` ones have their deviation.

    With ``whole_ends`` the first and the last layer are stored as they are, where that leaves each shape a vector.
    """

    init: Literal["spectral", "scaled"] = "spectral"
    whole_ends: bool = True


class Basis(SharingMethod):
    """Layers of equal shape share k basis vectors; one fraction of all that could be for each shape, by the budget."""

    knobs = BasisKnobs
    version = 2
    cite = """@inproceedings{wang2025basis,
  title = {Basis Sharing: Cross-Layer Parameter Sharing for Large Language Model Compression},
  author = {Wang, Jingcun and Chen, Yu-Guang and Lin, Ing-Chao and Li, Bing and Zhang, Grace Li},
  booktitle = {International Conference on Learning Representations},
  year = {2025}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Bases and coefficients within ``parameters`` scalars; layers whose factors would be no smaller stay whole."""
        kept = ends(layers) if self.settings.whole_ends else set()
        groups = list(group_by(layers, lambda layer: (layer.shape, layer.name if layer.name in kept else "")).values())
        whole = {index for index, group in enumerate(groups) if group[0].name in kept}
        vectors = ranks_around([_factored(group) for group in groups], whole, parameters)
        return SharedBases(groups, vectors, self.settings.init == "scaled", rng)


class SharedBases(WeightGenerator):
    """For each shape ``basis [out, k] @ factors [k, layers * in * kernel]``, all layers side by side."""

    def __init__(
        self,
        groups: Sequence[Sequence[LayerSpec]],
        vectors: Sequence[int | None],
        scaled: bool,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.basis, self.factors = nn.ParameterDict(), nn.ParameterDict()
        self.unshared = nn.ParameterList()
        self.groups: dict[str, tuple[tuple[int, ...], list[str]]] = {}
        self.whole: list[str] = []
        for index, (group, k) in enumerate(zip(groups, vectors, strict=True)):
            drawn = [normal(*layer.shape, std=layer.std, rng=rng) for layer in group]
            if k is None:
                self.whole += [layer.name for layer in group]
                self.unshared.extend([nn.Parameter(weight) for weight in drawn])
            else:
                self.groups[str(index)] = (group[0].shape, [layer.name for layer in group])
                side_by_side = torch.cat([weight.flatten(1) for weight in drawn], dim=1)
                basis, factors = spectral(side_by_side, k, scaled=scaled)
                self.basis[str(index)] = nn.Parameter(basis)
                self.factors[str(index)] = nn.Parameter(factors)

    def forward(self) -> dict[str, Tensor]:
        """``[out, k] @ [k, layers * rest] -> layers of [out, *rest]``, one product for each shape."""
        weights: dict[str, Tensor] = dict(zip(self.whole, self.unshared, strict=True))
        for index, (shape, names) in self.groups.items():
            side_by_side = self.basis[index] @ self.factors[index]
            apart = side_by_side.view(shape[0], len(names), -1).transpose(0, 1).reshape(len(names), *shape)
            weights |= dict(zip(names, apart.unbind(0), strict=True))
        return weights

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Each layer's group and the number of vectors in its basis."""
        shared = {
            name: {"group": int(index), "vectors": self.basis[index].shape[1]}
            for index, (_, names) in self.groups.items()
            for name in names
        }
        return shared | {name: {"vectors": "full"} for name in self.whole}


def _factored(group: Sequence[LayerSpec]) -> Factored:
    out, columns = group[0].shape[0], len(group) * (group[0].size // group[0].shape[0])
    return Factored(out + columns, out * columns, min(out, columns))
