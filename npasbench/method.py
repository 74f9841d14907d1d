"""The contract of a method: how it gives a network its weights under a parameter budget.

The harness calls, in this order: ``skip``, ``needs_search``, ``search``, ``build``, ``final_count`` (the audit),
``parameter_groups``; then for each step ``losses``, ``after_backward``, ``after_step``, for each epoch ``after_epoch``;
at checkpoints and at the end ``structure``, and ``restore`` when a network is built again. A method keeps nothing on
``self``: what it learns lives in the network, its structure or the findings of its search, so that a killed run resumes
exactly.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from npasbench.measuring.count import count
from npasbench.networks.members import one_by_one
from npasbench.problem import Problem
from npasbench.sharing.groups import weight_decay_groups
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.network import SharedNetwork, WeightGenerator, build_shared

if TYPE_CHECKING:
    from torch.optim import Optimizer

Criterion = Callable[[Tensor, Tensor], Tensor]


class Knobs(BaseModel):
    """A method's settings: frozen, strict about names; the defaults are its paper's. Subclass it with fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One mini-batch: inputs ``[batch, ...]``, labels ``[batch]`` and which training examples they are."""

    inputs: Tensor
    labels: Tensor
    indices: Tensor


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands: ``step`` of ``steps`` optimizer steps are done; ``epoch`` (from 0) of ``epochs`` is under way."""

    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """The share of all optimizer steps that is done, 0 to 1."""
        return self.step / self.steps


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a search found: JSON ``facts`` and ``tensors``. Kept with the run, handed to ``build``."""

    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a network is beyond its trained numbers, and what ``build`` alone would not give again.

    ``masks`` holds for a pruned parameter (by its name in the network) a bool tensor, True where a weight remains;
    ``tensors`` holds further integer or bool tensors, ``facts`` JSON. Nothing trained may hide here: floats are refused.
    """

    masks: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class SearchContext(Protocol):
    """What the harness offers a search: data for training only, and a training loop whose cost is recorded."""

    seed: int

    def train(
        self,
        name: str,
        network: nn.Module,
        *,
        epochs: int | None = None,
        lr: float | None = None,
        milestones: Sequence[int] | None = None,
        factor: float = 0.1,
    ) -> nn.Module:
        """Train a throw-away network on the task's training data as a checkpointed stage called ``name``.

        By default by the task's recipe; with ``milestones`` the rate is constant but for a ``factor`` at each of these
        epochs. After a kill the search runs again from the top; a finished stage returns its trained network at once.
        """

    def accumulate(self, network: nn.Module, *, batches: int) -> None:
        """Forward and backward on so many mini-batches of training data, in evaluation mode and without a step.

        Gradients reach whatever hooks the method has placed, and add up in the parameters' ``grad``.
        """

    def acting_as(self, method: Method, *, stages: str = "") -> SearchContext:
        """The same context for networks of another method: it is that one's losses and hooks that train them.

        ``stages`` comes before the names of the stages that are trained there, and so before their random streams'.
        """

    def losses(self, network: nn.Module, *, batches: int) -> Iterator[Tensor]:
        """The method's losses on so many mini-batches of training data, in training mode and full precision.

        Each is a scalar with its graph; going backward is left to the caller, at once or after the last. Normalisation
        uses the batch's statistics, and running statistics stay as they are.
        """


class EpochContext(Protocol):
    """What ``after_epoch`` sees: where training stands, and the optimizer, whose state it may change."""

    optimizer: Optimizer

    @property
    def progress(self) -> Progress:
        """Where training stands."""


