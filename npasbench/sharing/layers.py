"""Finding the layers of any ``nn.Module`` whose weights can be shared.

Shareable are the weights of convolutions (any dimension, grouping or transposition), linear layers, embeddings and
attention's packed or separate input projections. A tied weight is one layer with several slots. Frozen weights,
parametrised ones and whatever the user excludes stay as they are.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from npasbench.errors import UnknownName, UsageError

Kind = Literal["convolution", "linear", "embedding", "attention"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class LayerSpec:
    """A layer to be given a weight.

    ``name`` is the weight's parameter name in the architecture, ``shape`` its shape, ``kind`` the kind of layer,
    ``member`` the architecture of an ensemble it belongs to. ``fan_in`` is the number of inputs of one output, ``std``
    the standard deviation with which the architecture itself initialised this weight. ``slots`` are all the places
    that hold this weight: several where weights are tied. ``groups`` is that of a grouped convolution.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    member: int = 0
    fan_in: int = 1
    std: float = 1.0
    slots: tuple[str, ...] = ()
    groups: int = 1

    @property
    def size(self) -> int:
        """The number of scalars in the weight."""
        return math.prod(self.shape)


def shareable_layers(network: nn.Module, excluded: Sequence[str] = ()) -> list[LayerSpec]:
    """The shareable layers of a network, in the order in which it registers them.

    Raises:
        UsageError: for a network whose parameters are not yet initialised (lazy modules).
        UnknownName: for an excluded name or pattern that matches no module or parameter.
    """
    _check_excluded(network, excluded)
    slots: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        slots.setdefault(id(parameter), []).append(name)
    layers: list[LayerSpec] = []
    seen: set[int] = set()
    for name, parameter, module, kind in _candidates(network):
        if id(parameter) in seen or not parameter.requires_grad or _is_excluded(slots[id(parameter)], excluded):
            continue
        seen.add(id(parameter))
        layers.append(
            LayerSpec(
                name=name,
                shape=tuple(parameter.shape),
                kind=kind,
                member=_member(name),
                fan_in=_fan_in(module, parameter),
                std=_std(parameter, _fan_in(module, parameter)),
                slots=_places(network, slots[id(parameter)]),
                groups=getattr(module, "groups", 1) if kind == "convolution" else 1,
            )
        )
    return layers


def _candidates(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, Kind]]:
    """Every weight slot that could be shared: its name, parameter, module and kind."""
    for prefix, module in network.named_modules():
        for local, kind in _weights_of(module):
            parameter = module._parameters.get(local)
            if parameter is None:
                continue
            if isinstance(parameter, nn.UninitializedParameter):
                raise UsageError(f"'{prefix}' is a lazy module: run one batch through the network before sharing it.")
            yield f"{prefix}.{local}" if prefix else local, parameter, module, kind


def _weights_of(module: nn.Module) -> list[tuple[str, Kind]]:
    if isinstance(module, _CONVOLUTIONS):
        return [("weight", "convolution")]
    if isinstance(module, nn.Linear):
        return [("weight", "linear")]
    if isinstance(module, nn.Embedding):
        return [("weight", "embedding")]
    if isinstance(module, nn.MultiheadAttention):
        return [(name, "attention") for name in _ATTENTION_WEIGHTS]
    return []


def _fan_in(module: nn.Module, parameter: nn.Parameter) -> int:
    """Inputs of one output; an embedding's row is looked up, so it has one input."""
    if isinstance(module, nn.Embedding):
        return 1
    if isinstance(module, _TRANSPOSED):
        return int(parameter.shape[0]) // module.groups * math.prod(parameter.shape[2:])
    return math.prod(parameter.shape[1:])


def _std(parameter: nn.Parameter, fan_in: int) -> float:
    """The initial weight's deviation; He's sqrt(2 / fan_in) where there are no values or they are constant."""
    he = math.sqrt(2 / fan_in)
    if parameter.is_meta or parameter.numel() < 2:
        return he
    std = float(parameter.detach().to(torch.float32).std())
    return std if std > 0 and math.isfinite(std) else he


def _member(name: str) -> int:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "members" and len(parts) > 2 and parts[1].isdigit() else 0


def _places(network: nn.Module, slots: Sequence[str]) -> tuple[str, ...]:
    """One name for each place: a module that is registered twice holds its weight once."""
    places: dict[tuple[int, str], str] = {}
    for slot in slots:
        owner, _, local = slot.rpartition(".")
        places.setdefault((id(network.get_submodule(owner)), local), slot)
    return tuple(places.values())


def _is_excluded(slots: Sequence[str], excluded: Sequence[str]) -> bool:
    names = [name for slot in slots for name in (slot, *_parents(slot))]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in excluded for name in names)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _check_excluded(network: nn.Module, excluded: Sequence[str]) -> None:
    modules = {name for name, _ in network.named_modules(remove_duplicate=False) if name}
    known = modules | {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for pattern in excluded:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            raise UnknownName("module or parameter to exclude", pattern, known)
