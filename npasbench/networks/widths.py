"""A width setting for networks whose library gives them none: every channel count times a real number, rounded, at least 1.

The library's own constructor builds the network, so that its own initialisation sees the fans of the new size. On the way
either each layer is told other counts (convolutional networks), or the network's class is told other settings, such as a
vision transformer's ``embed_dim``. Image channels, classes and heads stay, and so does a count of 1. Where groups or heads
divide a count, its new one is a multiple of them. Which way works is tried on the meta device.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from npasbench.networks.constructors import Build, Counts, Layers

_TRIED = (1e-6, 0.3, 1.7)


class Widths(Protocol):
    """How a network gets another width."""

    def create(self, width: float, build: Build) -> nn.Module:
        """What ``build`` gives when every channel count is times ``width``.

        Raises:
            ValueError: if a count that comes out does not suit the network.
        """


def find_widths(build: Callable[[int], nn.Module], classes: int, shape: tuple[int, ...]) -> Widths | None:
    """How a network gets another width, or None if it cannot; neither memory nor random numbers are used.

    ``build`` builds it for a number of classes; ``shape`` is that of one example that it reads.
    """
    example = _Example(functools.partial(build, classes), shape, classes)
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            dense, other = Layers(), Layers()
            network, more = dense.built(example.build), other.built(functools.partial(build, classes + 1))
            heads = {k for k, counts in enumerate(zip(dense.asked, other.asked, strict=True)) if len({*counts}) > 1}
        except Exception:
            return None
        ways: list[Widths] = [_ByLayers(example, tuple(dense.asked), frozenset(heads))]
        ways += [_BySettings(cls) for cls in type(network).__mro__ if _SETTINGS & {*_settings(cls)}][:1]
        return next((way for way in ways if _works(way, example, network, more)), None)


@dataclass(frozen=True, eq=False)
class _Example:
    """A network as the library builds it, and the shape of one example that it reads."""

    build: Build
    shape: tuple[int, ...]
    classes: int

    def run(self, network: nn.Module) -> None:
        """One forward of two examples in training mode.

        Raises:
            ValueError: if it does not give one row of logits for each.
        """
        logits = network.train()(torch.zeros(2, *self.shape))
        if tuple(logits.shape) != (2, self.classes):
            raise ValueError(f"it gives {list(logits.shape)}, not {[2, self.classes]}")


def _works(way: Widths, example: _Example, dense: nn.Module, more: nn.Module) -> bool:
    """Whether networks of some widths can run, and one of twice the width is so in every layer.

    ``more`` has one class more than ``dense``, so that what gives the classes can be told from what has as many channels.
    """
    try:
        for width in _TRIED:
            example.run(way.create(width, example.build))
        old, other, new = (_channels(one) for one in (dense, more, way.create(2.0, example.build)))
    except Exception:
        return False
    fixed = {1, example.shape[0]}
    return old.keys() == new.keys() and all(
        (new[name][0] == 2 * reads or new[name][0] == reads in fixed)
        and new[name][1] == (gives if gives == 1 or gives != other[name][1] else 2 * gives)
        for name, (reads, gives) in old.items()
    )


def _channels(network: nn.Module) -> dict[str, tuple[int, int]]:
    """What each convolution and linear layer reads and gives."""
    layers = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, _ConvNd | nn.Linear))
    return {
        name: (layer.in_channels, layer.out_channels)
        if isinstance(layer, _ConvNd)
        else (layer.in_features, layer.out_features)
        for name, layer in layers
    }


def times(count: int, width: float, unit: int = 1) -> int:
    """``count * width`` rounded half up to a multiple of ``unit``, at least one: it never falls as the width grows."""
    return unit * max(1, math.floor(count / unit * width + 0.5))


# By layers


@dataclass(frozen=True, eq=False)
class _ByLayers:
    """Every layer is told its outputs times the width; what it reads is seen in a forward on the meta device.

    So a layer that reads several others' channels side by side, or all pixels, is told their number.
    """

    example: _Example
    dense: tuple[Counts, ...]
    heads: frozenset[int]

    def create(self, width: float, build: Build) -> nn.Module:
        """What ``build`` gives with these layers."""
        counts = tuple(self._times(width, place, counts) for place, counts in enumerate(self.dense))
        return Layers(_fitted(self, counts)).built(build)

    def _times(self, width: float, place: int, counts: Counts) -> Counts:
        inputs = self._scaled(counts.inputs, width)
        if place in self.heads:
            return counts._replace(inputs=inputs)
        if counts.depthwise:
            return Counts(inputs, counts.outputs // counts.inputs * inputs, inputs)
        return Counts(inputs, self._scaled(counts.outputs, width), counts.groups)

    def _scaled(self, count: int, width: float) -> int:
        """A single channel, such as that of a mask over pixels, stays single."""
        return count if count <= 1 else times(count, width, self._units.get(count, 1))

    @functools.cached_property
    def _units(self) -> dict[int, int]:
        """What divides a count wherever it occurs, if it is not 1."""
        units: dict[int, int] = {}
        for counts in self.dense:
            if counts.groups > 1 and not counts.depthwise:
                for count in (counts.inputs, counts.outputs):
                    units[count] = math.lcm(units.get(count, 1), counts.groups)
        return units


@functools.lru_cache(maxsize=256)
def _fitted(way: _ByLayers, counts: tuple[Counts, ...]) -> tuple[Counts, ...]:
    """The counts, with what the layers that run in a forward read there."""
    layers = Layers(counts)
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            network = layers.built(way.example.build)
            for layer, dense in zip(layers.made, way.dense, strict=True):
                layer.register_forward_pre_hook(functools.partial(_fit, dense))
            way.example.run(network)
            return layers.now()
        except Exception as error:
            raise ValueError(" ".join(str(error).split())[:200].rstrip(".") or type(error).__name__) from error


def _fit(dense: Counts, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Let a layer on the meta device read as many channels as it is given; norms over the last dimensions stay."""
    if not inputs or not isinstance(inputs[0], Tensor):
        return
    seen = inputs[0].shape[-1 if isinstance(layer, nn.Linear) else 1]
    if isinstance(layer, nn.Linear):
        layer.in_features = seen
        _resize(layer, weight=(layer.out_features, seen))
    elif isinstance(layer, _ConvNd) and not layer.transposed:
        if dense.depthwise:
            layer.groups, layer.out_channels = seen, dense.outputs // dense.inputs * seen
        layer.in_channels = seen
        _resize(
            layer, weight=(layer.out_channels, seen // layer.groups, *layer.kernel_size), bias=(layer.out_channels,)
        )
    elif isinstance(layer, _NormBase):
        layer.num_features = seen
        _resize(layer, **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (seen,)))
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels, layer.num_groups = seen, seen if dense.depthwise else layer.num_groups
        _resize(layer, weight=(seen,), bias=(seen,))


