"""Several architectures side by side, as an ensemble's members, and how they are run one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

Member = Callable[[Tensor], Tensor]
"""One member: inputs ``[batch, ...]`` to logits ``[batch, classes]``."""


class Members(nn.Module):
    """Runs every member on the same inputs; logits are ``[members, batch, classes]``.

    ``names`` are the members' architectures, by default "member 0", "member 1", ...
    """

    def __init__(self, members: Sequence[nn.Module], names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.names = unnamed(len(members)) if names is None else tuple(names)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, ...] -> [members, batch, classes]``."""
        return torch.stack([member(inputs) for member in self.members])

    @contextlib.contextmanager
    def one_by_one(self) -> Iterator[Sequence[Member]]:
        """The members themselves."""
        yield tuple(self.members)


def unnamed(number: int) -> tuple[str, ...]:
    """What members are called that have no architecture of their own."""
    return tuple(f"member {k}" for k in range(number))


def one_by_one(network: nn.Module) -> AbstractContextManager[Sequence[Member]] | None:
    """A network's members, to be run and gone backward through one after another; None if it has none apart.

    Within the context each member maps inputs to its logits; together they give what the network's forward gives. Call
    backward on what follows from one member before the next one runs, and only one member's activations are held.
    Where weights are generated, this happens once, on entering, and what gathered goes through the generator on
    leaving: until then its parameters have no gradient. A network offers this by a method ``one_by_one`` of its own.
    """
    own = getattr(network, "one_by_one", None)
    members: AbstractContextManager[Sequence[Member]] | None = own() if callable(own) else None
    return members
