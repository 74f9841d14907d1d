"""Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531).

Section 2: a student learns from a teacher's soft targets, its probabilities at a temperature T, beside the labels. Here

    loss = (1 - weight) * criterion(student, labels) + weight * T^2 * KL(teacher at T || student at T),

where T^2 keeps the two terms' gradients in proportion as T changes. The teacher is another method's network of the same
task, by default the dense one. It is trained first, by the task's recipe, and what that costs is recorded as a search; it
is in no count, and evaluation does not use it.

Of an ensemble each member learns from the mean of the teacher's members: soft targets do not say which member they are of.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from npasbench import building
from npasbench.addon import AddOn, hang, hung, joined, parted
from npasbench.api import (
    Batch,
    Budget,
    Criterion,
    Findings,
    Knobs,
    Method,
    MethodError,
    Problem,
    SearchContext,
    Structure,
)

_STAGE = "teacher"
_FORWARD = 1 / 3
"""Of a step, what the teacher's forward takes: a backward is about two forwards."""


class DistillKnobs(Knobs):
    """``teacher`` is a method by name, built at the dense count with its default knobs; ``weight`` is the soft targets'."""

    teacher: str = "dense"
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, ge=0, le=1)


class Distill(AddOn):
    """Knowledge distillation: the network also learns from what a teacher of the same task predicts."""

    knobs = DistillKnobs
    cite = """@article{hinton2015distilling,
  title = {Distilling the knowledge in a neural network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv:1503.02531},
  year = {2015},
  url = {https://arxiv.org/abs/1503.02531}
}"""

    def __init__(
        self, inner: Method, settings: Knobs | None = None, methods: Callable[[str], Method] | None = None
    ) -> None:
        super().__init__(inner, settings, *([methods] if methods else []))
        _ = self.teacher  # a name that is not known is refused at once

    @cached_property
    def teacher(self) -> Method:
        """The method that makes the teacher."""
        return self.methods(self.settings.teacher)

    def uses(self) -> tuple[Method, ...]:
        """The teacher's method."""
        return (self.teacher,)

    def skip(self, problem: Problem) -> str | None:
        """The method's own reason, or the teacher's."""
        reason = self.inner.skip(problem)
        if reason:
            return reason
        reason = self.teacher.skip(_dense(problem))
        return f"{self.settings.teacher} cannot be its teacher: {reason}" if reason else None

    def time_factor(self, problem: Problem) -> float:
        """The teacher's training comes first, and its forward with every step."""
        return self.inner.time_factor(problem) + self.teacher.time_factor(_dense(problem)) + _FORWARD

    # The teacher

    def needs_search(self) -> bool:
        """The teacher is trained there."""
        return True

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """The method's own search, then the teacher's training by its own method's hooks; its weights are what is found."""
        inner = super().search(problem, context)
        found = Findings()
        if self.teacher.needs_search():
            found = self.teacher.search(_dense(problem), context.acting_as(self.teacher, stages=f"{_STAGE}-"))
        network = building.audited(self.teacher, _dense(problem), found, context.seed)
        network = context.acting_as(self.teacher).train(_STAGE, network)
        structure = self.teacher.structure(network)
        own = Findings(
            {"seed": context.seed, "found": dict(found.facts), "structure": dict(structure.facts)},
            {
                **_under("state", network.state_dict()),
                **_under("mask", structure.masks),
                **_under("tensor", structure.tensors),
                **_under("found", found.tensors),
            },
        )
        return joined(own, inner)

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        """The method's network; the trained teacher hangs on it and is no part of it."""
        own, inner = parted(findings)
        network = self.inner.build(problem, inner, rng)
        if own.tensors:
            hang(network, self.name, _Teacher(self._trained(problem, own)))
        return network

    def _trained(self, problem: Problem, own: Findings) -> nn.Module:
        """The teacher built again from its seed, with the structure and the state it was trained to."""
        found = Findings(own.facts["found"], _of("found", own.tensors))
        network = building.build(self.teacher, _dense(problem), found, own.facts["seed"])
        structure = Structure(_of("mask", own.tensors), _of("tensor", own.tensors), own.facts["structure"])
        self.teacher.restore(network, structure)
        network.load_state_dict(_of("state", own.tensors))
        return network.eval().requires_grad_(False)

    # What the student learns

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The method's own losses, with the distillation term in each criterion that it takes."""
        teacher = hung(network, self.name)
        if teacher is None:
            raise MethodError(f"{self.title} has no teacher: its search has to be done before its network is trained.")
        soft = teacher.soft_targets(batch.inputs, self.settings.temperature)  # log-probabilities [batch, classes]

        weight = self.settings.weight * self.settings.temperature**2

        def distilled(logits: Tensor, labels: Tensor) -> Tensor:
            places = self._examples(labels, logits)
            hard = criterion(logits, labels.as_subclass(Tensor))
            student = F.log_softmax(logits.float() / self.settings.temperature, dim=-1)
            divergence = F.kl_div(student, soft[places], reduction="batchmean", log_target=True)
            mixed: Tensor = (1 - self.settings.weight) * hard + weight * divergence
            return mixed

        marked = Followed.of(batch.labels)
        yield from self.inner.losses(network, dataclasses.replace(batch, labels=marked), distilled)

    def _examples(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Which example of the batch each row of logits is of."""
        places = labels.known_places() if isinstance(labels, Followed) else None
        if places is None or places.shape != logits.shape[:1]:
            raise MethodError(
                f"{self.name} cannot tell which examples the logits of {self.inner.title} are of: its losses call the "
                "criterion with labels that were computed or written into. Index, repeat or concatenate batch.labels "
                "instead."
            )
        return places


def _dense(problem: Problem) -> Problem:
    """The same problem with all the parameters of the dense network."""
    dense = problem.budget.dense
    return dataclasses.replace(problem, budget=Budget("1", dense, dense, problem.budget.accounting))


def _under(part: str, tensors: Any) -> dict[str, Tensor]:
    """Tensors on the CPU under names that begin with the part; a state's other values are bytes or none at all."""
    return {f"{part}.{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


def _of(part: str, tensors: Any) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): one for name, one in tensors.items() if name.startswith(f"{part}.")}