def _resize(layer: nn.Module, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        value = getattr(layer, name)
        if value is not None and tuple(value.shape) != shape:
            new = value.new_empty(shape)
            setattr(layer, name, nn.Parameter(new) if isinstance(value, nn.Parameter) else new)


# By settings

_SETTINGS = {"embed_dim", "embed_dims", "hidden_dim", "dims", "block_setting"}
_HEADS = ("num_heads", "heads")


@dataclass(frozen=True)
class _BySettings:
    """The network's class is told other widths of its tokens or stages; heads stay, and divide them as before."""

    cls: type

    def create(self, width: float, build: Build) -> nn.Module:
        """What ``build`` gives with these settings."""
        return Layers().built(build, {self.cls: functools.partial(_set, width)})


def _settings(cls: type) -> Sequence[str]:
    return tuple(inspect.signature(vars(cls)["__init__"]).parameters) if "__init__" in vars(cls) else ()


def _set(width: float, _: nn.Module, arguments: dict[str, Any]) -> None:
    heads = next((arguments[name] for name in _HEADS if name in arguments), 1)
    for name in _SETTINGS & {*arguments}:
        arguments[name] = _wider(arguments[name], width, heads)
    if "mlp_dim" in arguments:
        arguments["mlp_dim"] = times(arguments["mlp_dim"], width)


def _wider(setting: Any, width: float, heads: Any) -> Any:
    """A count, counts of stages, or torchvision's settings of a ConvNeXt's stages."""
    if isinstance(setting, int):
        return times(setting, width, heads if isinstance(heads, int) else heads[0])
    if isinstance(setting, Sequence):
        each = [heads] * len(setting) if isinstance(heads, int) else heads
        return [_wider(one, width, unit) for one, unit in zip(setting, each, strict=True)]
    new = copy.copy(setting)
    for name in ("input_channels", "out_channels"):
        if getattr(new, name) is not None:
            setattr(new, name, times(getattr(new, name), width))
    return new
