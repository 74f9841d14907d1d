"""Khodak, Tenenholtz, Mackey & Fusi, "Initialization and Regularization of Factorized Neural Layers" (ICLR 2021).

A layer's weight is a product of two factors, W = U V, and only these are trained. A convolution ``[out, in, k, k]`` is
the matrix ``[out k, in k]`` of Tai et al., "Convolutional neural networks with low-rank regularization" (ICLR 2016).
Section 3.1: *spectral initialisation*, the factors are those of an ordinarily initialised weight. Section 3.3:
*Frobenius decay*, the product is decayed instead of the factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from npasbench.api import Batch, Criterion, Knobs, LayerSpec, SharedNetwork, SharingMethod, WeightGenerator
from npasbench.sharing.factors import Factored, ends, ranks_around, spectral
from npasbench.sharing.groups import weight_decay_groups
from npasbench.sharing.initial import normal


class LowRankKnobs(Knobs):
    """``init`` says where the factors come from: a decomposed ordinary weight, or independent normal values.

    What is cut off makes ``"spectral"`` weights smaller than ordinary ones; ``"scaled"`` and ``"normal"`` ones have
    their deviation. With ``whole_ends`` the first and the last layer have no factors, where that leaves the others a
    rank of 1: logits of rank r tell few classes apart. ``frobenius_decay`` is the weight of half the squared norm of
    U V in the loss; where it is above 0 the factors themselves are not decayed.
    """

    init: Literal["spectral", "scaled", "normal"] = "spectral"
    whole_ends: bool = True
    frobenius_decay: NonNegativeFloat = 0.0


class LowRank(SharingMethod):
    """Each weight is U V; one fraction of full rank for the whole network, the largest that the budget affords."""

    knobs = LowRankKnobs
    cite = """@inproceedings{khodak2021initialization,
  title = {Initialization and Regularization of Factorized Neural Layers},
  author = {Khodak, Mikhail and Tenenholtz, Neil and Mackey, Lester and Fusi, Nicol{\\`o}},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Factors of each layer, within ``parameters`` scalars; a layer that has none smaller than itself stays whole."""
        forms = [matrix_form(layer.shape) for layer in layers]
        matrices = [Factored(rows + columns, rows * columns, min(rows, columns)) for rows, columns in forms]
        kept = ends(layers) if self.settings.whole_ends else set()
        whole = {index for index, layer in enumerate(layers) if layer.name in kept}
        ranks = ranks_around(matrices, whole, parameters)
        return FactorisedWeights(layers, ranks, self.settings.init, rng)

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """As ever, but with Frobenius decay the factors are not decayed besides."""
        if not self.settings.frobenius_decay:
            return weight_decay_groups(network)
        factors = {id(factor) for factor in _generator(network).factors.parameters()}
        trained = [p for p in network.parameters() if p.requires_grad]
        rest = [p for p in trained if id(p) not in factors]
        own: dict[str, Any] = {"params": [p for p in trained if id(p) in factors], "weight_decay": 0.0}
        return [*([{"params": rest}] if rest else []), *([own] if own["params"] else [])]

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The criterion, and with Frobenius decay half the squared norm of each product."""
        yield from super().losses(network, batch, criterion)
        if self.settings.frobenius_decay and len(_generator(network).factors):
            yield self.settings.frobenius_decay / 2 * _generator(network).squared_norm()


class FactorisedWeights(WeightGenerator):
    """``U [layers, rows, rank] @ V [layers, rank, columns]`` for the layers of one shape and rank; the others whole."""

    def __init__(
        self, layers: Sequence[LayerSpec], ranks: Sequence[int | None], init: str, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.factors, self.unshared = nn.ParameterDict(), nn.ParameterList()
        alike: dict[tuple[tuple[int, ...], int], list[LayerSpec]] = {}
        for layer, rank in zip(layers, ranks, strict=True):
            if rank is not None:
                alike.setdefault((layer.shape, rank), []).append(layer)
        self.groups = [(shape, rank, [layer.name for layer in group]) for (shape, rank), group in alike.items()]
        for index, ((shape, rank), group) in enumerate(alike.items()):
            stds = torch.tensor([layer.std for layer in group])[:, None, None]
            left, right = initial_factors(matrix_form(shape), rank, stds, init, rng)
            self.factors[f"{index}_left"], self.factors[f"{index}_right"] = nn.Parameter(left), nn.Parameter(right)
        whole = [layer for layer, rank in zip(layers, ranks, strict=True) if rank is None]
        self.whole = [layer.name for layer in whole]
        self.unshared.extend([nn.Parameter(normal(*layer.shape, std=layer.std, rng=rng)) for layer in whole])

    def forward(self) -> dict[str, Tensor]:
        """One batched product for all layers of one shape and rank."""
        weights: dict[str, Tensor] = dict(zip(self.whole, self.unshared, strict=True))
        for (shape, _, names), (left, right) in zip(self.groups, self._pairs(), strict=True):
            weights |= dict(zip(names, from_matrices(torch.bmm(left, right), shape).unbind(0), strict=True))
        return weights

    def squared_norm(self) -> Tensor:
        """The sum of all products' squared norms, as tr(U^T U V V^T)."""
        return torch.stack([((left.mT @ left) * (right @ right.mT)).sum() for left, right in self._pairs()]).sum()

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Each layer's matrix and its rank."""
        factored = {
            name: {"matrix": list(matrix_form(shape)), "rank": rank}
            for shape, rank, names in self.groups
            for name in names
        }
        return factored | {name: {"rank": "full"} for name in self.whole}

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.factors[f"{i}_left"], self.factors[f"{i}_right"]) for i in range(len(self.groups))]


def matrix_form(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a weight: ``[out, in, k1, k2, ...]`` is ``[out k1, in k2 ...]``, ``[out, in, k]`` ``[out, in k]``."""
    height = shape[2] if len(shape) > 3 else 1
    return shape[0] * height, math.prod(shape[1:]) // height


def from_matrices(matrices: Tensor, shape: Sequence[int]) -> Tensor:
    """``[layers, rows, columns]``, each a :func:`matrix_form`, back to ``[layers, *shape]``."""
    if len(shape) <= 3:
        return matrices.view(-1, *shape)
    out, into, height, *others = shape
    return matrices.view(-1, out, height, into, *others).transpose(2, 3).contiguous()


def initial_factors(
    form: tuple[int, int], rank: int, stds: Tensor, init: str, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``[layers, rows, rank]`` and ``[layers, rank, columns]`` for weights of deviations ``stds [layers, 1, 1]``."""
    (rows, columns), layers = form, len(stds)
    if init != "normal":
        return spectral(normal(layers, rows, columns, std=1.0, rng=rng) * stds, rank, scaled=init == "scaled")
    std = (stds / math.sqrt(rank)).sqrt()
    left, right = normal(layers, rows, rank, std=1.0, rng=rng), normal(layers, rank, columns, std=1.0, rng=rng)
    return left * std, right * std


def _generator(network: nn.Module) -> FactorisedWeights:
    if not isinstance(network, SharedNetwork) or not isinstance(network.generator, FactorisedWeights):
        raise TypeError(f"low-rank trains the networks that it built, not {type(network).__name__}.")
    return network.generator
