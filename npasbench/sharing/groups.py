"""Who shares with whom, and which parameters are decayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from torch import nn

from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.network import SharedNetwork

Key = TypeVar("Key", bound=Hashable)

UNDECAYED = ("coefficients", "embeddings", "scales", "alphas", "tile_embeddings")
"""Kinds of a generator's parameters that are not decayed, nor pruned.

The first three mix or scale shared ones; decaying them would shrink every weight twice. ``alphas`` mix random values, and
``tile_embeddings`` are what a hypernetwork makes weights from.
"""


def group_by(layers: Sequence[LayerSpec], key: Callable[[LayerSpec], Key]) -> dict[Key, list[LayerSpec]]:
    """Layers by key, groups and members in network order."""
    groups: dict[Key, list[LayerSpec]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    return groups


def by_shape(layers: Sequence[LayerSpec]) -> dict[tuple[int, ...], list[LayerSpec]]:
    """Layers of equal shape together."""
    return group_by(layers, lambda layer: layer.shape)


def contiguous_runs(length: int, runs: int) -> list[int]:
    """Which of ``runs`` contiguous, nearly equal runs each of ``length`` items belongs to; the first get one more."""
    longer, shorter = length % runs, length // runs
    return [run for run in range(runs) for _ in range(shorter + (run < longer))]


def weight_decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Optimizer groups: everything decayed as the recipe says, but the kinds of :data:`UNDECAYED` not at all."""
    undecayed = _undecayed(network)
    decayed = [p for p in network.parameters() if p.requires_grad and id(p) not in undecayed]
    rest = [p for p in network.parameters() if p.requires_grad and id(p) in undecayed]
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    return [*groups, {"params": rest, "weight_decay": 0.0}] if rest else groups


def _undecayed(network: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in network.modules()
        if isinstance(module, SharedNetwork)
        for name, parameter in module.generator.named_parameters()
        if name.split(".")[0] in UNDECAYED
    }
