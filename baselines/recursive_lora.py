"""Bae et al., "Relaxed Recursive Transformers: Effective Parameter Sharing with Layer-wise LoRA" (ICLR 2025).

A *recursive* transformer runs its first K blocks again and again: block l uses the weights of block l mod K (CYCLE). A
*relaxed* one adds to each use of a weight a low-rank difference of its own, W_l = W'_{l mod K} + B_l A_l. The paper
starts from a trained transformer, W' being the average of the blocks that it replaces and B A the singular value
decomposition of what is left over, cut at the rank. Here the same is done with ordinary initial weights. Norms and
biases stay each block's own, as with every method of this benchmark; embeddings and classifier are not tied.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from npasbench.api import BudgetTooSmall, Knobs, LayerSpec, Problem, SharingMethod, WeightGenerator
from npasbench.sharing.factors import Factored, common_ranks, spectral
from npasbench.sharing.initial import normal
from npasbench.sharing.layers import shareable_layers

_LINEAR = ("linear", "attention")


class RecursiveLoraKnobs(Knobs):
    """``blocks`` is K, the blocks of a run that have weights; the budget that is left goes to the differences' rank.

    ``"auto"`` takes the most that leave each difference a rank of one. A block that is used once has none. ``init`` is
    the paper's, or LoRA's: B zero, A normal.
    """

    blocks: PositiveInt | Literal["auto"] = "auto"
    init: Literal["average", "zero"] = "average"


class RecursiveLora(SharingMethod):
    """Equal blocks of a transformer use K blocks' weights in turn, each with low-rank differences; the rank by the budget."""

    knobs = RecursiveLoraKnobs
    cite = """@inproceedings{bae2025relaxed,
  title = {Relaxed Recursive Transformers: Effective Parameter Sharing with Layer-wise {LoRA}},
  author = {Bae, Sangmin and Fisch, Adam and Harutyunyan, Hrayr and Ji, Ziwei and Kim, Seungyeon and Schuster, Tal},
  booktitle = {International Conference on Learning Representations},
  year = {2025}
}"""

    def skip(self, problem: Problem) -> str | None:
        """Networks without equal, numbered blocks of linear layers are no transformers in this sense."""
        with torch.device("meta"):
            layers = shareable_layers(problem.create(), problem.excluded)
        return None if runs(layers) else "it ties the equal blocks of a transformer, and this network has none"

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Blocks first, then one rank for all differences, all within ``parameters`` scalars."""
        found = runs(layers)
        tied = {layer.name for run in found for layer in run.layers}
        apart = [layer for layer in layers if layer.name not in tied]
        left = parameters - sum(layer.size for layer in apart)
        try:
            blocks = self._blocks(found, left)
            ranks = _ranks(found, blocks, left)
        except BudgetTooSmall as error:
            fewer = self.settings.blocks != "auto" and _price(found, 1) < _price(found, self.settings.blocks)
            hint = f"That is with blocks = {self.settings.blocks}; fewer blocks need less." if fewer else ""
            raise BudgetTooSmall(smallest=parameters - left + (error.smallest or 0), hint=hint) from None
        return RelaxedBlocks(found, apart, blocks, ranks, self.settings.init, rng)

    def _blocks(self, found: Sequence[Run], parameters: int) -> int:
        if self.settings.blocks != "auto":
            return int(self.settings.blocks)
        most = max(len(run.blocks) for run in found)
        affordable = (k for k in range(most, 0, -1) if _price(found, k) + _least_differences(found, k) <= parameters)
        return next(affordable, 1)


@dataclass(frozen=True)
class Run:
    """Equal blocks, one after another, each a list of its layers in the same order."""

    blocks: Sequence[Sequence[LayerSpec]]

    @property
    def layers(self) -> list[LayerSpec]:
        """All layers, block by block."""
        return [layer for block in self.blocks for layer in block]

    @property
    def positions(self) -> list[tuple[LayerSpec, ...]]:
        """For each layer of a block, that layer in all blocks."""
        return list(zip(*self.blocks, strict=True))


def runs(layers: Sequence[LayerSpec]) -> list[Run]:
    """The runs of equal blocks, outermost first: numbered neighbours in one container that hold several linear layers.

    Equal are blocks whose layers have the same names within the block, shapes and kinds.
    """
    return list(_runs(layers, ""))


def _runs(layers: Sequence[LayerSpec], parent: str) -> Iterator[Run]:
    def child(layer: LayerSpec) -> str:
        return layer.name[len(parent) :].partition(".")[0]

    def signature(block: Sequence[LayerSpec]) -> tuple[tuple[str, ...] | None, ...]:
        within = len(parent) + len(child(block[0]))
        linear = all(layer.kind in _LINEAR for layer in block) and len(block) > 1
        numbered = child(block[0])[-1].isdigit() and parent != "members."
        alike = tuple((layer.name[within:], *map(str, layer.shape), layer.kind) for layer in block)
        return alike if linear and numbered else (None, (block[0].name,))

    blocks = [list(group) for _, group in itertools.groupby(layers, child)]
    for _, equal in itertools.groupby(blocks, signature):
        together = list(equal)
        if len(together) > 1:
            yield Run(together)
        elif "." in together[0][0].name[len(parent) :]:
            yield from _runs(together[0], f"{parent}{child(together[0][0])}.")


def _price(found: Sequence[Run], blocks: int) -> int:
    """Scalars of so many blocks of each run."""
    return sum(min(blocks, len(run.blocks)) * sum(layer.size for layer in run.blocks[0]) for run in found)


def _tied(found: Sequence[Run], blocks: int) -> list[LayerSpec]:
    """The layers whose weight another one uses too."""
    return [
        layer
        for run in found
        for use, block in enumerate(run.blocks)
        if use + blocks < len(run.blocks) or use >= blocks
        for layer in block
    ]


def _least_differences(found: Sequence[Run], blocks: int) -> int:
    """Scalars of a difference of rank one for each layer that is tied."""
    return sum(_factored(layer).price(1) for layer in _tied(found, blocks))


def _factored(layer: LayerSpec) -> Factored:
    rows, columns = layer.shape
    return Factored(rows + columns, rows * columns, min(rows, columns), least=0)


def _ranks(found: Sequence[Run], blocks: int, parameters: int) -> dict[str, int]:
    """The rank of each tied layer's difference, by its name."""
    if _price(found, blocks) > parameters:
        raise BudgetTooSmall(smallest=_price(found, blocks))
    tied = _tied(found, blocks)
    if not tied:
        return {}
    matrices = [_factored(layer) for layer in tied]
    ranks = common_ranks(matrices, parameters - _price(found, blocks))
    return {
        layer.name: matrix.most if rank is None else rank
        for layer, matrix, rank in zip(tied, matrices, ranks, strict=True)
    }


