"""The training loop: one for all methods, which hook into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from npasbench.card import Recipe
from npasbench.data.batches import Batches
from npasbench.errors import MethodError
from npasbench.method import Batch, Method, Progress, Structure
from npasbench.training.checkpoint import random_states, restore_random_states
from npasbench.training.recipe import autocast, format_inputs, make_criterion, make_optimizer, make_schedule
from npasbench.training.team import Statistics, Team, check_parts, parts_of, rows_of


@dataclass(frozen=True)
class EpochRow:
    """One line of ``metrics.jsonl``: the mean training loss of an epoch (counted from 1) and the rate it ended with."""

    epoch: int
    step: int
    loss: float
    lr: float


class Observer(Protocol):
    """What surrounds a training: checkpoints, log lines, the wish to stop."""

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        """Called after every epoch, before ``after_step``."""

    def after_step(self, training: Training) -> None:
        """Called after every optimizer step; may raise to stop."""


class Training:
    """A network in training: steps a method's losses through the recipe's optimizer and schedule.

    ``state`` and ``load`` make it exactly resumable after any step. Raises :class:`MethodError` where the loss is no
    finite number at the end of an epoch. Several processes make one training if each is given its ``team``; then
    ``run``, ``state`` and ``load`` are called by all of them.
    """

    def __init__(
        self,
        method: Method,
        network: nn.Module,
        recipe: Recipe,
        batches: Batches,
        device: torch.device,
        team: Team | None = None,
    ) -> None:
        self.method, self.network, self.recipe, self.batches, self.device = method, network, recipe, batches, device
        self.team = team or Team()
        self.optimizer = make_optimizer(method.parameter_groups(network), recipe)
        self.schedule = make_schedule(self.optimizer, recipe, batches.steps_per_epoch)
        self.criterion = make_criterion(recipe)
        self.step = self.epoch = 0
        self.loss_sum = torch.zeros((), device=device)

    @property
    def steps(self) -> int:
        """All optimizer steps of the training."""
        return self.recipe.epochs * self.batches.steps_per_epoch

    @property
    def progress(self) -> Progress:
        """Where training stands."""
        return Progress(self.epoch, self.recipe.epochs, self.step, self.steps)

    def run(self, observer: Observer) -> None:
        """Train from where it stands to the end.

        Raises:
            UsageError: if the team cannot share the batches without changing the result.
        """
        check_parts(self.network, self.recipe.batch_size, self.recipe.norm_images, self.team)
        per_epoch, rows = self.batches.steps_per_epoch, rows_of(self.recipe.norm_images, self.team)
        for epoch in range(self.step // per_epoch, self.recipe.epochs):
            self.epoch = epoch
            self.network.train()
            for batch in self.batches.epoch(epoch, self.step % per_epoch, rows):
                self._one_step(batch)
                last_of_epoch = self.step % per_epoch == 0
                row = self._end_epoch() if last_of_epoch else None
                if row:
                    observer.after_epoch(self, row)
                observer.after_step(self)

    def losses(self, network: nn.Module, batch: Batch) -> Iterator[Tensor]:
        """The method's losses under the recipe's autocast."""
        inputs = Batch(format_inputs(batch.inputs, self.recipe), batch.labels, batch.indices)
        source = self.method.losses(network, inputs, self.criterion)
        while True:
            with autocast(self.recipe, self.device):
                loss = next(source, None)
            if loss is None:
                return
            yield loss

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here, as tensors, numbers and strings."""
        structure = self.method.structure(self.network)
        return {
            "step": self.step,
            "random": random_states(),
            **self._others_random(),
            "loss_sum": self.loss_sum,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "structure": {
                "masks": dict(structure.masks),
                "tensors": dict(structure.tensors),
                "facts": dict(structure.facts),
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`state` gave, random generators included."""
        self.method.restore(self.network, Structure(**state["structure"]))
        self.network.load_state_dict(state["network"])
        self.optimizer = make_optimizer(self.method.parameter_groups(self.network), self.recipe)
        self.schedule = make_schedule(self.optimizer, self.recipe, self.batches.steps_per_epoch)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        self.loss_sum = state["loss_sum"].to(self.device)
        own = state["random"] if self.team.leads else state.get("others_random", {}).get(self.team.rank)
        if own is not None:
            restore_random_states(own)

    def _others_random(self) -> dict[str, Any]:
        """The random states of all processes but the first, by rank."""
        if self.team.size == 1:
            return {}
        return {"others_random": dict(list(enumerate(self.team.gather(random_states())))[1:])}

    def _one_step(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        mine, parts = parts_of(batch, self.recipe.norm_images, self.team)
        if parts == 1 and self.team.size == 1:
            self.loss_sum += self._backward(batch)
        else:
            self.loss_sum += self._backward_in_parts(batch, mine, parts)
        self.method.after_backward(self.network, self.progress)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.method.after_step(self.network, self.progress)

    def _backward(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Gradients of ``share`` times the losses of a batch are added; returns the sum of what was added."""
        total = torch.zeros_like(self.loss_sum)
        loss = None
        for loss in self.losses(self.network, batch):
            weighted = loss if share == 1.0 else loss * share
            weighted.backward()  # type: ignore[no-untyped-call]
            total += weighted.detach()
        if loss is None:
            raise MethodError(f"{self.method.name}.losses yielded no loss; yield at least one scalar for each batch.")
        return total

    def _backward_in_parts(self, batch: Batch, mine: Sequence[Batch], parts: int) -> Tensor:
        """As :meth:`_backward`, over all parts of a batch and all processes; a BatchNorm sees one part at a time."""
        statistics = Statistics(self.network)
        total = torch.zeros_like(self.loss_sum)
        for part in mine:
            with statistics.of_one_part():
                total += self._backward(part, len(part.labels) / len(batch.labels))
        statistics.finish(parts, self.team)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return self.team.add_gradients(trained, total)

    def _end_epoch(self) -> EpochRow:
        loss = float(self.loss_sum) / self.batches.steps_per_epoch
        self.loss_sum.zero_()
        if not torch.isfinite(torch.tensor(loss)):
            raise MethodError(
                f"The training loss is {loss} in epoch {self.epoch + 1} of {self.recipe.epochs}: the training diverged."
            )
        self.method.after_epoch(self.network, self)
        self.team.check_same(self.network)
        return EpochRow(self.epoch + 1, self.step, loss, float(self.optimizer.param_groups[0]["lr"]))
