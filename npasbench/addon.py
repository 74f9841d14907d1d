"""Add-ons: what combines with any method (``--with``), such as distillation from a teacher or pruning what is shared.

An add-on is a method around a method: each hook it does not define is the inner one's, and so is the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from npasbench.errors import UsageError
from npasbench.method import (
    Batch,
    Criterion,
    EpochContext,
    Findings,
    Knobs,
    Method,
    Progress,
    SearchContext,
    Structure,
)

if TYPE_CHECKING:
    import torch

    from npasbench.problem import Problem

_HUNG = "_npasbench_hung"
_OWN, _INNER = "own", "inner"


def _no_others(name: str) -> Method:
    raise UsageError(f"There is no method '{name}' to be had here: this add-on was made without a registry.")


class AddOn(Method):
    """What goes with the method ``inner``. ``methods`` gives any other method by name, with its default knobs.

    The first add-on of a run is around its method, the next one around that. Define what differs, and call the same
    hook of ``self.inner`` in it.
    """

    def __init__(
        self, inner: Method, settings: Knobs | None = None, methods: Callable[[str], Method] = _no_others
    ) -> None:
        super().__init__(settings)
        self.inner, self.methods = inner, methods

    @property
    def title(self) -> str:
        """What it is called in sentences, with what it goes with."""
        return f"{bare(self).title} with {' and '.join(one.name for one in around(self))}"

    def uses(self) -> tuple[Method, ...]:
        """Other methods that decide the result: their versions are part of a run's fingerprint. By default none."""
        return ()

    def skip(self, problem: Problem) -> str | None:
        """The inner method's reason."""
        return self.inner.skip(problem)

    def time_factor(self, problem: Problem) -> float:
        """As long as the inner method takes."""
        return self.inner.time_factor(problem)

    def needs_search(self) -> bool:
        """Whether the inner method needs one."""
        return self.inner.needs_search()

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """The inner method's search: what it trains is trained by its own hooks."""
        return self.inner.search(problem, context.acting_as(self.inner)) if self.inner.needs_search() else Findings()

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        """The inner method's network."""
        return self.inner.build(problem, findings, rng)

    def final_count(self, network: nn.Module) -> int:
        """The inner method's."""
        return self.inner.final_count(network)

    def final_network(self, network: nn.Module) -> nn.Module:
        """The inner method's."""
        final = self.inner.final_network(network)
        for name, thing in network.__dict__.get(_HUNG, {}).items():
            hang(final, name, thing)
        return final

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """The inner method's."""
        return self.inner.parameter_groups(network)

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The inner method's."""
        yield from self.inner.losses(network, batch, criterion)

    def after_backward(self, network: nn.Module, progress: Progress) -> None:
        """The inner method's."""
        self.inner.after_backward(network, progress)

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """The inner method's."""
        self.inner.after_step(network, progress)

    def after_epoch(self, network: nn.Module, context: EpochContext) -> None:
        """The inner method's."""
        self.inner.after_epoch(network, context)

    def structure(self, network: nn.Module) -> Structure:
        """The inner method's."""
        return self.inner.structure(network)

    def restore(self, network: nn.Module, structure: Structure) -> None:
        """The inner method's."""
        self.inner.restore(network, structure)

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """The inner method's."""
        return self.inner.allocation(network)

    def side_information_bits(self, network: nn.Module) -> int:
        """The inner method's."""
        return self.inner.side_information_bits(network)


def bare(method: Method) -> Method:
    """The method within all its add-ons."""
    while isinstance(method, AddOn):
        method = method.inner
    return method


def around(method: Method) -> list[AddOn]:
    """The add-ons around a method, the innermost first."""
    found: list[AddOn] = []
    while isinstance(method, AddOn):
        found.insert(0, method)
        method = method.inner
    return found


def classes(method: Method) -> list[type[Method]]:
    """The class of the method within all its add-ons, then theirs."""
    return [type(bare(method)), *map(type, around(method))]


# What an add-on finds, beside what its method finds


def joined(own: Findings, inner: Findings) -> Findings:
    """An add-on's findings and its inner method's as one."""
    sides = {_OWN: own, _INNER: inner}
    return Findings(
        {side: dict(one.facts) for side, one in sides.items()},
        {f"{side}.{name}": tensor for side, one in sides.items() for name, tensor in one.tensors.items()},
    )


def parted(findings: Findings) -> tuple[Findings, Findings]:
    """What :func:`joined` joined: the add-on's own and the inner method's; both empty where nothing was searched."""

    def of(side: str) -> Findings:
        mine = {n.removeprefix(f"{side}."): t for n, t in findings.tensors.items() if n.startswith(f"{side}.")}
        return Findings(findings.facts.get(side, {}), mine)

    return of(_OWN), of(_INNER)


# What hangs on a network without being part of it


def hang(network: nn.Module, name: str, thing: object) -> None:
    """Keep a thing with a network: it is in no count, no state and no export, and is copied with the network."""
    hung = network.__dict__.get(_HUNG, {})
    object.__setattr__(network, _HUNG, {**hung, name: thing})


def hung(network: nn.Module, name: str) -> Any:
    """What was hung there under a name, or None."""
    return network.__dict__.get(_HUNG, {}).get(name)


def unhang(network: nn.Module) -> None:
    """Let go of everything that was hung on a network."""
    network.__dict__.pop(_HUNG, None)
