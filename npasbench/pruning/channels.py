"""Channels and what they run through: removing one takes a slice out of every tensor that makes, carries or reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from npasbench.errors import MethodError

Role = Literal["makes", "carries", "reads"]
"""Filters make a channel, norms, biases and scales carry it, the next layers' columns read it."""
Cuts = list[tuple[int, Tensor]]
"""Dimensions, and which of their positions remain."""


@dataclass(frozen=True)
class Slice:
    """Where channels lie in one tensor of a network: channel ``c`` is at ``positions[c]`` along ``dim``."""

    module: str
    tensor: str
    dim: int
    positions: tuple[tuple[int, ...], ...]
    role: Role

    @property
    def name(self) -> str:
        """The tensor's name in the network."""
        return f"{self.module}.{self.tensor}" if self.module else self.tensor

    @property
    def width(self) -> int:
        """Positions of one channel."""
        return len(self.positions[0])


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several tensors have in common, so that each is removed from all of them at once.

    ``name`` is that of the first layer that makes them; every slice has as many positions for one channel as for another.
    """

    name: str
    channels: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Replacement:
    """The parameter in an old one's place, and how it was cut out of it."""

    new: nn.Parameter
    cuts: Cuts


def remove(
    network: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[nn.Parameter, Replacement]:
    """Make a network smaller: of each group, by name, only the channels that ``kept`` (bool) holds remain.

    Returns what stands in the place of each parameter that was cut.

    Raises:
        MethodError: if ``kept`` is not for these groups, or keeps nothing of one.
    """
    _check(groups, kept)
    replaced: dict[nn.Parameter, Replacement] = {}
    for (module_name, tensor), gone in _gone(groups, kept).items():
        module = network.get_submodule(module_name)
        old = getattr(module, tensor)
        cuts = [(dim, _others(positions, old.shape[dim])) for dim, positions in gone.items()]
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(cut(old.detach(), cuts), requires_grad=old.requires_grad)
            module._parameters[tensor] = new
            replaced[old] = Replacement(new, cuts)
        else:
            module._buffers[tensor] = cut(old, cuts)
    for name in {one.module for group in groups for one in group.slices}:
        _tell_sizes(network.get_submodule(name))
    return replaced


def cut(value: Tensor, cuts: Cuts) -> Tensor:
    """What remains of a tensor, in its own memory format."""
    channels_last = value.dim() == 4 and not value.is_contiguous()
    for dim, positions in cuts:
        value = value.index_select(dim, positions.to(value.device))
    return value.contiguous(memory_format=torch.channels_last) if channels_last else value


def follow(optimizer: torch.optim.Optimizer, replaced: Mapping[nn.Parameter, Replacement]) -> None:
    """Let an optimizer go on with the parameters that remain, and with the momentum that they have gathered."""
    for group in optimizer.param_groups:
        group["params"] = [replaced[one].new if one in replaced else one for one in group["params"]]
    for old, replacement in replaced.items():
        state = optimizer.state.pop(old, None)
        if state is not None:
            optimizer.state[replacement.new] = {
                name: cut(value, replacement.cuts) if isinstance(value, Tensor) and value.shape == old.shape else value
                for name, value in state.items()
            }


def _check(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> None:
    sizes = {group.name: group.channels for group in groups}
    given = {name: one.numel() for name, one in kept.items()}
    if sizes != given:
        raise MethodError(
            f"Channels are kept of {sorted(given.items())[:3]} ..., but this network has {sorted(sizes.items())[:3]} ..."
        )
    empty = [name for name, one in kept.items() if not bool(one.any())]
    if empty:
        raise MethodError(f"Layer collapse: no channel of {', '.join(empty[:3])} would remain.")


def _gone(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> dict[tuple[str, str], dict[int, list[int]]]:
    """The positions that go, by tensor and dimension."""
    gone: dict[tuple[str, str], dict[int, list[int]]] = {}
    for group in groups:
        channels = [channel for channel, stays in enumerate(kept[group.name].tolist()) if not stays]
        for one in group.slices if channels else ():
            positions = gone.setdefault((one.module, one.tensor), {}).setdefault(one.dim, [])
            positions += [position for channel in channels for position in one.positions[channel]]
    return gone


def _others(positions: Sequence[int], size: int) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)
    stays[list(positions)] = False
    return stays.nonzero().flatten()


def _tell_sizes(module: nn.Module) -> None:
    """Set what a module says of its own size after what its tensors have become."""
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs, inputs = module.weight.shape[:2]
        if module.groups > 1:  # depthwise
            module.in_channels = module.out_channels = module.groups = outputs
        else:
            module.out_channels, module.in_channels = (inputs, outputs) if module.transposed else (outputs, inputs)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        first = module.weight if module.affine else module.running_mean
        module.num_features = module.num_features if first is None else len(first)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
