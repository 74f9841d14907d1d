"""The Python call: share a model's weights, count them, export a plain network again."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

from torch import nn

from npasbench import budget as budgets
from npasbench.addon import unhang
from npasbench.building import audited
from npasbench.errors import UsageError
from npasbench.measuring.count import Count, count
from npasbench.method import Findings
from npasbench.networks.members import Members
from npasbench.problem import Architecture, Problem
from npasbench.registry import Registry, create


def share(
    model: nn.Module,
    method: str,
    *,
    budget: str | float,
    seed: int = 0,
    exclude: Sequence[str] = (),
    plugins: Sequence[str] = (),
    **knobs: Any,
) -> nn.Module:
    """A trainable network with the model's architecture whose weights come out of a parameter budget.

    ``budget`` is a fraction of the model's trained scalars (0.1, "10%") or a count from 1000 up ("18M"); ``exclude``
    names modules or parameters that stay as they are (patterns such as ``"head.*"``); ``knobs`` are the method's.
    The model itself is not changed; what is not shared is copied from it.

    Raises:
        UnknownName: for an unknown method or knob, with the nearest ones.
        BudgetTooSmall: with the smallest budget that the method can meet.
        LayerCollapse: for a method that prunes and would leave nothing of a layer.
        UsageError: for a method that needs the harness (a search, or pruning while it trains) or another architecture;
            for what is no model, has no trained parameters, or is no seed.
    """
    chosen = create(Registry(plugins).method(method), knobs, method)
    problem = _problem(model, budget, exclude)
    drawn = _whole(seed, "share", "seed")
    reason = chosen.skip(problem)
    if reason:
        raise UsageError(f"{method} does not apply here: {reason}.")
    if chosen.needs_search():
        raise UsageError(
            f"{method} searches before it builds; use 'npasbench run', which gives it data to search with, or set its knobs so "
            f"that it builds without a search (see 'npasbench show {method}')."
        )
    network = audited(chosen, problem, Findings(), drawn)
    if count(network).total > problem.budget.parameters:
        raise UsageError(
            f"{method} meets its budget only while it trains; use 'npasbench run', whose loop calls its hooks."
        )
    if chosen.structure(network).masks:
        raise UsageError(
            f"{method} prunes, and its masks hold only in the loop of 'npasbench run', which calls its hooks; use that."
        )
    example = next(model.parameters())
    return network.to(device=example.device, dtype=example.dtype).train(model.training)


def export(network: nn.Module, *, member: int | None = None) -> nn.Module:
    """A plain dense network that gives the same output: generated weights become parameters, pruned ones are zeros.

    With ``member``, counted from 0, only that member of an ensemble.

    Raises:
        UsageError: for a member that there is not, or of a network that has none to be had apart.
    """
    plain = _plain(network)
    unhang(plain)
    if member is None:
        return plain
    if not isinstance(plain, Members):
        raise UsageError(f"{type(network).__name__} has no members to be had apart; leave the member out.")
    wanted, last = _whole(member, "export", "member"), len(plain.members) - 1
    if wanted > last:
        raise UsageError(f"There is no member {wanted}: the members are counted from 0 to {last}.")
    return plain.members[wanted]


def _plain(network: nn.Module) -> nn.Module:
    own = getattr(network, "export", None)
    if callable(own):
        plain = own()
    elif isinstance(network, Members):
        plain = Members([_plain(member) for member in network.members], network.names)
    else:
        plain = copy.deepcopy(network)
    if not isinstance(plain, nn.Module):
        raise UsageError(f"{type(network).__name__}.export() returned {type(plain).__name__}, not a torch.nn.Module.")
    return plain


def _problem(model: nn.Module, budget: str | float, exclude: Sequence[str]) -> Problem:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"share was given {model!r} ({type(model).__name__}) as its model; a torch.nn.Module is expected, such as "
            "torchvision.models.resnet18()."
        )
    dense = count(model).total
    if dense == 0:
        raise UsageError(
            f"{type(model).__name__} has no trained parameters, so there is nothing to share. Give a model whose "
            "parameters require gradients."
        )
    return Problem((Architecture.of(model),), budgets.resolve(budget, dense), 0, (), tuple(exclude))


def _whole(given: Any, call: str, what: str) -> int:
    try:
        number = -1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(
            f"{call} was given {given!r} ({type(given).__name__}) as its {what}; a whole number from 0 up is expected."
        )
    return number


__all__ = ["Count", "count", "export", "share"]
