"""Havasi et al., "Training independent subnetworks for robust prediction" (ICLR 2021, arXiv 2010.06610).

Section 2: one network takes M inputs side by side, as channels of its first layer, and its last layer gives M predictions.
In training the M inputs are drawn independently, and each prediction learns the label of its own; at test time all M are
the same input. Nothing but the first and the last layer grows, and all of it is narrowed until it fits the budget.

The knobs' defaults are those of the authors' code for ResNet-50 on ImageNet, a network that is too small for independent
members, as narrowed ones are. Their batch repetition keeps the size of a mini-batch and takes fewer examples; here the
harness gives the examples, so the mini-batch grows and a step costs more.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from npasbench.api import Architecture, Batch, Criterion, Findings, Method, Problem
from npasbench.measuring.count import count
from npasbench.sharing.initial import normal

from .deep_ensemble import EnsembleKnobs, copies_of_largest, no_ensemble
from .narrow import Narrow, largest_width

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MimoKnobs(EnsembleKnobs):
    """Section 3.5: with probability ``repeat`` all members see the same example in a place of the mini-batch.

    It helps where the network is small (the authors use 0 for WRN-28-10 on CIFAR). ``batch_repetition`` is how often each
    example is in a mini-batch, in other company each time (4 there).
    """

    repeat: float = Field(0.6, ge=0, le=1)
    batch_repetition: PositiveInt = 2


class Mimo(Method):
    """One network that predicts M inputs at once, and at test time the same input M times: M members in one pass."""

    knobs = MimoKnobs
    cite = """@inproceedings{havasi2021training,
  title = {Training independent subnetworks for robust prediction},
  author = {Havasi, Marton and Jenatton, Rodolphe and Fort, Stanislav and Liu, Jeremiah Zhe and Snoek, Jasper and
            Lakshminarayanan, Balaji and Dai, Andrew Mingbo and Tran, Dustin},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""

    def skip(self, problem: Problem) -> str | None:
        """One member is no ensemble; and not every network can be given more inputs and outputs, or be narrowed."""
        reason = no_ensemble(problem, self.settings.members) or Narrow().skip(self._ensemble(problem))
        if reason:
            return reason
        try:
            self._ends(problem)
        except _NoEnds as error:
            return str(error)
        return None

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The widest network that fits with all its inputs and outputs."""
        one, members = self._ensemble(problem).architectures[0], len(self._ensemble(problem).architectures)
        ends = self._ends(problem)

        def size(width: float) -> int:
            with torch.device("meta"):
                return count(_grown(one.create(width=width), ends, members, rng)).held(problem.budget.accounting)

        network = one.create(width=largest_width(size, problem.budget.parameters))
        return MimoNetwork(_grown(network, ends, members, rng), members)

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The sum of the members' losses, each on inputs and labels of its own."""
        mimo: MimoNetwork = network  # type: ignore[assignment]
        orders = self.orders(len(batch.labels), mimo.members).to(batch.labels.device)
        logits = mimo.predict([batch.inputs[order] for order in orders])
        each = [criterion(one, batch.labels[order]) for one, order in zip(logits, orders, strict=True)]
        yield torch.stack(each).sum()

    def orders(self, examples: int, members: int) -> Tensor:
        """Which example each member sees in each place: ``[members, examples * batch_repetition]``, from torch's generator.

        Every member sees every example equally often.
        """
        places = torch.arange(examples).repeat(self.settings.batch_repetition)
        alone = (torch.rand(len(places)) >= self.settings.repeat).nonzero().flatten()
        orders = places.repeat(members, 1)
        for order in orders:
            order[alone] = places[alone[torch.randperm(len(alone))]]
        return orders

    def _ensemble(self, problem: Problem) -> Problem:
        return copies_of_largest(problem, self.settings.members)

    def _ends(self, problem: Problem) -> tuple[str, str]:
        ensemble = self._ensemble(problem)
        one, members = ensemble.architectures[0], len(ensemble.architectures)
        return find_ends(one, members, problem.classes, problem.input_shape)


class MimoNetwork(nn.Module):
    """``network`` takes ``members`` inputs as channels and gives as many predictions side by side."""

    def __init__(self, network: nn.Module, members: int) -> None:
        super().__init__()
        self.network, self.members = network, members

    def forward(self, inputs: Tensor) -> Tensor:
        """Every member sees the same: ``[batch, channels, ...] -> [members, batch, classes]``."""
        return self.predict([inputs] * self.members)

    def predict(self, inputs: Sequence[Tensor]) -> Tensor:
        """An input for each member: ``members`` times ``[batch, channels, ...] -> [members, batch, classes]``."""
        logits: Tensor = self.network(torch.cat(list(inputs), dim=1))  # [batch, members * classes]
        return logits.view(len(logits), self.members, -1).transpose(0, 1)


# The first layer and the last


class _NoEnds(ValueError):
    """The network cannot be given more inputs and outputs, and why."""


@functools.lru_cache(maxsize=64)
def find_ends(architecture: Architecture, members: int, classes: int, input_shape: tuple[int, ...]) -> tuple[str, str]:
    """The names of the layer that reads the inputs and of the linear layer that gives the logits.

    They are found, and tried with more inputs and outputs, by running the network without data.

    Raises:
        ValueError: if there are none such, with the reason.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        network = architecture.create()
        called, logits = _trace(network, architecture.name, torch.zeros(2, *input_shape))
        ends = called[0][0], called[-1][0]
        first, last = (network.get_submodule(name) for name in ends)
        if not _reads(first, input_shape[0]):
            raise _NoEnds(f"the first layer of {architecture.name} ({_kind(first)}) does not read the inputs' channels")
        if not isinstance(last, nn.Linear) or called[-1][1] is not logits or tuple(logits.shape) != (2, classes):
            raise _NoEnds(f"the logits of {architecture.name} do not come out of a linear layer")
        channels, *rest = input_shape
        _, more = _trace(
            _grown(network, ends, members, torch.Generator()),
            architecture.name,
            torch.zeros(2, members * channels, *rest),
        )
    if tuple(more.shape) != (2, members * classes):
        raise _NoEnds(f"{architecture.name} does not pass on the predictions of its last layer")
    return ends


def _trace(network: nn.Module, name: str, inputs: Tensor) -> tuple[list[tuple[str, Tensor]], Tensor]:
    """The layers that ran, each with what it gave, and what the network gave."""
    called: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, own=own: called.append((own, output)))
        for own, module in network.named_modules()
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear, nn.Embedding))
    ]
    try:
        logits = network(inputs)
    except Exception as error:
        raise _NoEnds(f"{name} cannot take inputs of shape {list(inputs.shape[1:])} ({error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise _NoEnds(f"{name} has no convolution and no linear layer")
    return called, logits


def _reads(layer: nn.Module, channels: int) -> bool:
    """Whether a layer can be given more channels to read: a plain convolution of them, or a linear layer over them."""
    if isinstance(layer, _CONVOLUTIONS):
        return layer.groups == 1 and layer.in_channels == channels
    return isinstance(layer, nn.Linear) and layer.in_features % channels == 0


def _grown(network: nn.Module, ends: tuple[str, str], members: int, rng: torch.Generator) -> nn.Module:
    """The network with ``members`` times the inputs and outputs, whose weights start at their layers' deviations.

    A first weight that reads as many times the inputs starts as much smaller as leaves its outputs' variance as it was.
    """
    first, last = (network.get_submodule(name) for name in ends)
    first.weight = _drawn(first.weight, 1, members, members**-0.5, rng)  # type: ignore[arg-type]
    last.weight = _drawn(last.weight, 0, members, 1.0, rng)  # type: ignore[arg-type]
    if isinstance(last.bias, Tensor):
        last.bias = nn.Parameter(last.bias.detach().repeat(members))
    for layer, count_of in (
        (first, "in_channels" if hasattr(first, "in_channels") else "in_features"),
        (last, "out_features"),
    ):
        setattr(layer, count_of, members * getattr(layer, count_of))
    return network


def _drawn(weight: Tensor, dim: int, times: int, scale: float, rng: torch.Generator) -> nn.Parameter:
    """Normal values of the weight's deviation times ``scale``, in its shape but for ``times`` as many along ``dim``."""
    shape = [times * size if here == dim else size for here, size in enumerate(weight.shape)]
    if weight.is_meta:
        return nn.Parameter(weight.new_empty(shape))
    return nn.Parameter(normal(*shape, std=scale * float(weight.detach().std(correction=0)), rng=rng).to(weight))


def _kind(layer: nn.Module) -> str:
    return type(layer).__name__
