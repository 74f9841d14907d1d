"""Small networks of any layers, drawn at random, for laws that hold whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn

from npasbench.api import Architecture, Budget, BudgetTooSmall, Findings, LayerSpec, Method, Problem, SharedNetwork
from npasbench.baselines.ssn import Ssn
from npasbench.baselines.ssn_plus import SsnPlus
from npasbench.budget import Accounting
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.registry import create
from npasbench.sharing.layers import shareable_layers

METHODS: dict[str, type[Method]] = {"ssn": Ssn, "ssn-plus": SsnPlus}
SHARES = ("wavg", "emb", "avg")
UPSAMPLINGS = ("inter", "mask", "repeat", "wavg", "none")
GROUPINGS = ("single", "random", "type", "shape", "list")

channels = st.integers(1, 7)
kernels = st.integers(1, 3)
LAYERS: tuple[st.SearchStrategy[Callable[[], nn.Module]], ...] = (
    st.builds(lambda i, o, k: lambda: nn.Conv2d(i, o, k, bias=False), channels, channels, kernels),
    st.builds(lambda c, k: lambda: nn.Conv2d(c, c, k, groups=c), channels, kernels),
    st.builds(lambda i, o, k: lambda: nn.ConvTranspose2d(i, o, k), channels, channels, kernels),
    st.builds(lambda i, o, k: lambda: nn.Conv1d(i, o, k), channels, channels, kernels),
    st.builds(lambda i, o: lambda: nn.Linear(i, o), st.integers(1, 24), st.integers(1, 24)),
    st.builds(lambda n, d: lambda: nn.Embedding(n, d), st.integers(1, 40), channels),
    st.builds(lambda d: lambda: nn.MultiheadAttention(d, 1), channels),
    st.builds(lambda d, k: lambda: nn.MultiheadAttention(d, 1, kdim=k), channels, channels),
)
repeated_layers = st.tuples(st.one_of(*LAYERS), st.integers(1, 3))


@st.composite
def stacks(draw: st.DrawFn) -> nn.Module:
    """One to four kinds of layers, each up to three times, and sometimes a norm; never run, only given weights."""
    modules = [make() for make, times in draw(st.lists(repeated_layers, min_size=1, max_size=4)) for _ in range(times)]
    return nn.ModuleList([*modules, *([nn.BatchNorm2d(draw(channels))] if draw(st.booleans()) else [])])


@st.composite
def settings_of(draw: st.DrawFn, layers: int, groupings: tuple[str, ...] = GROUPINGS) -> dict[str, Any]:
    """Knobs of ssn for a network of so many layers."""
    groups: Any = draw(st.sampled_from(groupings))
    if groups == "list":
        drawn = draw(st.lists(st.integers(0, 2), min_size=layers, max_size=layers))
        known = {group: number for number, group in enumerate(dict.fromkeys(drawn))}
        groups = tuple(known[group] for group in drawn)
    return {
        "share": draw(st.sampled_from(SHARES)),
        "upsample": draw(st.sampled_from(UPSAMPLINGS)),
        "groups": groups,
        "group_count": draw(st.integers(1, 4)),
        "max_templates": draw(st.sampled_from([1, 2, 8])),
        "window": draw(st.sampled_from([1, 1, 2])),
    }


class Case(NamedTuple):
    """What hypothesis draws and, where a law does not hold, shows."""

    name: str
    knobs: dict[str, Any]
    network: nn.Module
    parameters: int

    @property
    def method(self) -> Method:
        """The method with its knobs."""
        return method(self.name, **self.knobs)

    def built(self, seed: int = 0) -> SharedNetwork:
        """The method's network with a store of so many parameters, or of the fewest that it can be built with."""
        try:
            return built(self.method, self.network, self.parameters, seed, "bank")
        except BudgetTooSmall as error:
            return built(self.method, self.network, error.smallest, seed, "bank")


@st.composite
def cases(draw: st.DrawFn, groupings: tuple[str, ...] = GROUPINGS) -> Case:
    """A method with its knobs, a network, and a budget from 0.02 to 4 times the network."""
    network = draw(stacks())
    name = draw(st.sampled_from(sorted(METHODS)))
    knobs = draw(settings_of(len(shareable_layers(network)), groupings))
    return Case(name, knobs, network, max(1, int(draw(st.floats(0.02, 4)) * count(network).total)))


def method(name: str, **knobs: Any) -> Method:
    """``ssn`` or ``ssn-plus`` with knobs."""
    return create(METHODS[name], knobs, name)


def asked(network: nn.Module, parameters: int, accounting: Accounting = "total") -> Problem:
    """Give this very network its weights out of so many parameters."""
    budget = Budget(str(parameters), parameters, count(network).total, accounting)
    return Problem((Architecture.of(network),), budget, 0, ())


def built(
    one: Method, network: nn.Module, parameters: int, seed: int = 0, accounting: Accounting = "total"
) -> SharedNetwork:
    """The method's network, as the harness builds it."""
    shared = build(one, asked(network, parameters, accounting), Findings(), seed)
    assert isinstance(shared, SharedNetwork)
    return shared


def specs(*shapes: tuple[int, ...], std: float = 1.0) -> list[LayerSpec]:
    """Layers of these shapes that belong to no network."""
    return [
        LayerSpec(f"{i}.weight", shape, "linear" if len(shape) == 2 else "convolution", std=std)
        for i, shape in enumerate(shapes)
    ]


def images(size: int = 8, channels: int = 3) -> torch.Tensor:
    """Two images."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))
