"""Mixing templates of one bank for many layers: one product for each block, one gradient buffer for the whole bank.

``w = coefficients [layers, K] @ bank[start:end] [K, P]`` for all layers that read one block. Templates are views of the
bank, never copies; backward adds all products into one buffer instead of one bank-sized gradient for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Read(NamedTuple):
    """One block of a bank, ``[templates, size]`` from ``start`` on, and who mixes it.

    ``layers`` neighbouring rows of coefficient matrix ``matrix``, from ``row`` on; -1: nobody, the block is read as it is.
    """

    start: int
    templates: int
    size: int
    layers: int = 1
    matrix: int = -1
    row: int = 0


_FEW = 3
"""Up to so many layers of one block are added one by one, which copies no gradients; for more a product is faster."""

Order = tuple[tuple[tuple[int, bool], ...], tuple[tuple[int, int], ...]]


def mix(bank: Tensor, reads: Sequence[Read], order: Order, matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One ``[size]`` tensor for each layer of each read, in their order.

    ``bank`` is ``[n]``, ``matrices`` are ``[layers, K]``; ``order`` comes from :func:`write_order`.
    """
    mixed: tuple[Tensor, ...] = _Mix.apply(bank, tuple(reads), order, *matrices)
    return mixed


def write_order(reads: Sequence[Read], length: int) -> Order:
    """How backward fills its buffer with the fewest passes over it.

    Gives the reads, largest block first, each with whether nobody has written there before, and the intervals of a bank
    of ``length`` that no such first writer covers.
    """
    steps: list[tuple[int, bool]] = []
    for index in sorted(range(len(reads)), key=lambda i: -_extent(reads[i])):
        steps.append((index, not any(_overlap(reads[index], reads[before]) for before, _ in steps)))
    written = sorted((reads[i].start, reads[i].start + _extent(reads[i])) for i, first in steps if first)
    ends, starts = [0, *(end for _, end in written)], [*(start for start, _ in written), length]
    return tuple(steps), tuple((end, start) for end, start in zip(ends, starts, strict=True) if end < start)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(bank: Tensor, reads: tuple[Read, ...], order: Order, *matrices: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        read: list[Tensor] = []
        for one in reads:
            block = _block(bank, one)
            if one.matrix < 0:
                read.append(block.reshape(-1).clone())
            else:
                read.extend((_rows(matrices, one) @ block).unbind(0))  # [layers, K] @ [K, P] -> [layers, P]
        return tuple(read)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        bank, ctx.reads, ctx.order, *matrices = inputs
        ctx.save_for_backward(bank, *matrices)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        bank, *matrices = ctx.saved_tensors
        given = list(_by_read(ctx.reads, gradients))
        total = _bank_gradient(bank, matrices, ctx.reads, given, ctx.order) if ctx.needs_input_grad[0] else None
        mixed = _matrix_gradients(bank, matrices, ctx.reads, given, ctx.needs_input_grad[3:])
        return total, None, None, *mixed


def _bank_gradient(
    bank: Tensor, matrices: Sequence[Tensor], reads: Sequence[Read], given: Sequence[list[Tensor]], order: Order
) -> Tensor:
    steps, gaps = order
    total = torch.empty_like(bank)
    for start, end in gaps:
        total[start:end].zero_()
    for index, first in steps:
        read, own, place = reads[index], given[index], _block(total, reads[index])
        if not own:
            if first:
                place.zero_()
        elif read.matrix >= 0:
            _add_products(place, _rows(matrices, read), own, first)
        elif first:
            place.copy_(own[0].view_as(place))
        else:
            place.add_(own[0].view_as(place))
    return total


def _add_products(place: Tensor, mixture: Tensor, gradients: list[Tensor], first: bool) -> None:
    """Put ``mixture.T [K, layers] @ gradients [layers, P]`` into ``place [K, P]``, or add it if somebody was there before."""
    if len(gradients) > _FEW:
        place.addmm_(mixture.T, torch.stack(gradients), beta=0 if first else 1)
        return
    for row, gradient in enumerate(gradients):
        if first and row == 0:
            torch.mul(mixture[0][:, None], gradient, out=place)
        else:
            place.addr_(mixture[row], gradient)


def _matrix_gradients(
    bank: Tensor,
    matrices: Sequence[Tensor],
    reads: Sequence[Read],
    given: Sequence[list[Tensor]],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """``[K, P] @ [P]`` for each layer, in the rows of its matrix."""
    totals = [torch.zeros_like(one) if need else None for one, need in zip(matrices, needed, strict=True)]
    for read, own in zip(reads, given, strict=True):
        total = totals[read.matrix] if read.matrix >= 0 else None
        if total is None or not own:
            continue
        block = _block(bank, read)
        if len(own) > _FEW:
            total[read.row : read.row + read.layers] = (block @ torch.stack(own).T).T
        else:
            for row, gradient in enumerate(own, start=read.row):
                total[row] = torch.mv(block, gradient)
    return totals


def _by_read(reads: Sequence[Read], gradients: Sequence[Tensor | None]) -> Iterator[list[Tensor]]:
    """For each read the gradients of its layers, each ``[size]``; none at all where nothing flowed."""
    rest = iter(gradients)
    for read in reads:
        own = [next(rest) for _ in range(read.layers)]
        known = next((gradient for gradient in own if gradient is not None), None)
        if known is None:
            yield []
        else:
            yield [torch.zeros_like(known) if one is None else one.reshape(-1) for one in own]


def _extent(read: Read) -> int:
    return read.templates * read.size


def _block(bank: Tensor, read: Read) -> Tensor:
    return bank[read.start : read.start + read.templates * read.size].view(read.templates, read.size)


def _rows(matrices: Sequence[Tensor], read: Read) -> Tensor:
    return matrices[read.matrix][read.row : read.row + read.layers]


def _overlap(one: Read, other: Read) -> bool:
    return one.start < other.start + _extent(other) and other.start < one.start + _extent(one)
