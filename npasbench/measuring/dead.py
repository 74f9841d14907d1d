"""The dead-parameter scan: which counted entries can change nothing.

Entries that receive no gradient from several training batches are suspects. They are replaced by random numbers; if no
output changes in a single bit, they are dead. A set in which something is alive is halved, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from npasbench.method import Batch

_BATCHES = 8
_TRIALS = 64
_SMALLEST = 8


def dead_parameters(
    network: nn.Module,
    batches: Iterable[Batch],
    losses: Callable[[nn.Module, Batch], Iterator[Tensor]],
    outputs: Callable[[nn.Module], Tensor],
    masks: Mapping[str, Tensor],
) -> int:
    """The number of counted entries proved dead. ``outputs`` maps the network to what must not change.

    Gradients are gathered in training mode, so the network's running statistics move: hand in one of your own.
    """
    suspects = _without_gradient(network, batches, losses, masks)
    sets = [(name, where) for name, where in suspects.items() if len(where)]
    if not sets:
        return 0
    reference = outputs(network)
    parameters = dict(network.named_parameters())
    rng = torch.Generator().manual_seed(0)
    if _changes_nothing(network, parameters, sets, outputs, reference, rng):
        return sum(len(where) for _, where in sets)
    dead, waiting, trials = 0, list(sets), 0
    while waiting and trials < _TRIALS:
        name, where = waiting.pop(0)
        trials += 1
        if _changes_nothing(network, parameters, [(name, where)], outputs, reference, rng):
            dead += len(where)
        elif len(where) > _SMALLEST:
            waiting += [(name, half) for half in where.tensor_split(2)]
    return dead


def _without_gradient(
    network: nn.Module,
    batches: Iterable[Batch],
    losses: Callable[[nn.Module, Batch], Iterator[Tensor]],
    masks: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Flat indices, for each trained parameter, of the counted entries whose gradient was always zero."""
    network.train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    never = {
        name: masks[name].clone() if name in masks else torch.ones_like(p, dtype=torch.bool)
        for name, p in trained.items()
    }
    for number, batch in enumerate(batches):
        if number == _BATCHES or not any(bool(left.any()) for left in never.values()):
            break
        network.zero_grad(set_to_none=True)
        for loss in losses(network, batch):
            loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in trained.items():
            if parameter.grad is not None:
                never[name] &= parameter.grad == 0
    return {name: left.flatten().nonzero().flatten() for name, left in never.items()}


def _changes_nothing(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    sets: Iterable[tuple[str, Tensor]],
    outputs: Callable[[nn.Module], Tensor],
    reference: Tensor,
    rng: torch.Generator,
) -> bool:
    """Whether randomising these entries leaves every output bit as it was; the entries are put back."""
    kept = []
    with torch.no_grad():
        for name, where in sets:
            parameter = parameters[name]
            places = torch.unravel_index(where, parameter.shape)
            kept.append((parameter, places, parameter[places].clone()))
            parameter[places] = torch.randn(len(where), generator=rng).to(parameter)
        same = torch.equal(outputs(network), reference)
        for parameter, places, values in kept:
            parameter[places] = values
    return same
