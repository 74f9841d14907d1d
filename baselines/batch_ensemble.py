"""Wen, Tran & Ba, "BatchEnsemble: An Alternative Approach to Efficient Ensemble and Lifelong Learning" (ICLR 2020,
arXiv 2002.06715).

Section 3.1: member i has the weights W * (r_i s_i^T), a matrix W that all members share times a rank-one matrix of its
own. Norms and biases are each member's own: they follow the statistics of maps that r_i and s_i scale differently.

The paper scales a layer's inputs by s_i and its outputs by r_i, which is the same and lets all members run in one pass.
Here weights are multiplied out, W being small beside the maps, and the members run one after another. What differs from
the paper and its authors' code: embeddings and attention's packed projections get factors like any matrix. Every member
sees the whole mini-batch, as in the code, where the paper divides it among the members, as ``split`` does. The loss is the
sum over members where theirs is the mean, so that norms and factors learn as fast as those of a network alone; nor do r_i
and s_i learn at a rate of their own, which the code halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from npasbench.api import (
    Architecture,
    Batch,
    Criterion,
    Findings,
    LayerSpec,
    Method,
    Problem,
    SharedNetwork,
    WeightGenerator,
    one_by_one,
)
from npasbench.budget import Accounting
from npasbench.measuring.count import count
from npasbench.sharing.layers import shareable_layers

from .deep_ensemble import EnsembleKnobs, copies_of_largest, no_ensemble
from .narrow import Narrow, largest_width

_DEVIATION = 0.5


class BatchEnsembleKnobs(EnsembleKnobs):
    """``init`` draws r and s as random signs, or from a normal distribution around 1 with deviation 0.5.

    ``split`` divides each mini-batch among the members, instead of showing all of it to each.
    """

    init: Literal["signs", "normal"] = "signs"
    split: bool = False


class BatchEnsemble(Method):
    """Copies of the largest architecture that share their weights but for a rank-one factor each; r and s undecayed."""

    knobs = BatchEnsembleKnobs
    cite = """@inproceedings{wen2020batchensemble,
  title = {{BatchEnsemble}: An Alternative Approach to Efficient Ensemble and Lifelong Learning},
  author = {Wen, Yeming and Tran, Dustin and Ba, Jimmy},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""

    def skip(self, problem: Problem) -> str | None:
        """One member is no ensemble, and an architecture without a width setting cannot be narrowed."""
        members = self.settings.members
        return no_ensemble(problem, members) or Narrow().skip(copies_of_largest(problem, members))

    def time_factor(self, problem: Problem) -> float:  # noqa: ARG002
        """All members are as large as the largest architecture."""
        return 4.0

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> SharedNetwork:  # noqa: ARG002
        """The widest members that fit once shared weights, factors, norms and biases are counted."""
        ensemble = copies_of_largest(problem, self.settings.members)
        one, members = ensemble.architectures[0], len(ensemble.architectures)
        width = largest_width(
            lambda width: _size(one, width, members, problem.budget.accounting), problem.budget.parameters
        )
        network = ensemble.create(width=width)
        layers = shareable_layers(network)
        return SharedNetwork(network, layers, RankOneWeights(network, layers, members, self.settings.init, rng))

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The sum over members, one after another; with ``split`` each sees a part of the mini-batch, if there is one."""
        apart = one_by_one(network) if self.settings.split else None
        if apart is None:
            yield from super().losses(network, batch, criterion)
            return
        with apart as members:
            inputs, labels = (of.tensor_split(len(members)) for of in (batch.inputs, batch.labels))
            for member, given, wanted in zip(members, inputs, labels, strict=True):
                if len(wanted):
                    yield criterion(member(given), wanted)


class RankOneWeights(WeightGenerator):
    """For each layer ``W [rows, columns, ...]`` times ``r [members, rows]`` times ``s [members, columns]``."""

    def __init__(
        self, network: nn.Module, layers: Sequence[LayerSpec], members: int, init: str, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.members = members
        self.own = [[layer for layer in layers if layer.member == member] for member in range(members)]
        self.bank = nn.ParameterList(network.get_parameter(layer.name).detach().clone() for layer in self.own[0])
        self.scales = nn.ParameterList(_factors(members, sum(_lengths(layer)), init, rng) for layer in self.own[0])

    def forward(self) -> dict[str, Tensor]:
        """``[rows, columns, ...] * [members, rows, columns, ...]``, one product for each layer of a member."""
        weights: dict[str, Tensor] = {}
        for places, shared, scales in zip(zip(*self.own, strict=True), self.bank, self.scales, strict=True):
            each = shared * _outer(scales, places[0])
            weights |= {place.name: weight for place, weight in zip(places, each.unbind(0), strict=True)}
        return weights

    def allocation(self) -> dict[str, dict[str, Any]]:
        """The shared tensor of each layer."""
        return {layer.name: {"shared": index} for own in self.own for index, layer in enumerate(own)}


def _factors(members: int, length: int, init: str, rng: torch.Generator) -> Tensor:
    if init == "signs":
        return torch.randint(2, (members, length), generator=rng) * 2.0 - 1.0
    return 1 + _DEVIATION * torch.randn(members, length, generator=rng)


def _lengths(layer: LayerSpec) -> list[int]:
    """Those of r and s: a grouped convolution holds only the columns of a row's own group."""
    return [layer.shape[0], layer.shape[1] * layer.groups]


def _outer(scales: Tensor, layer: LayerSpec) -> Tensor:
    """``r s^T`` of each member in the layer's shape: ``[members, rows, columns, 1, ...]``."""
    r, s = torch.split(scales, _lengths(layer), dim=1)
    members, rows, columns = len(scales), layer.shape[0], layer.shape[1]
    # [members, groups * columns] -> [members, rows, columns], the rows of a group alike
    by_row = s.reshape(members, layer.groups, 1, columns).expand(-1, -1, rows // layer.groups, -1)
    outer: Tensor = r[:, :, None] * by_row.reshape(members, rows, columns)
    return outer.view(members, rows, columns, *[1] * len(layer.shape[2:]))


def _size(architecture: Architecture, width: float, members: int, accounting: Accounting) -> int:
    with torch.device("meta"):
        one = architecture.create(width=width)
    layers = shareable_layers(one)
    shared = sum(layer.size for layer in layers)
    if accounting == "bank":
        return shared
    factors = sum(sum(_lengths(layer)) for layer in layers)
    return shared + members * (count(one).total - shared + factors)
