"""What a method is asked to solve: architectures, a parameter budget, classes and an input shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from npasbench.budget import Budget
from npasbench.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """A reference architecture that can be created anew, narrower or shallower where it has such a setting.

    ``factory(width=..., depth=...)`` returns a freshly initialised module whose weights are drawn from torch's global
    generator. ``scales`` says whether every channel count scales with ``width``, or is asked when that is first wanted;
    ``depths`` lists the depths that the family has up to any useful size, in ascending order (empty: no depth setting);
    ``depth`` is its own.
    """

    name: str
    factory: Callable[..., nn.Module] = field(repr=False)
    scales: bool | Callable[[], bool] = field(default=False, repr=False)
    depth: int | None = None
    depths: tuple[int, ...] = ()

    @property
    def has_width(self) -> bool:
        """Whether every channel count scales with ``width``; to find out, a network may be built on the meta device."""
        return self.scales() if callable(self.scales) else self.scales

    def create(self, *, width: float = 1.0, depth: int | None = None) -> nn.Module:
        """A freshly initialised network; ``width`` multiplies every channel count, ``depth`` replaces the depth.

        Raises:
            UsageError: if the architecture has no such setting.
        """
        settings: dict[str, float | int] = {}
        if width != 1.0:
            if not self.has_width:
                raise UsageError(f"{self.name} has no width setting.")
            settings["width"] = width
        if depth is not None and depth != self.depth:
            if depth not in self.depths:
                raise UsageError(f"{self.name} has no depth {depth}; it has {list(self.depths) or 'no depth setting'}.")
            settings["depth"] = depth
        return self.factory(**settings)

    @classmethod
    def of(cls, model: nn.Module) -> Architecture:
        """An architecture that hands out copies of ``model``, weights included: any ``nn.Module`` will do."""
        return cls(type(model).__name__, lambda: copy.deepcopy(model))


@dataclass(frozen=True)
class Problem:
    """Give ``architectures`` their weights out of ``budget``; several architectures form one ensemble.

    ``input_shape`` is that of one example, without the batch; ``excluded`` names modules or parameters (patterns such
    as ``head.*``) that no method may share.
    """

    architectures: tuple[Architecture, ...]
    budget: Budget
    classes: int
    input_shape: tuple[int, ...]
    excluded: tuple[str, ...] = ()

    def create(self, *, width: float = 1.0, depth: int | None = None) -> nn.Module:
        """The dense network: the one architecture, or a :class:`~npasbench.networks.members.Members` of all."""
        from npasbench.networks.members import Members

        networks = [a.create(width=width, depth=depth) for a in self.architectures]
        return networks[0] if len(networks) == 1 else Members(networks, [a.name for a in self.architectures])
