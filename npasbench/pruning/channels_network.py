"""A network that is dense at first and loses channels once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.budget import Budget
from npasbench.errors import MethodError
from npasbench.networks.members import Member, one_by_one
from npasbench.pruning.channels import ChannelGroup, Replacement, remove
from npasbench.pruning.channels_choice import Count, Scope, counting, kept_channels, l1_norms, most_channels


class ThinnedNetwork(nn.Module):
    """``architecture``, of whose ``groups`` of channels so many are to remain as fit ``budget``.

    How many of each group that is follows from ``norms`` (:func:`~npasbench.pruning.channels_choice.l1_norms`) and stands
    from the start. ``kept`` says which remain, bool ``[channels]`` by group; it is empty while the network is dense.

    Raises:
        BudgetTooSmall: if the budget does not leave one channel of each group.
    """

    def __init__(
        self,
        architecture: nn.Module,
        groups: Sequence[ChannelGroup],
        budget: Budget,
        scope: Scope,
        norms: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.groups = tuple(groups)
        self.kept: dict[str, Tensor] = {}
        held = counting(architecture, groups, budget.accounting)
        self.numbers = most_channels(held, groups, norms, budget.parameters, scope)
        """Channels of each group that remain in the end."""
        self.final = self._count()(self.numbers)
        """The count that follows from ``numbers``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The architecture's own forward."""
        return self.architecture(*args, **kwargs)

    def one_by_one(self) -> AbstractContextManager[Sequence[Member]] | None:
        """The architecture's members, if it is an ensemble."""
        return one_by_one(self.architecture)

    def thin(self) -> dict[nn.Parameter, Replacement]:
        """Remove of each group the channels of the smallest L1 norms as they are now; gives and raises what :meth:`keep` does."""
        self._check_dense()
        return self.keep(kept_channels(self.groups, l1_norms(self.architecture, self.groups), self.numbers))

    def keep(self, kept: Mapping[str, Tensor]) -> dict[nn.Parameter, Replacement]:
        """Remove all channels but these; gives what stands in the place of each parameter that was cut.

        Raises:
            MethodError: if channels were removed before, or ``kept`` does not fit.
        """
        self._check_dense()
        size = self._count()
        replaced = remove(self.architecture, self.groups, kept)
        self.kept = {group.name: kept[group.name].cpu().to(torch.bool) for group in self.groups}
        self.numbers = [int(one.sum()) for one in self.kept.values()]
        self.final = size(self.numbers)
        return replaced

    def export(self) -> nn.Module:
        """The architecture as a plain network, as small as it is."""
        return copy.deepcopy(self.architecture)

    def _check_dense(self) -> None:
        if self.kept:
            raise MethodError("Channels have been removed from this network already: build a new one.")

    def _count(self) -> Count:
        return counting(self.architecture, self.groups)