class _Teacher:
    """A trained network that only predicts. Copies of the student's network share it, since nothing changes it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._placed: object = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @torch.no_grad()
    def soft_targets(self, inputs: Tensor, temperature: float) -> Tensor:
        """Log-probabilities at a temperature ``[batch, classes]``, of several members the mean of their probabilities."""
        channels_last = inputs.dim() == 4 and not inputs.is_contiguous()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if self._placed != (inputs.device, layout):
            self.network.to(device=inputs.device, memory_format=layout)  # type: ignore[call-overload]
            self._placed = inputs.device, layout
        logits: Tensor = self.network(inputs)
        each = F.log_softmax(logits.float() / temperature, dim=-1)
        return each if each.dim() == 2 else each.logsumexp(0) - math.log(len(each))


# Which example a label is of

_MOVES = frozenset(
    (
        *("__getitem__", "index_select", "masked_select", "take", "gather", "flip", "roll", "narrow", "expand"),
        *("repeat", "repeat_interleave", "tile", "cat", "concat", "concatenate", "stack"),
        *("chunk", "split", "tensor_split", "unbind", "view", "reshape", "flatten", "squeeze", "unsqueeze"),
        *("clone", "detach", "contiguous", "to", "cpu", "cuda"),
    )
)
"""Functions of torch whose result holds entries of their first argument, wherever that may be."""


class Followed(Tensor):
    """Labels that know which example of the batch each is of, and keep knowing it when they are moved about.

    A method may shuffle, repeat or cut its labels before it calls the criterion, as MIMO does: whatever moves labels is
    done to their places too. What is computed from labels is a plain tensor, and labels that are written into, or whose
    memory is through another view of it, have no places any more.
    """

    places: Tensor
    version: int
    """Torch's count of the writes into their memory when their places were noted."""

    @classmethod
    def of(cls, labels: Tensor, places: Tensor | None = None) -> Followed:
        """Labels ``[n]`` of the examples 0 to n - 1, or of those at ``places``."""
        followed = labels.as_subclass(cls)
        followed.places = torch.arange(len(labels), device=labels.device) if places is None else places
        followed.version = followed._version
        return followed

    def known_places(self) -> Tensor | None:
        """The places, or None once anything was written into the labels."""
        return self.places if self._version == self.version else None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do it to the labels, and to their places if it only moves them."""
        given = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            plain = [_plain(one) for one in args], {key: _plain(one) for key, one in given.items()}
            done = func(*plain[0], **plain[1])
            places = _places(args[0]) if args and getattr(func, "__name__", "") in _MOVES else None
            return done if places is None else _followed(done, func(places, *plain[0][1:], **plain[1]))


def _plain(value: Any) -> Any:
    """An argument with plain labels for those that are followed."""
    if isinstance(value, Followed):
        return value.as_subclass(Tensor)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _places(value: Any) -> Any:
    """The known places of followed labels, or of a list of such; None of anything else."""
    if isinstance(value, (list, tuple)):
        each = [_places(one) for one in value]
        return None if any(one is None for one in each) else each
    return value.known_places() if isinstance(value, Followed) else None


def _followed(done: Any, places: Any) -> Any:
    if isinstance(done, (list, tuple)):
        return type(done)(_followed(one, other) for one, other in zip(done, places, strict=True))
    return Followed.of(done, places) if isinstance(done, Tensor) and places.dtype == torch.int64 else done
