"""Ha, Dai & Le, "HyperNetworks" (ICLR 2017).

Section 3.1, *static hypernetworks*: a kernel of 16 inputs, 16 outputs and 3 x 3 positions is made from an embedding z
by two linear layers, a_i = W_i z + B_i for each input i, and then K_i = W_out a_i + B_out, the same for all inputs.
Larger kernels are put together from such tiles, each with an embedding of its own. Here any weight is: it is read in
blocks of at most 16 inputs and 144 output entries, cut into tiles of 16 x 144, and the end of the last tile is dropped.

The embedding's size and the hidden size are equal, as in the paper, or nearly so: the budget decides them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from npasbench.api import BudgetTooSmall, Knobs, LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.initial import normal

INPUTS, ENTRIES = 16, 16 * 9
TILE = INPUTS * ENTRIES
_START = 0.5


class HypernetworkKnobs(Knobs):
    """``embedding`` is the most entries that an embedding may have (64 in the paper); without it the budget decides."""

    embedding: PositiveInt | None = None


class Hypernetwork(SharingMethod):
    """A two-layer linear network makes all weights, tile by tile, from embeddings whose size the budget decides."""

    knobs = HypernetworkKnobs
    cite = """@inproceedings{ha2017hypernetworks,
  title = {HyperNetworks},
  author = {Ha, David and Dai, Andrew and Le, Quoc V.},
  booktitle = {International Conference on Learning Representations},
  year = {2017}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """An embedding for each tile and the two shared layers, within ``parameters`` scalars."""
        tiles = sum(-(-layer.size // TILE) for layer in layers)
        embedding, hidden = sizes(tiles, parameters, self.settings.embedding or TILE)
        return GeneratedTiles(layers, embedding, hidden, rng)


def price(tiles: int, embedding: int, hidden: int) -> int:
    """Scalars of all embeddings, of W and B for each input, and of W_out and B_out."""
    return tiles * embedding + INPUTS * hidden * (embedding + 1) + ENTRIES * (hidden + 1)


def sizes(tiles: int, parameters: int, most: int) -> tuple[int, int]:
    """The embedding's size, at most ``most``, and the hidden size, at most 2,304, that leave least of ``parameters``.

    Looked for among embeddings of up to a quarter less or more than the largest n that both can be; each with the
    largest hidden size that fits, where that is within a quarter of n too or the embedding cannot be larger.

    Raises:
        BudgetTooSmall: if 1 and 1 do not fit.
    """
    if price(tiles, 1, 1) > parameters:
        raise BudgetTooSmall(smallest=price(tiles, 1, 1))
    both = next(n for n in range(TILE, 0, -1) if price(tiles, min(n, most), n) <= parameters)
    near = math.ceil(both / 4)
    around = range(max(1, both - near), min(both + near, most) + 1)
    largest = [(z, min(_hidden(tiles, z, parameters), both + near)) for z in around]
    able = [pair for pair in largest if abs(pair[1] - both) <= near and pair[1] >= 1]
    return max([(min(both, most), both), *able], key=lambda pair: (price(tiles, *pair), -abs(pair[0] - pair[1])))


def _hidden(tiles: int, embedding: int, parameters: int) -> int:
    left = parameters - tiles * embedding - ENTRIES
    return min(left // (INPUTS * (embedding + 1) + ENTRIES), TILE)


class GeneratedTiles(WeightGenerator):
    """``[tiles, z]`` embeddings to ``[tiles, 16, d]`` hidden values to ``[tiles, 16, 144]`` weights.

    Embeddings start at deviation one and both layers halve it: as in the paper they begin small, and so learn faster
    than layers that keep it would. What they make is scaled to each layer's own deviation.
    """

    scales: Tensor

    def __init__(self, layers: Sequence[LayerSpec], embedding: int, hidden: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.tiles = [-(-layer.size // TILE) for layer in layers]
        self.tile_embeddings = nn.Parameter(normal(sum(self.tiles), embedding, std=1.0, rng=rng))
        self.hypernetwork = nn.ParameterDict(
            {
                "in_weight": normal(INPUTS * hidden, embedding, std=_START * embedding**-0.5, rng=rng),
                "in_bias": torch.zeros(INPUTS * hidden),
                "out_weight": normal(ENTRIES, hidden, std=_START * hidden**-0.5, rng=rng),
                "out_bias": torch.zeros(ENTRIES),
            }
        )
        stds = [torch.full((tiles, 1), layer.std / _START**2) for tiles, layer in zip(self.tiles, layers, strict=True)]
        self.register_buffer("scales", torch.cat(stds), persistent=False)

    def forward(self) -> dict[str, Tensor]:
        """Two products for the tiles of all layers, then each layer's tiles put together."""
        own = self.hypernetwork
        hidden = torch.addmm(own["in_bias"], self.tile_embeddings, own["in_weight"].T)  # [tiles, 16 d]
        hidden = hidden.view(-1, own["out_weight"].shape[1])  # [tiles 16, d]
        made = torch.addmm(own["out_bias"], hidden, own["out_weight"].T).view(-1, TILE) * self.scales
        parts = torch.split(made, self.tiles)
        return {
            name: put_together(part.reshape(-1)[: math.prod(shape)], shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def allocation(self) -> dict[str, dict[str, Any]]:
        """How many tiles make up each layer, and the sizes that all have in common."""
        common = {"embedding": self.tile_embeddings.shape[1], "hidden": self.hypernetwork["out_weight"].shape[1]}
        return {name: {"tiles": tiles, **common} for name, tiles in zip(self.shapes, self.tiles, strict=True)}


def put_together(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """A weight ``[out, in, *kernel]`` from its entries in the order of tiles.

    Blocks follow each other, those of the same inputs first; within one, inputs come before outputs and the kernel's
    positions. A block has the most inputs up to 16, and outputs up to 144 entries, that divide the layer's.
    """
    out, into, *kernel = shape
    area = math.prod(kernel)
    inputs, outputs = _divisor(into, INPUTS), _divisor(out, max(1, ENTRIES // area))
    blocks = flat.view(into // inputs, out // outputs, inputs, outputs, area)
    return blocks.permute(1, 3, 0, 2, 4).reshape(*shape)


def _divisor(number: int, most: int) -> int:
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)
