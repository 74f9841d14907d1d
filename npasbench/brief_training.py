"""Trainings and searches cut short, for checks that need a trained network but not a good one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from npasbench.method import Method
from npasbench.training.first_losses import first_losses
from npasbench.training.loop import EpochRow, Training


class Quiet:
    """An observer that only notes the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_step(self, training: Training) -> None:
        """Nothing."""

    def after_epoch(self, training: Training, row: EpochRow) -> None:  # noqa: ARG002
        """Note the epoch's loss."""
        self.losses.append(row.loss)


class Enough(Exception):
    """Training went as far as a check needs."""


class OneEpoch(Quiet):
    """Ends a training after its first epoch."""

    def after_epoch(self, training: Training, row: EpochRow) -> None:  # noqa: ARG002
        """Stop."""
        raise Enough


@dataclass
class BriefSearch:
    """What a search sees in a check: every training is as short as ``begin`` makes it, whatever the method asks for."""

    seed: int
    begin: Callable[[nn.Module], Training]

    def train(self, name: str, network: nn.Module, **wishes: Any) -> nn.Module:  # noqa: ARG002
        """Train a throw-away network briefly."""
        self.begin(network).run(Quiet())
        return network

    def accumulate(self, network: nn.Module, *, batches: int) -> None:  # noqa: ARG002
        """The gradients of a single mini-batch."""
        training = self.begin(network)
        network.eval()
        for loss in training.losses(network, next(iter(training.batches.epoch(0)))):
            loss.backward()  # type: ignore[no-untyped-call]

    def acting_as(self, method: Method, *, stages: str = "") -> BriefSearch:  # noqa: ARG002
        """The same for networks of another method."""

        def begin(network: nn.Module) -> Training:
            mine = self.begin(network)
            return Training(method, network, mine.recipe, mine.batches, mine.device)

        return replace(self, begin=begin)

    def losses(self, network: nn.Module, *, batches: int) -> Iterator[Tensor]:
        """The losses of so many mini-batches."""
        return first_losses(self.begin(network), batches=batches)
