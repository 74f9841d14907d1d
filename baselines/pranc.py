"""Nooralinejad et al., "PRANC: Pseudo RAndom Networks for Compacting deep models" (ICCV 2023).

A network is a linear combination of random ones, theta = sum_j alpha_j theta_j, that come again from a seed: only the
coefficients alpha are trained and stored. One coefficient for each random network would cost as many draws a step as
coefficients times weights. So the weights are cut into chunks with coefficients of their own, as many as make a step's
cost grow with the network alone, whatever the budget.

Two more things keep it affordable. A random entry is a sign, times its layer's usual deviation: one bit of a hash of
the seed and the entry's place (SplitMix64 of Steele, Lea & Flood 2014). Nothing is drawn in order, so any part can be
had alone and is the same on every device. And nothing random is kept: the backward pass makes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from npasbench.api import Knobs, LayerSpec, SharingMethod, WeightGenerator
from npasbench.problem import Problem
from npasbench.sharing.initial import common_std, normal

SEED_BITS = 64
_AT_ONCE = 2**22
"""Random entries that are held at a time, 16 MiB."""


class PrancKnobs(Knobs):
    """``coefficients`` is the most that a chunk has: a step makes so many random entries for each weight of the network."""

    coefficients: PositiveInt = 64


class Pranc(SharingMethod):
    """Weights are random signs times trained coefficients: any architecture, any budget of at least one coefficient."""

    knobs = PrancKnobs
    cite = """@inproceedings{nooralinejad2023pranc,
  title = {{PRANC}: Pseudo {RA}ndom Networks for Compacting deep models},
  author = {Nooralinejad, Parsa and Abbasi, Ali and Koohpayegani, Soroush Abbasi and Meibodi, Kossar Pourahmadi and
            Khan, Rana Muhammad Shahroz and Kolouri, Soheil and Pirsiavash, Hamed},
  booktitle = {International Conference on Computer Vision},
  year = {2023}
}"""

    def time_factor(self, problem: Problem) -> float:  # noqa: ARG002
        """Making the entries twice a step weighs most where a network's own step is short."""
        return 4.0

    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """``parameters`` coefficients, but no more than there are weights."""
        number = min(parameters, sum(layer.size for layer in layers))
        return RandomCombinations(layers, number, self.settings.coefficients, rng)

    def side_information_bits(self, network: nn.Module) -> int:  # noqa: ARG002
        """The seed."""
        return SEED_BITS