class Method(abc.ABC):
    """A way to give a network its weights under a parameter budget. Subclass :class:`SharingMethod` if weights are generated."""

    knobs: ClassVar[type[Knobs]] = Knobs
    cite: ClassVar[str] = ""
    """BibTeX of the paper."""
    version: ClassVar[int] = 1
    """Raise it when results change; it is part of a run's fingerprint."""
    name: ClassVar[str] = ""
    """The name under which ``--plugin`` registers the method; an entry point brings its own."""

    def __init__(self, settings: Knobs | None = None) -> None:
        self.settings: Any = self.knobs() if settings is None else settings

    @property
    def title(self) -> str:
        """What it is called in sentences; an add-on says with which method it goes."""
        return self.name

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def skip(self, problem: Problem) -> str | None:  # noqa: ARG002
        """A reason why this method has no business with this problem, or None."""
        return None

    def time_factor(self, problem: Problem) -> float:  # noqa: ARG002
        """How many times as long a run may take as the dense network's, for the time that is asked of a cluster."""
        return 2.0 if self.needs_search() else 1.2

    def needs_search(self) -> bool:
        """Whether :meth:`search` has to be called at all; by default if a subclass defines one."""
        return type(self).search is not Method.search

    def search(self, problem: Problem, context: SearchContext) -> Findings:  # noqa: ARG002
        """Whatever has to be found before the network is built; its cost is recorded. By default nothing."""
        return Findings()

    @abc.abstractmethod
    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        """The trainable network: inputs ``[batch, ...]`` to logits ``[batch, classes]`` or ``[members, batch, classes]``.

        ``rng`` is the method's own random stream; architectures draw from torch's global generator.

        Raises:
            BudgetTooSmall: if the budget cannot be met, with the smallest number of parameters that can.
        """

    def final_count(self, network: nn.Module) -> int:
        """How many trained scalars the network will have at the end of training; by default those it has now."""
        return count(network, masks=self.structure(network).masks).total

    def final_network(self, network: nn.Module) -> nn.Module:
        """What costs are measured on before training: by default the network; of one that will get smaller, a smaller copy."""
        return network

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Optimizer groups; by default everything is decayed but coefficients and embeddings of a generator."""
        return weight_decay_groups(network)

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """Scalars whose gradients add up to the step's; the loop calls backward on each before asking for the next.

        By default the criterion on the logits. Of several members it is the sum, one member after another where the
        network lets them run so (:func:`~npasbench.networks.members.one_by_one`): memory is then one member's.
        """
        apart = one_by_one(network)
        if apart is not None:
            with apart as each:
                for member in each:
                    yield criterion(member(batch.inputs), batch.labels)
            return
        logits = network(batch.inputs)
        members: Sequence[Tensor] = logits if logits.dim() == 3 else [logits]
        yield torch.stack([criterion(one, batch.labels) for one in members]).sum()

    def after_backward(self, network: nn.Module, progress: Progress) -> None:
        """Called between backward and the optimizer's step, for example to gather evidence from gradients."""

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """Called after each optimizer step, for example to follow a pruning schedule."""

    def after_epoch(self, network: nn.Module, context: EpochContext) -> None:
        """Called after each epoch; ``context`` holds the optimizer and the progress."""

    def structure(self, network: nn.Module) -> Structure:
        """What ``restore`` needs to make a newly built network equal to this one but for its numbers."""
        masks = getattr(network, "masks", None)
        return Structure(masks=masks if isinstance(masks, Mapping) else {})

    def restore(self, network: nn.Module, structure: Structure) -> None:
        """Give a newly built network this structure, before its state is loaded. One road for resume, certificate, export."""
        if structure.masks:
            network.masks = structure.masks  # type: ignore[assignment]

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """What ``npasbench inspect`` shows beside the counts, as JSON: by default each shared layer with what it is given."""
        generator = getattr(network, "generator", None)
        given = generator.allocation() if isinstance(generator, WeightGenerator) else {}
        layers = network.layers if isinstance(network, SharedNetwork) else ()
        return {
            "layers": [
                {
                    "layer": i,
                    "name": layer.name,
                    "shape": list(layer.shape),
                    "kind": layer.kind,
                    **given.get(layer.name, {}),
                }
                for i, layer in enumerate(layers)
            ]
        }

    def side_information_bits(self, network: nn.Module) -> int:
        """Bits that are stored but not trained: masks or indices, group assignments, hash seeds. By default the masks' bits."""
        return sum(mask.numel() for mask in self.structure(network).masks.values())


class SharingMethod(Method):
    """A method whose weights are generated from fewer (or more) shared parameters. Most plugins are one of these."""

    @abc.abstractmethod
    def generator(self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator) -> WeightGenerator:
        """A module whose forward returns ``{layer.name: weight}`` for every layer, from at most ``parameters`` scalars.

        ``parameters`` is what the budget leaves after norms, biases and layers that are not shared.

        Raises:
            BudgetTooSmall: with ``smallest``, the scalars that the generator needs at least.
        """

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> SharedNetwork:  # noqa: ARG002
        """The architecture with its shareable weights replaced by what :meth:`generator` makes."""
        return build_shared(problem, lambda layers, parameters: self.generator(layers, parameters, rng))
