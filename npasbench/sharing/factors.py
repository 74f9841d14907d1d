"""Matrices given by factors: how many ranks a budget affords for each, and values to start from."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from npasbench.errors import BudgetTooSmall
from npasbench.sharing.layers import LayerSpec

_TINY = 1e-12


@dataclass(frozen=True)
class Factored:
    """A matrix, or several with a common factor: what one rank costs, what they cost without factors, in scalars.

    ``full`` is the rank that a common fraction refers to, ``least`` the smallest rank there may be.
    """

    rank: int
    plain: int
    full: int
    least: int = 1

    @property
    def most(self) -> int:
        """The largest rank that costs less than no factors at all."""
        return max((self.plain - 1) // self.rank, 0)

    def price(self, rank: int) -> int:
        """Scalars of so many ranks; those without factors where these are no more."""
        return min(rank * self.rank, self.plain)


def common_ranks(matrices: Sequence[Factored], parameters: int) -> list[int | None]:
    """The ranks that a budget affords, as equal a fraction of each matrix's full rank as can be; None is no factors.

    First the largest fraction that fits is found by bisection, then single ranks are added, dearest first and one for
    each matrix in turn, while any fits. A matrix whose factors would be no smaller than itself has none.

    Raises:
        BudgetTooSmall: if the least ranks do not fit.
    """

    def at(fraction: float) -> list[int]:
        return [min(m.most + 1, max(m.least, int(fraction * m.full))) for m in matrices]

    def cost(ranks: Sequence[int]) -> int:
        return sum(m.price(rank) for m, rank in zip(matrices, ranks, strict=True))

    if cost(at(0.0)) > parameters:
        raise BudgetTooSmall(smallest=cost(at(0.0)))
    low, high = 0.0, 1.0 + max((m.most + 1) / m.full for m in matrices)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= parameters else (low, middle)
    ranks = _filled(matrices, at(low), parameters - cost(at(low)))
    return [None if rank > m.most else rank for m, rank in zip(matrices, ranks, strict=True)]


def ranks_around(matrices: Sequence[Factored], whole: Collection[int], parameters: int) -> list[int | None]:
    """As :func:`common_ranks`, the matrices at ``whole`` without factors if that leaves the others their least ranks.

    Raises:
        BudgetTooSmall: if the least ranks of all matrices do not fit.
    """
    kept = [replace(m, least=m.most + 1) if index in whole else m for index, m in enumerate(matrices)]
    with contextlib.suppress(BudgetTooSmall):
        return common_ranks(kept, parameters)
    return common_ranks(matrices, parameters)


def ends(layers: Sequence[LayerSpec]) -> set[str]:
    """The names of each member's first layer and of its last, which gives the logits."""
    last = {layer.member: layer.name for layer in layers}
    first = {layer.member: layer.name for layer in reversed(layers)}
    return {*first.values(), *last.values()}


def _filled(matrices: Sequence[Factored], ranks: list[int], spare: int) -> list[int]:
    """Single ranks more, for one matrix after another and round after round, until none fits."""
    dearest_first = sorted(range(len(matrices)), key=lambda index: -matrices[index].rank)
    before = None
    while before != spare:
        before = spare
        for index in dearest_first:
            matrix, rank = matrices[index], ranks[index]
            step = matrix.price(rank + 1) - matrix.price(rank)
            if rank <= matrix.most and step <= spare:
                ranks[index], spare = rank + 1, spare - step
    return ranks


def spectral(weights: Tensor, rank: int, *, scaled: bool = False) -> tuple[Tensor, Tensor]:
    """``[..., rows, columns]`` to ``[..., rows, rank]`` and ``[..., rank, columns]``, whose product is nearest to it.

    From the singular value decomposition U S V^T, cut at the rank, come U sqrt(S) and sqrt(S) V^T (Khodak et al. 2021,
    section 3.1), if ``scaled`` times what gives the product the mean square of the weights. It is computed through the
    eigenvectors of the smaller Gram matrix, at a fraction of the time.
    """
    rows, columns = weights.shape[-2:]
    if rows > columns:
        left, right = spectral(weights.mT, rank, scaled=scaled)
        return right.mT.contiguous(), left.mT.contiguous()
    vectors = torch.linalg.eigh(weights @ weights.mT)[1][..., -rank:].flip(-1)  # [..., rows, rank], largest first
    projected = vectors.mT @ weights  # S V^T
    roots = projected.norm(dim=-1, keepdim=True).sqrt().clamp_min(_TINY)  # [..., rank, 1]
    left, right = vectors * roots.mT, projected / roots
    if not scaled:
        return left, right
    scale = (weights.square().sum((-2, -1), keepdim=True) / projected.square().sum((-2, -1), keepdim=True)) ** 0.25
    return left * scale, right * scale
