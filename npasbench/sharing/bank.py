"""One flat vector that many layers read: reading it with one gradient buffer, however many layers there are.

Slicing a bank layer by layer makes autograd fill and add one bank-sized gradient for every layer. Here all layers are
read in one operation whose backward adds into a single buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _ReadCyclic(torch.autograd.Function):
    @staticmethod
    def forward(bank: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        length = bank.shape[0]
        longest = bank.repeat(-(-max(sizes) // length)) if max(sizes) > length else bank
        return tuple(longest[:size].clone() for size in sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.length = inputs[0].shape[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return None, None
        total = given[0].new_zeros(ctx.length)
        for gradient in given:
            whole = gradient.shape[0] // ctx.length * ctx.length
            if whole:
                total += gradient[:whole].view(-1, ctx.length).sum(0)
            total[: gradient.shape[0] - whole] += gradient[whole:]
        return total, None


def read_cyclic(bank: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The leading values of a bank for each layer, starting over where a layer is longer than the bank.

    ``bank`` is ``[n]``; returns one ``[size]`` tensor for each size. Backward fills one buffer of n.
    """
    read: tuple[Tensor, ...] = _ReadCyclic.apply(bank, tuple(sizes))
    return read


def read_rows(bank: Tensor, rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Rows of a bank for each layer, in one gather for all layers.

    ``bank`` is ``[rows, tile]``; ``rows`` are indices, for each layer in turn as many as cover its size; what a layer's
    last row holds beyond its size is dropped. Returns one ``[size]`` tensor for each size.
    """
    tile = bank.shape[1]
    tiles = [-(-size // tile) for size in sizes]
    parts = torch.split(bank.index_select(0, rows), tiles)  # [tiles of all layers, tile] -> one block a layer
    return tuple(part.reshape(-1)[:size] for part, size in zip(parts, sizes, strict=True))