class RandomCombinations(WeightGenerator):
    """``alphas [number]``: each chunk of the weights, laid end to end, is its own coefficients times random signs.

    Signs are scaled to columns of length one, so that a step moves the weights as far as a step on the weights
    themselves would, within what the columns span; a layer's weights are scaled to its deviation.
    """

    seed: Tensor

    def __init__(self, layers: Sequence[LayerSpec], number: int, most: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.sizes = [layer.size for layer in layers]
        self.chunks = -(-number // most)
        self.length = -(-sum(self.sizes) // self.chunks)
        self.factors = [layer.std / common_std(layers) for layer in layers]
        values = normal(number, std=common_std(layers) * math.sqrt(self.length), rng=rng)
        own = torch.full((self.chunks,), number // self.chunks)
        own[: number % self.chunks] += 1  # coefficients of each chunk
        whole = number // self.chunks * self.chunks
        values[:whole] /= own.repeat_interleave(number // self.chunks).sqrt()
        values[whole:] /= own[: number - whole].sqrt()
        self.alphas = nn.Parameter(values)
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), generator=rng)
        self.register_buffer("seed", seed, persistent=False)

    def forward(self) -> dict[str, Tensor]:
        """``[chunks, k] -> [chunks, length]``, all layers' weights end to end, then one weight a layer."""
        even = self.alphas.shape[0] // self.chunks * self.chunks
        matrix = self.alphas[:even].view(self.chunks, -1)
        if even < self.alphas.shape[0]:  # the first chunks have one more
            more = self.alphas[even:]
            column = torch.cat([more, more.new_zeros(self.chunks - more.shape[0])])
            matrix = torch.cat([matrix, column[:, None]], dim=1)
        flat: Tensor = _Combine.apply(matrix / math.sqrt(self.length), self.seed, self.length)
        parts = torch.split(_end_to_end(flat, sum(self.sizes)), self.sizes)
        return {
            name: (part * factor).view(shape)
            for (name, shape), part, factor in zip(self.shapes.items(), parts, self.factors, strict=True)
        }

    def allocation(self) -> dict[str, dict[str, Any]]:
        """The chunks that a layer's weights lie in; its first and last one it may share."""
        chunks = torch.arange(self.chunks)[:, None].expand(-1, self.length)
        parts = torch.split(_end_to_end(chunks, sum(self.sizes)), self.sizes)
        return {
            name: {"chunks": [int(part[0]), int(part[-1])], "scale": factor}
            for name, part, factor in zip(self.shapes, parts, self.factors, strict=True)
        }


def _end_to_end(grid: Tensor, size: int) -> Tensor:
    """``[chunks, length] -> [size]``: the first chunks whole, the others without their last entry, where that makes the size."""
    chunks, length = grid.shape
    whole = size - chunks * (length - 1)
    return torch.cat([grid[:whole].reshape(-1), grid[whole:, : length - 1].reshape(-1)])


class _Combine(torch.autograd.Function):
    """``[chunks, k]`` coefficients to ``[chunks, length]`` weights; its gradient is :class:`_Project`."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, seed: Tensor, length: int) -> Tensor:
        ctx.seed, ctx.number = seed, coefficients.shape[1]
        weights = coefficients.new_empty(coefficients.shape[0], length)
        for columns, signs in _slabs(coefficients, seed, length, coefficients.shape[1]):
            weights[:, columns] = torch.bmm(signs, coefficients[:, :, None])[:, :, 0]
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        projected: Tensor = _Project.apply(gradient, ctx.seed, ctx.number)
        return projected, None, None


class _Project(torch.autograd.Function):
    """``[chunks, length]`` to ``[chunks, k]``: products with each random column; its gradient is :class:`_Combine`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, seed: Tensor, number: int) -> Tensor:
        ctx.seed, ctx.length = seed, weights.shape[1]
        products = weights.new_zeros(weights.shape[0], number)
        for columns, signs in _slabs(weights, seed, weights.shape[1], number):
            products += torch.bmm(weights[:, None, columns], signs)[:, 0]
        return products

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        combined: Tensor = _Combine.apply(gradient, ctx.seed, ctx.length)
        return combined, None, None


def _slabs(like: Tensor, seed: Tensor, length: int, number: int) -> Iterator[tuple[slice, Tensor]]:
    """Some columns of all chunks at a time, with their signs ``[chunks, columns, number]``."""
    chunks = like.shape[0]
    width = max(1, _AT_ONCE // (chunks * number))
    starts = torch.arange(chunks, device=like.device)[:, None] * length
    for first in range(0, length, width):
        columns = slice(first, min(first + width, length))
        places = starts + torch.arange(columns.start, columns.stop, device=like.device)
        yield columns, random_signs(seed, places, number).to(like.dtype)


def random_signs(seed: Tensor, places: Tensor, number: int) -> Tensor:
    """``number`` signs, +-1, for each of ``places``: ``[...] -> [..., number]``, the same on every device."""
    words = -(-number // 64)
    hashed = _hash(seed + places[..., None] * words + torch.arange(words, device=places.device))
    bits = hashed[..., None].view(torch.uint8)  # [..., words, 8], eight signs in each
    signs: Tensor = _table(places.device)[bits.long()].flatten(-3)
    return signs[..., :number]


def _table(device: torch.device) -> Tensor:
    """``[256, 8]``: the bits of each byte, as signs."""
    bytes_, bits = torch.arange(256, device=device), torch.arange(8, device=device)
    signs: Tensor = ((bytes_[:, None] >> bits) & 1).float() * 2 - 1
    return signs


def _hash(counters: Tensor) -> Tensor:
    """SplitMix64's output for its counters, in the wrapping arithmetic of int64."""
    mixed: Tensor = counters * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """Shifted right with zeros coming in, which torch's shift of a negative number does not do."""
    shifted: Tensor = (values >> by) & (2 ** (64 - by) - 1)
    return shifted


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
