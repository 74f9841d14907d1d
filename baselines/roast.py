"""Desai & Shrivastava, "Hardware-Aware Compression with Random Operation Access Specific Tile (ROAST) Hashing" (ICML 2023).

One vector for the whole network (global memory sharing): a layer is cut into tiles, each tile is read from a hashed
offset, and a scale for each layer, fixed at the start, gives its weights the deviation of their usual initialisation.
Offsets are multiples of the tile, so that a gather moves whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from npasbench.api import Knobs, LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.bank import read_rows
from npasbench.sharing.initial import common_std, normal

SEED_BITS = 64


class RoastKnobs(Knobs):
    """``tile`` is the number of scalars that are read together.

    It is shorter than a row of any usual classifier: where a tile holds a whole row, two classes whose tiles fall on one
    place can never be told apart.
    """

    tile: PositiveInt = 16


class Roast(SharingMethod):
    """Tiles of every layer are read from hashed places of one vector: any budget, any architecture, no search."""

    knobs = RoastKnobs
    cite = """@inproceedings{desai2023hardware,
  title = {Hardware-Aware Compression with Random Operation Access Specific Tile ({ROAST}) Hashing},
  author = {Desai, Aditya and Zhou, Keren and Shrivastava, Anshumali},
  booktitle = {International Conference on Machine Learning},
  year = {2023}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """One vector of as many whole tiles as fit ``parameters``."""
        return HashedTiles(layers, parameters, min(self.settings.tile, parameters), rng)

    def side_information_bits(self, network: nn.Module) -> int:  # noqa: ARG002
        """The seed of the hash."""
        return SEED_BITS


class HashedTiles(WeightGenerator):
    """``bank [rows, tile]``; each tile of each layer reads the row that a seeded hash names, times the layer's scale."""

    rows: Tensor

    def __init__(self, layers: Sequence[LayerSpec], parameters: int, tile: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.sizes = [layer.size for layer in layers]
        std = common_std(layers)
        self.factors = [layer.std / std for layer in layers]
        tiles = sum(-(-size // tile) for size in self.sizes)
        self.bank = nn.Parameter(normal(parameters // tile, tile, std=std, rng=rng))
        self.register_buffer("rows", torch.randint(parameters // tile, (tiles,), generator=rng), persistent=False)

    def forward(self) -> dict[str, Tensor]:
        """One gather for all layers, then ``[size] * scale`` for each."""
        read = read_rows(self.bank, self.rows, self.sizes)
        return {
            name: (flat * factor).view(shape)
            for (name, shape), flat, factor in zip(self.shapes.items(), read, self.factors, strict=True)
        }

    def allocation(self) -> dict[str, dict[str, Any]]:
        """How many tiles each layer reads, and its scale."""
        tile = self.bank.shape[1]
        return {
            name: {"tiles": -(-size // tile), "scale": factor}
            for name, size, factor in zip(self.shapes, self.sizes, self.factors, strict=True)
        }
