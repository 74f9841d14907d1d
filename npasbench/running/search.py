"""A method's search: throw-away networks trained through the harness, each a checkpointed stage whose cost is recorded."""

from __future__ import annotations

import copy
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from npasbench import streams
from npasbench.building import searched
from npasbench.card import Schedule
from npasbench.data.batches import Batches
from npasbench.errors import UsageError
from npasbench.method import Findings, Method
from npasbench.plan import RunSpec
from npasbench.problem import Problem
from npasbench.running.findings import found_before, write_findings
from npasbench.running.rundir import RunDirectory
from npasbench.running.watch import STOP, RunObserver, Stopped
from npasbench.training.checkpoint import read_checkpoint, write_checkpoint
from npasbench.training.first_losses import first_losses
from npasbench.training.loop import EpochRow, Training
from npasbench.training.recipe import place
from npasbench.training.team import Team


def find(method: Method, problem: Problem, context: HarnessSearch, kept: Path) -> Findings:
    """The method's findings, from the run directory if an earlier attempt left them there; in a team the first's."""
    if not method.needs_search():
        return Findings()
    if context.team.agree(kept.exists()):
        found, costs = found_before(kept)
        context.restore_costs(costs)
        return found
    begun = time.monotonic()
    found = searched(method, problem, context)
    context.took(time.monotonic() - begun)
    found = Findings(*context.team.agree((dict(found.facts), dict(found.tensors))))
    if context.team.leads:
        write_findings(kept, found, context.costs())
    return found


