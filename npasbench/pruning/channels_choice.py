"""Which channels remain: those of the largest L1 norms, as many as a budget holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from npasbench.budget import Accounting
from npasbench.errors import BudgetTooSmall
from npasbench.measuring.count import parameter_kinds
from npasbench.pruning.channels import ChannelGroup, Slice

Scope = Literal["layer", "global"]
Count = Callable[[Sequence[int]], int]
_BESIDE = frozenset({"norm", "bias", "other"})
"""Kinds of a dense network's parameters that bank accounting leaves out."""


def l1_norms(network: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """The L1 norms of the filters that make each group's channels, ``[channels]`` in float64 on the CPU, by group.

    Each layer's norms are divided by their mean, so that layers whose outputs are added have an equal say.
    """
    norms = {}
    for group in groups:
        making = [one for one in group.slices if one.role == "makes" and one.tensor.endswith("weight")]
        norms[group.name] = torch.stack([_norms_in(network.get_parameter(one.name), one) for one in making]).mean(0)
    return norms


def _norms_in(weight: Tensor, one: Slice) -> Tensor:
    rows = weight.detach().to("cpu", torch.float64).abs().movedim(one.dim, 0).flatten(1).sum(1)
    norms = rows[torch.tensor(one.positions)].sum(1)  # [channels, width] -> [channels]
    mean = norms.mean()
    return norms / mean if mean > 0 else norms


def counting(network: nn.Module, groups: Sequence[ChannelGroup], accounting: Accounting = "total") -> Count:
    """A function from the number of channels of each group to the trained scalars that the network then has.

    Under bank accounting these are the weights of its layers alone.
    """
    cuts: dict[str, list[tuple[int, int, int]]] = {}
    for index, group in enumerate(groups):
        for one in group.slices:
            cuts.setdefault(one.name, []).append((one.dim, one.width, index))
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if accounting == "bank":
        kinds = parameter_kinds(network)
        trained = {
            name: p for name, p in trained.items() if kinds[name] not in _BESIDE and name.split(".")[-1] != "bias"
        }
    whole = sum(p.numel() for name, p in trained.items() if name not in cuts)
    partly = [(tuple(p.shape), cuts[name]) for name, p in trained.items() if name in cuts]

    def count(numbers: Sequence[int]) -> int:
        total = whole
        for shape, own in partly:
            sizes = list(shape)
            for dim, width, index in own:
                sizes[dim] -= width * (groups[index].channels - numbers[index])
            total += math.prod(sizes)
        return total

    return count


def most_channels(
    count: Count, groups: Sequence[ChannelGroup], norms: Mapping[str, Tensor], budget: int, scope: Scope
) -> list[int]:
    """How many channels of each group remain: at least one of each, and as many as fit ``budget``.

    With scope ``layer`` all groups keep the same share of their channels; with ``global`` channels remain in the order of
    their norms, whatever their group. First the longest beginning of that order that fits, by bisection; then single
    channels further down, while any fits.

    Raises:
        BudgetTooSmall: if one channel of each group is too much.
    """
    least = count([1] * len(groups))
    if least > budget:
        raise BudgetTooSmall(smallest=least)
    order = _order(groups, norms, scope)
    low, high = 0, len(order) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(_numbers(groups, order[:middle])) <= budget else (low, middle)
    numbers, full = _numbers(groups, order[:low]), set[int]()
    for index in order[low:]:
        more = [*numbers[:index], min(numbers[index] + 1, groups[index].channels), *numbers[index + 1 :]]
        if index in full or count(more) > budget:
            full.add(index)  # a channel only becomes dearer when others have more
        else:
            numbers = more
    return numbers


def kept_channels(
    groups: Sequence[ChannelGroup], norms: Mapping[str, Tensor], numbers: Sequence[int]
) -> dict[str, Tensor]:
    """Bool ``[channels]`` by group: True for its so many largest norms, the earlier channel where two are equal."""
    kept = {}
    for group, number in zip(groups, numbers, strict=True):
        kept[group.name] = torch.zeros(group.channels, dtype=torch.bool)
        kept[group.name][norms[group.name].argsort(descending=True, stable=True)[:number]] = True
    return kept


def _order(groups: Sequence[ChannelGroup], norms: Mapping[str, Tensor], scope: Scope) -> list[int]:
    """Groups, one entry for each channel, in the order in which channels are kept."""
    keys: list[tuple[float, int]] = []
    for index, group in enumerate(groups):
        if scope == "layer":
            keys += [((rank + 0.5) / group.channels, index) for rank in range(group.channels)]
        else:
            keys += [(-norm, index) for norm in norms[group.name].tolist()]
    return [index for _, index in sorted(keys)]


def _numbers(groups: Sequence[ChannelGroup], beginning: Sequence[int]) -> list[int]:
    numbers = [0] * len(groups)
    for index in beginning:
        numbers[index] += 1
    return [max(1, number) for number in numbers]
