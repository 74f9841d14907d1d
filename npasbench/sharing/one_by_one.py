"""The members of an ensemble with generated weights, one after another on weights that are generated once.

Each member runs on detached leaves of its weights, so that its activations are gone before the next one runs; one
backward through the generator follows with the gradients that gathered on the leaves. It gives the joint gradient.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from npasbench.networks.members import Member, Members
from npasbench.sharing.layers import LayerSpec

Slots = list[tuple[str, str]]
"""The slots of a member, by their names in it, each with the name of the layer whose weight it is given."""


@contextlib.contextmanager
def on_leaves(
    architecture: Members, slots: Sequence[Slots], generate: Callable[[], Mapping[str, Tensor]]
) -> Iterator[tuple[Member, ...]]:
    """The members on leaves of the weights that ``generate`` gives by layer name; on leaving, their gradients go back.

    ``slots`` is what :func:`slots_of_members` gives.
    """
    weights = generate()
    leaves = {id(weight): weight.detach().requires_grad_(weight.requires_grad) for weight in weights.values()}
    yield tuple(
        functools.partial(torch.func.functional_call, member, {slot: leaves[id(weights[name])] for slot, name in own})
        for member, own in zip(architecture.members, slots, strict=True)
    )
    _backward({id(weight): weight for weight in weights.values()}, leaves)


def slots_of_members(architecture: Members, layers: Sequence[LayerSpec]) -> list[Slots]:
    """For each member the slots that are given a weight. A module of several members is found in each of them."""
    places: dict[tuple[nn.Module, str], str] = {}
    for layer in layers:
        for slot in layer.slots:
            owner, _, local = slot.rpartition(".")
            places[architecture.get_submodule(owner), local] = layer.name
    return [
        [
            (f"{prefix}.{local}" if prefix else local, places[module, local])
            for prefix, module in member.named_modules()
            for local in module._parameters
            if (module, local) in places
        ]
        for member in architecture.members
    ]


def _backward(weights: Mapping[int, Tensor], leaves: Mapping[int, Tensor]) -> None:
    """Through the generator, once; weights that no loss depends on stay out."""
    reached = [key for key, leaf in leaves.items() if leaf.grad is not None]
    if not reached:
        return
    # A loss is asked for under autocast, in which no backward may run.
    with torch.autocast(weights[reached[0]].device.type, enabled=False):
        torch.autograd.backward([weights[key] for key in reached], [leaves[key].grad for key in reached])