class HarnessSearch:
    """What a search sees: the run's seed, and a training loop over training data only."""

    def __init__(
        self,
        directory: RunDirectory,
        spec: RunSpec,
        method: Method,
        batches: Batches,
        device: torch.device,
        observer: RunObserver,
        team: Team,
    ) -> None:
        self.seed, self.team = spec.seed, team
        self._directory, self._spec, self._method = directory, spec, method
        self._batches, self._device, self._observer = batches, device, observer
        self._costs: dict[str, float | None] = {}
        self._told = {"seconds": 0.0}  # a dict, so that copies of this context share it as they share the costs
        self._stages = ""
        self._trained: set[str] = set()

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
        """Train a throw-away network as stage ``name``; a finished stage returns its trained network at once.

        Raises:
            UsageError: for a name that cannot be a file's, or that another stage of this search has.
        """
        if not re.fullmatch(r"[a-z0-9-]{1,40}", name):
            raise UsageError(f"A search stage is named with a-z, 0-9 and -, not '{name}'.")
        name = self._stages + name
        if name in self._trained:
            raise UsageError(
                f"Two stages of one search are named '{name}'. Give each a name of its own; an add-on that trains another "
                "method's networks gives its stages a prefix, acting_as(method, stages='my-')."
            )
        self._trained.add(name)
        recipe = self._spec.task.recipe
        optimizer = recipe.optimizer.model_copy(update={"lr": lr or recipe.optimizer.lr})
        recipe = recipe.model_copy(update={"epochs": epochs or recipe.epochs, "optimizer": optimizer})
        if milestones is not None:
            steps = Schedule(name="steps" if milestones else "constant", at=tuple(milestones), factor=factor)
            recipe = recipe.model_copy(update={"schedule": steps})
        begun = time.monotonic()
        torch.manual_seed(streams.stream_seed(self.seed, f"search/{name}"))
        network = place(network, recipe, self._device)
        training = Training(self._method, network, recipe, self._batches, self._device, self.team)
        stage = _Stage(self._directory.path / f"stage-{name}.pt", self._observer)
        seconds, flops = stage.run(training)
        self._told["seconds"] += time.monotonic() - begun
        self._add(search_seconds=seconds, search_epochs=float(recipe.epochs), search_flops=flops)
        return network

    def accumulate(self, network: nn.Module, *, batches: int) -> None:
        """Forward and backward on so many mini-batches in evaluation mode, without a step.

        Raises:
            UsageError: for less than one batch.
        """
        _check_batches(batches)
        begun = time.monotonic()
        training = Training(self._method, network, self._spec.task.recipe, self._batches, self._device)
        network.eval()
        per_epoch = self._batches.steps_per_epoch
        for epoch in range(-(-batches // per_epoch)):
            for batch in itertools.islice(self._batches.epoch(epoch), batches - epoch * per_epoch):
                for loss in training.losses(network, batch):
                    loss.backward()  # type: ignore[no-untyped-call]
        flops = _flops_of_a_step(training) * batches
        seconds = time.monotonic() - begun
        self._told["seconds"] += seconds
        self._add(search_seconds=seconds, search_epochs=batches / per_epoch, search_flops=flops)

    def losses(self, network: nn.Module, *, batches: int) -> Iterator[Tensor]:
        """The method's losses on so many mini-batches in training mode and full precision, with their graphs.

        FLOPs are counted as if the caller went forward and backward once through each.

        Raises:
            UsageError: for less than one batch.
        """
        _check_batches(batches)
        torch.manual_seed(streams.stream_seed(self.seed, f"search/{self._stages}losses"))
        recipe = self._spec.task.recipe.model_copy(update={"precision": "float32"})
        network = place(network, recipe, self._device)
        training = Training(self._method, network, recipe, self._batches, self._device)
        flops = _flops_of_a_step(training) * batches
        self._add(search_epochs=batches / self._batches.steps_per_epoch, search_flops=flops)
        return first_losses(training, batches=batches)

    def took(self, seconds: float) -> None:
        """A whole search took so long; what ``train`` and ``accumulate`` have told of it does not count twice."""
        self._add(search_seconds=max(0.0, seconds - self._told["seconds"]))

    def acting_as(self, method: Method, *, stages: str = "") -> HarnessSearch:
        """The same context for networks of another method; what it costs is added to the same sums.

        Raises:
            UsageError: for a prefix that cannot begin a file's name.
        """
        if not re.fullmatch(r"[a-z0-9-]{0,40}", stages):
            raise UsageError(f"A prefix of search stages is of a-z, 0-9 and -, not '{stages}'.")
        other = copy.copy(self)
        other._method, other._stages = method, self._stages + stages
        return other

    def costs(self) -> dict[str, float | None]:
        """Seconds, epochs and FLOPs of all stages; empty without a search."""
        return dict(self._costs)

    def restore_costs(self, costs: dict[str, float | None]) -> None:
        """The costs of a search that an earlier attempt finished."""
        self._costs = dict(costs)

    def _add(self, **costs: float) -> None:
        for name, cost in costs.items():
            self._costs[name] = (self._costs.get(name) or 0.0) + cost


def _check_batches(batches: int) -> None:
    if batches < 1:
        raise UsageError(f"Gradients of at least one mini-batch are needed, not of {batches}.")


class _Stage:
    """The observer of one stage: its own checkpoint file, the run's wish to stop."""

    def __init__(self, path: Path, observer: RunObserver) -> None:
        self.path, self.observer = path, observer
        self.before = 0.0
        self.flops = 0.0
        self.begun = self.saved = time.monotonic()

    def run(self, training: Training) -> tuple[float, float]:
        """Train to the end, or return at once if that was done before; gives seconds and FLOPs over all attempts."""
        state, _ = read_checkpoint(self.path, training.device)
        if state is not None:
            training.load(state["training"])
            self.before, self.flops = state["seconds"], state["flops"]
        else:
            self.flops = _flops_of_a_step(training) * training.steps
        if training.step < training.steps:
            training.run(self)
            self._save(training)
        return self._seconds(), self.flops

    def after_step(self, training: Training) -> None:
        due = time.monotonic() - self.saved >= self.observer.checkpoint_seconds
        wish = training.team.most(self.observer.wish(due))
        if wish:
            self._save(training)
        if wish == STOP:
            raise Stopped

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        self.observer.tell(
            {"epoch": row.epoch, "epochs": training.recipe.epochs, "loss": row.loss, "stage": self.path.stem}
        )

    def _save(self, training: Training) -> None:
        seconds = self._seconds()
        state = {"training": training.state(), "seconds": seconds, "flops": self.flops}
        if self.observer.writes:
            write_checkpoint(self.path, state)
        self.before, self.begun = seconds, time.monotonic()
        self.saved = self.begun

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.begun


def _flops_of_a_step(training: Training) -> float:
    """Floating-point operations of one forward and backward, counted on a copy."""
    network = copy.deepcopy(training.network)
    random = torch.get_rng_state()
    with FlopCounterMode(display=False) as counter:
        for loss in training.losses(network, next(iter(training.batches.epoch(0)))):
            loss.backward()  # type: ignore[no-untyped-call]
    torch.set_rng_state(random)
    return float(counter.get_total_flops())
