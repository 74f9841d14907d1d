"""Building a library's network with constructors that are told other arguments, above all its layers other counts."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Build = Callable[[], nn.Module]
Change = Callable[[Any, dict[str, Any]], None]
"""Changes the arguments that the constructor of an object is called with."""

_LOCK = threading.RLock()


@contextlib.contextmanager
def told(changes: Mapping[type, Change]) -> Iterator[None]:
    """Within it the constructors of these classes, where this thread calls them, get their arguments changed."""
    with _LOCK:
        originals = {cls: vars(cls)["__init__"] for cls in changes}
        try:
            for cls, change in changes.items():
                setattr(cls, "__init__", _telling(originals[cls], change, threading.get_ident()))  # noqa: B010
            yield
        finally:
            for cls, original in originals.items():
                setattr(cls, "__init__", original)  # noqa: B010


def _telling(original: Callable[..., None], change: Change, thread: int) -> Callable[..., None]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: object, *args: object, **kwargs: object) -> None:
        if threading.get_ident() == thread:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            change(self, bound.arguments)
            args, kwargs = bound.args[1:], bound.kwargs
        original(self, *args, **kwargs)

    return init


class Counts(NamedTuple):
    """What a layer is told: channels that it reads, those that it gives (0: a norm), and the groups that divide them."""

    inputs: int
    outputs: int = 0
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel is a group of its own."""
        return 1 < self.groups == self.inputs


_KINDS: dict[type, dict[str, str]] = {
    _ConvNd: {"inputs": "in_channels", "outputs": "out_channels", "groups": "groups"},
    nn.Linear: {"inputs": "in_features", "outputs": "out_features"},
    _NormBase: {"inputs": "num_features"},
    nn.GroupNorm: {"inputs": "num_channels", "groups": "num_groups"},
    nn.LayerNorm: {"inputs": "normalized_shape"},
    nn.RMSNorm: {"inputs": "normalized_shape"},
}
"""What the constructors of layers, and then the layers themselves, call their counts. Other kinds of layers stay."""


class Layers:
    """The layers of a network in the order of their construction: ``asked`` by the library, ``made`` as ``counts`` say.

    Layers that come after the last of ``counts`` are made as they are asked for.
    """

    def __init__(self, counts: Sequence[Counts] = ()) -> None:
        self.counts = counts
        self.asked: list[Counts] = []
        self.made: list[nn.Module] = []

    def built(self, build: Build, also: Mapping[type, Change] | None = None) -> nn.Module:
        """What ``build`` gives with these layers, and with constructors of other classes that are told ``also``.

        On the meta device only the layers are built there, since some libraries calculate counts with tensors.
        """
        meta = torch.get_default_device().type == "meta"
        changes = {cls: functools.partial(self._tell, names, meta) for cls, names in _KINDS.items()}
        with contextlib.ExitStack() as stack:
            if meta:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                stack.enter_context(torch.device("cpu"))
            stack.enter_context(told({**changes, **(also or {})}))
            network = build()
        return network.to("meta") if meta else network

    def _tell(self, names: dict[str, str], meta: bool, layer: nn.Module, arguments: dict[str, Any]) -> None:
        place = len(self.made)
        self.made.append(layer)
        self.asked.append(Counts(**{field: _one(arguments[name]) for field, name in names.items()}))
        if place < len(self.counts):
            arguments.update((name, getattr(self.counts[place], field)) for field, name in names.items())
        if meta:
            arguments["device"] = "meta"

    def now(self) -> tuple[Counts, ...]:
        """The counts that the layers have by now."""
        kinds = (next(names for cls, names in _KINDS.items() if isinstance(layer, cls)) for layer in self.made)
        return tuple(
            Counts(**{field: _one(getattr(layer, name)) for field, name in names.items()})
            for layer, names in zip(self.made, kinds, strict=True)
        )


def _one(count: int | Sequence[int]) -> int:
    """A count that may be told as a shape."""
    if isinstance(count, int):
        return count
    (only,) = count
    return only
