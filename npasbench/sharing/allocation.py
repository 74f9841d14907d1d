"""Dividing a budget: how many tensors each shape may have, how many scalars each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from npasbench.errors import BudgetTooSmall


def tensors_for_each_shape(
    sizes: Sequence[int],
    layers: Sequence[int],
    parameters: int,
    *,
    limit: Callable[[int], int] = lambda layers: layers,
    extra: Callable[[int, int], int] = lambda layers, tensors: 0,  # noqa: ARG005
) -> list[int]:
    """The numbers of tensors that a budget affords, as equal a share of its layers for each shape as can be.

    ``sizes`` and ``layers`` are, for each shape, the scalars of one tensor and the number of layers; ``limit(layers)``
    is the most tensors worth having, ``extra(layers, tensors)`` what mixing them costs beside the tensors. First the
    largest common share is found by bisection, each shape having at least one tensor; then single tensors are added,
    largest first, while any fits.

    Raises:
        BudgetTooSmall: if one tensor for each shape does not fit.
    """

    def cost(tensors: Sequence[int]) -> int:
        return sum(size * k + extra(m, k) for size, m, k in zip(sizes, layers, tensors, strict=True))

    def at(share: float) -> list[int]:
        return [min(limit(m), max(1, int(share * m))) for m in layers]

    if cost(at(0.0)) > parameters:
        raise BudgetTooSmall(smallest=cost(at(0.0)))
    low, high = 0.0, 1.0 + parameters / min(size * m for size, m in zip(sizes, layers, strict=True))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= parameters else (low, middle)
    return _fill(at(low), sizes, layers, parameters, cost, limit)


def _fill(
    tensors: list[int],
    sizes: Sequence[int],
    layers: Sequence[int],
    parameters: int,
    cost: Callable[[Sequence[int]], int],
    limit: Callable[[int], int],
) -> list[int]:
    """Add single tensors, those of the largest shapes first, while any fits; one round each, so shares stay alike."""
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        more = [*tensors[:index], tensors[index] + 1, *tensors[index + 1 :]]
        if more[index] <= limit(layers[index]) and cost(more) <= parameters:
            tensors = more
    return tensors


def in_proportion(sizes: Sequence[int], parameters: int) -> list[int]:
    """Split ``parameters``: one for each of ``sizes``, the rest in proportion to what each has beyond one.

    What rounding leaves goes to the largest remainders. None gets more than its size while there are no more
    parameters than all sizes together.

    Raises:
        BudgetTooSmall: if there are more sizes than parameters.
    """
    if parameters < len(sizes):
        raise BudgetTooSmall(smallest=len(sizes))
    beyond = [size - 1 for size in sizes]
    beyond = beyond if any(beyond) else list(sizes)
    total, spare = sum(beyond), parameters - len(sizes)
    shares = [1 + spare * size // total for size in beyond]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(spare * beyond[i] % total))
    for index in by_remainder[: parameters - sum(shares)]:
        shares[index] += 1
    return shares