class RelaxedBlocks(WeightGenerator):
    """``blocks [K, out, in]`` for each layer of a block, and ``B [uses, out, rank] @ A [uses, rank, in]`` for its uses."""

    def __init__(
        self,
        found: Sequence[Run],
        apart: Sequence[LayerSpec],
        blocks: int,
        ranks: dict[str, int],
        init: str,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.apart, self.ranks = [layer.name for layer in apart], ranks
        self.blocks, self.differences = nn.ParameterList(), nn.ParameterDict()
        self.unshared = nn.ParameterList(nn.Parameter(normal(*one.shape, std=one.std, rng=rng)) for one in apart)
        self.positions = [[layer.name for layer in position] for run in found for position in run.positions]
        self.alike: list[dict[int, list[int]]] = []  # for each position, its uses by the rank of their differences
        for index, position in enumerate(position for run in found for position in run.positions):
            stds = torch.tensor([layer.std for layer in position])[:, None, None]
            weights = normal(len(position), *position[0].shape, std=1.0, rng=rng) * stds
            uses = torch.arange(len(position)) % min(blocks, len(position))
            alike: dict[int, list[int]] = {}
            for use, layer in enumerate(position):
                alike.setdefault(ranks.get(layer.name, 0), []).append(use)
            self.alike.append(alike)
            shared, factors = (averaged if init == "average" else undifferenced)(weights, uses, alike, rng)
            self.blocks.append(nn.Parameter(shared))
            for rank, (left, right) in factors.items():
                self.differences[f"{index}_{rank}_B"] = nn.Parameter(left)
                self.differences[f"{index}_{rank}_A"] = nn.Parameter(right)

    def forward(self) -> dict[str, Tensor]:
        """``W'[l mod K] + B_l A_l`` in one batched product for each layer of a block."""
        weights: dict[str, Tensor] = dict(zip(self.apart, self.unshared, strict=True))
        for index, (names, shared, alike) in enumerate(zip(self.positions, self.blocks, self.alike, strict=True)):
            single = shared.unbind(0)
            for rank, uses in alike.items():
                given = [single[use % len(single)] for use in uses]
                if rank:
                    left, right = self.differences[f"{index}_{rank}_B"], self.differences[f"{index}_{rank}_A"]
                    given = list(torch.baddbmm(torch.stack(given), left, right).unbind(0))
                weights |= {names[use]: weight for use, weight in zip(uses, given, strict=True)}
        return weights

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Which block each tied layer uses, and the rank of its difference."""
        return {
            name: {"block": use % len(shared), "rank": self.ranks.get(name, 0)}
            for names, shared in zip(self.positions, self.blocks, strict=True)
            for use, name in enumerate(names)
        }


Factors = dict[int, tuple[Tensor, Tensor]]


def averaged(
    weights: Tensor,
    uses: Tensor,
    alike: dict[int, list[int]],
    rng: torch.Generator,  # noqa: ARG001
) -> tuple[Tensor, Factors]:
    """Average weights ``[uses, out, in]`` for each block, and the nearest factors of what each use has beside it.

    All are scaled together so that the weights have the mean square of those given.
    """
    number = int(uses.max()) + 1
    shared = torch.stack([weights[uses == block].mean(0) for block in range(number)])
    factors = {rank: spectral(weights[own] - shared[uses[own]], rank) for rank, own in alike.items() if rank}
    made = shared[uses]
    for rank, (left, right) in factors.items():
        made[alike[rank]] += left @ right
    scale = (weights.square().mean() / made.square().mean()).sqrt()
    return shared * scale, {
        rank: (left * scale.sqrt(), right * scale.sqrt()) for rank, (left, right) in factors.items()
    }


def undifferenced(
    weights: Tensor, uses: Tensor, alike: dict[int, list[int]], rng: torch.Generator
) -> tuple[Tensor, Factors]:
    """Each block as it is first drawn, B zero and A normal with deviation 1 / sqrt(in), as LoRA starts."""
    rows, columns = weights.shape[1:]
    factors = {
        rank: (torch.zeros(len(own), rows, rank), normal(len(own), rank, columns, std=columns**-0.5, rng=rng))
        for rank, own in alike.items()
        if rank
    }
    return weights[: int(uses.max()) + 1].clone(), factors
