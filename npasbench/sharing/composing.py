"""Composing all weights of a network out of templates: one product for each SuperWeight, one gradient buffer for all.

For every SuperWeight ``coefficients [rows, n] @ templates [n, P]`` gives each distinct mixture once, whoever uses it; each
weight is then filled with the rectangles that it is made of. Backward gathers the rectangles' gradients into one
``[rows, P]`` tensor for each SuperWeight and needs two more products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from npasbench.sharing.superweights import Region


class Store(NamedTuple):
    """Where a SuperWeight's templates lie in the flat parameter: ``[templates, size]`` from ``start`` on."""

    start: int
    templates: int
    size: int


class Patch(NamedTuple):
    """A region of a weight: of which SuperWeight's product, and of which row of it."""

    store: int
    row: int
    region: Region


@dataclass(frozen=True)
class Weight:
    """A weight of ``shape`` and the patches that it is made of; ``unit`` scalars a kernel."""

    shape: tuple[int, ...]
    unit: int
    patches: tuple[Patch, ...]

    @property
    def whole(self) -> bool:
        """Whether this is one product's row as it stands, so that nothing has to be copied."""
        return len(self.patches) == 1


@dataclass(frozen=True)
class Plan:
    """How all weights are composed; ``rows[s]`` mixtures of SuperWeight ``s``, ``covered[s]`` if backward fills them all once."""

    stores: tuple[Store, ...]
    weights: tuple[Weight, ...]
    rows: tuple[int, ...]
    covered: tuple[bool, ...]


def make_plan(stores: Sequence[Store], rows: Sequence[int], weights: Sequence[Weight]) -> Plan:
    """The plan for weights that are made of the given SuperWeights, each mixed in so many rows.

    A row may be in no weight: where a chain shrinks, all of it can be cut off.
    """
    written: list[dict[int, int]] = [{} for _ in stores]
    twice = [False] * len(stores)
    for weight in weights:
        users: dict[tuple[int, int], int] = {}
        for store, row, region in weight.patches:
            users[store, row] = users.get((store, row), 0) + region.rows * region.columns * weight.unit
        for (store, row), size in users.items():
            twice[store] |= row in written[store]
            written[store][row] = size
    covered = [
        not again and len(full) == number and all(size == store.size for size in full.values())
        for store, number, full, again in zip(stores, rows, written, twice, strict=True)
    ]
    return Plan(tuple(stores), tuple(weights), tuple(rows), tuple(covered))


def compose(templates: Tensor, plan: Plan, matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One tensor for each weight of the plan. ``templates`` is flat, ``matrices`` are ``[rows, n]`` for each SuperWeight."""
    weights: tuple[Tensor, ...] = _Compose.apply(templates, plan, *matrices)
    return weights


class _Compose(torch.autograd.Function):
    """Forward and backward written out; see the module's docstring."""

    @staticmethod
    def forward(templates: Tensor, plan: Plan, *matrices: Tensor) -> tuple[Tensor, ...]:
        products = [matrix @ _block(templates, store) for matrix, store in zip(matrices, plan.stores, strict=True)]
        seen: set[tuple[int, int]] = set()
        return tuple(_filled(weight, products, seen) for weight in plan.weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        templates, ctx.plan, *matrices = inputs
        ctx.save_for_backward(templates, *matrices)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        templates, *matrices = ctx.saved_tensors
        plan: Plan = ctx.plan
        gathered = _gathered(plan, gradients, templates)
        total = torch.empty_like(templates) if ctx.needs_input_grad[0] else None
        mixed: list[Tensor | None] = []
        for store, matrix, gradient, needed in zip(
            plan.stores, matrices, gathered, ctx.needs_input_grad[2:], strict=True
        ):
            if total is not None:
                torch.mm(matrix.T, gradient, out=_block(total, store))
            mixed.append(gradient @ _block(templates, store).T if needed else None)
        return total, None, *mixed


def _filled(weight: Weight, products: Sequence[Tensor], seen: set[tuple[int, int]]) -> Tensor:
    """A weight out of its patches; a row that two weights consist of is copied for the second."""
    if weight.whole:
        store, row, _ = weight.patches[0]
        taken = (store, row) in seen
        seen.add((store, row))
        mixture = products[store][row].view(weight.shape)
        return mixture.clone() if taken else mixture
    filled = products[0].new_empty(weight.shape)
    for product, patch in ((products[patch.store], patch) for patch in weight.patches):
        _place(filled, weight, patch.region).copy_(_cut_out(product[patch.row], weight, patch.region))
    return filled


def _gathered(plan: Plan, gradients: Sequence[Tensor | None], like: Tensor) -> list[Tensor]:
    """For each SuperWeight the gradients of its mixtures, ``[rows, P]``."""
    complete = all(gradient is not None for gradient in gradients)
    gathered = [
        (like.new_empty if whole and complete else like.new_zeros)(rows, store.size)
        for store, rows, whole in zip(plan.stores, plan.rows, plan.covered, strict=True)
    ]
    for patch, source in _sources(plan, gradients):
        weight, gradient = source
        target = _cut_out(gathered[patch.store][patch.row], weight, patch.region)
        if plan.covered[patch.store] and complete:
            target.copy_(_place(gradient, weight, patch.region))
        else:
            target.add_(_place(gradient, weight, patch.region))
    return gathered


def _sources(plan: Plan, gradients: Sequence[Tensor | None]) -> Iterator[tuple[Patch, tuple[Weight, Tensor]]]:
    for weight, gradient in zip(plan.weights, gradients, strict=True):
        if gradient is not None:
            whole = gradient.contiguous()
            for patch in weight.patches:
                yield patch, (weight, whole)


def _block(flat: Tensor, store: Store) -> Tensor:
    return flat[store.start : store.start + store.templates * store.size].view(store.templates, store.size)


def _place(weight: Tensor, kind: Weight, region: Region) -> Tensor:
    """The region's place in a weight, ``[rows, columns * unit]``."""
    rows = weight.view(kind.shape[0], -1)[region.top : region.top + region.rows]
    return rows[:, region.left * kind.unit : (region.left + region.columns) * kind.unit]


def _cut_out(mixture: Tensor, kind: Weight, region: Region) -> Tensor:
    """The region's part of a mixture ``[P]``, ``[rows, columns * unit]``."""
    width = region.width * kind.unit
    block = mixture[region.offset : region.offset + region.rows * width].view(region.rows, width)
    return block[:, : region.columns * kind.unit]
