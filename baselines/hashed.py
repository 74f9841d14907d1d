"""Chen, Wilson, Tyree, Weinberger & Chen, "Compressing Neural Networks with the Hashing Trick" (ICML 2015).

Section 4: W[i, j] = s(i, j) b[h(i, j)] with one bucket vector b for each layer, a hash h and a sign s that are not
stored but come again from the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.api import LayerSpec, SharingMethod, WeightGenerator
from npasbench.sharing.allocation import in_proportion
from npasbench.sharing.initial import normal

SEED_BITS = 64


class Hashed(SharingMethod):
    """Each entry of a layer reads a hashed bucket of that layer's own vector, with a hashed sign."""

    cite = """@inproceedings{chen2015compressing,
  title = {Compressing Neural Networks with the Hashing Trick},
  author = {Chen, Wenlin and Wilson, James T. and Tyree, Stephen and Weinberger, Kilian Q. and Chen, Yixin},
  booktitle = {International Conference on Machine Learning},
  year = {2015}
}"""

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """Buckets in proportion to the layers' sizes, at least one each."""
        return HashedBuckets(layers, in_proportion([layer.size for layer in layers], parameters), rng)

    def side_information_bits(self, network: nn.Module) -> int:  # noqa: ARG002
        """The seed of the hash."""
        return SEED_BITS


class HashedBuckets(WeightGenerator):
    """All layers' buckets in one vector, read in one gather."""

    hashes: Tensor
    signs: Tensor

    def __init__(self, layers: Sequence[LayerSpec], buckets: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.sizes = [layer.size for layer in layers]
        self.buckets = list(buckets)
        starts = [0, *itertools.accumulate(buckets)][:-1]
        values = [normal(n, std=layer.std, rng=rng) for layer, n in zip(layers, buckets, strict=True)]
        hashes = [
            start + torch.randint(n, (layer.size,), generator=rng)
            for layer, n, start in zip(layers, buckets, starts, strict=True)
        ]
        signs = torch.randint(2, (sum(self.sizes),), generator=rng) * 2 - 1
        self.bank = nn.Parameter(torch.cat(values))
        self.register_buffer("hashes", torch.cat(hashes), persistent=False)
        self.register_buffer("signs", signs.to(torch.int8), persistent=False)

    def forward(self) -> dict[str, Tensor]:
        """``[buckets] -> [sizes of all layers] -> one weight a layer``."""
        flat = self.bank.index_select(0, self.hashes) * self.signs
        parts = torch.split(flat, self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Which buckets each layer reads."""
        ends = list(itertools.accumulate(self.buckets))
        return {
            name: {"start": end - n, "end": end} for name, n, end in zip(self.shapes, self.buckets, ends, strict=True)
        }
