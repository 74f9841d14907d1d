"""One run from spec to result: search, build, audit, train, evaluate once, certify, publish."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from npasbench import streams
from npasbench.building import audited, method_of, problem_of
from npasbench.data import DataSet, load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, LayerCollapse
from npasbench.measuring.count import count, rounding
from npasbench.measuring.members import MemberCosts
from npasbench.measuring.model_file import running_statistics, write_model
from npasbench.plan import RunSpec
from npasbench.problem import Problem
from npasbench.running import cell_costs
from npasbench.running.best_epoch import BestEpoch
from npasbench.running.corruptions import tested_on_corrupted
from npasbench.running.files import atomic, publish
from npasbench.running.lease import Lease
from npasbench.running.members import member_results
from npasbench.running.provenance import provenance
from npasbench.running.record import SCHEMA, Certificate, CorruptedResult, HeldOut, Record, State, write_text
from npasbench.running.rundir import RunDirectory
from npasbench.running.search import HarnessSearch, find
from npasbench.running.watch import RunObserver
from npasbench.training.checkpoint import read_checkpoint, remove_checkpoints
from npasbench.training.evaluate import correctness_bits, diversity, mean_prediction, predict_each, score
from npasbench.training.loop import Training
from npasbench.training.recipe import place
from npasbench.training.team import Team


@dataclass
class Surroundings:
    """What a run needs from the worker around it."""

    device: torch.device
    should_stop: Callable[[], bool] = lambda: False
    tell: Callable[[dict[str, Any]], None] = lambda _: None
    certify: Callable[[RunDirectory], dict[str, Any]] | None = None
    """Certifies a run in another process; returns a certificate's fields or raises RunError."""
    checkpoint_seconds: float = 30.0
    data_root: Path | None = None
    started: float = field(default_factory=time.monotonic)
    team: Team = field(default_factory=Team)
    """The processes that train together; only the first writes and evaluates."""


def execute(directory: RunDirectory, spec: RunSpec, lease: Lease, around: Surroundings) -> Record | None:
    """Do one claimed run to its end and publish its result; None if somebody else published it first.

    Raises:
        Stopped: if asked to stop; the run goes on from its checkpoint.
        NpasbenchError: if the run cannot be done, with the reason.
    """
    prepare_process(spec, around.device)
    record = _Run(directory, spec, lease, around).record()
    lease.check()
    published = publish(directory.result_file, write_text(record).encode())
    if published:
        _tidy(directory)
    return record if published else None


def take_part(directory: RunDirectory, spec: RunSpec, around: Surroundings) -> None:
    """Train along in a run that the team's first process executes.

    Raises:
        Stopped: with the team.
        NpasbenchError: as :func:`execute`.
    """
    prepare_process(spec, around.device)
    _Run(directory, spec, None, around).take_part()


def prepare_process(spec: RunSpec, device: torch.device) -> None:
    """Threads from the card, deterministic algorithms on the CPU, the global generator on a stream of the run's own.

    The stream is the same for all processes of a team, so that a search builds the same networks in each.
    """
    torch.set_num_threads(spec.task.recipe.threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    seed_training(spec, 0)


def seed_training(spec: RunSpec, rank: int) -> None:
    """Begin the global generator's stream for training; each process of a team has its own."""
    torch.manual_seed(streams.stream_seed(spec.seed, "training", *([rank] if rank else [])))


class _Run:
    """One run on its way to a record."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, lease: Lease | None, around: Surroundings) -> None:
        self.directory, self.spec, self.lease, self.around = directory, spec, lease, around
        self.recipe, self.device = spec.task.recipe, around.device
        self.method = method_of(spec)
        self.begun = datetime.now(UTC)
        self.costs: dict[str, float | None] = {}
        self.member_costs: MemberCosts | None = None
        self.held_out: HeldOut | None = None

    def record(self) -> Record:
        """Skipped, refused, or trained and measured."""
        problem = problem_of(self.spec)
        reason = self.method.skip(problem)
        if reason:
            return self._unbuilt("skipped", reason)
        try:
            network, data, restarts = self._train(problem)
        except BudgetTooSmall as error:
            return self._unbuilt("refused", str(error), error.smallest)
        except LayerCollapse as error:
            return self._unbuilt("refused", str(error))
        return self._measure(network, data, restarts)

    def take_part(self) -> None:
        """Only train: the team's first process does the rest."""
        problem = problem_of(self.spec)
        if self.method.skip(problem):
            return
        with contextlib.suppress(BudgetTooSmall, LayerCollapse):
            self._train(problem)

    def _train(self, problem: Problem) -> tuple[nn.Module, DataSet, int]:
        """Search, build, audit, train: the trained network, its data, and how often it was interrupted."""
        data = load(self.spec.task.data, seed=self.spec.seed, root=self.around.data_root)
        batches = Batches(data, self.spec.task.data, self.recipe.batch_size, self.spec.seed, self.device)
        with contextlib.closing(batches):
            network, restarts = self._train_on(data, batches, problem)
        return network, data, restarts

    def _train_on(self, data: DataSet, batches: Batches, problem: Problem) -> tuple[nn.Module, int]:
        around, team = self.around, self.around.team
        best = BestEpoch(self.spec, data) if self.spec.task.data.protocol == "holdout-best" else None
        seconds, stop, tell = around.checkpoint_seconds, around.should_stop, around.tell
        observer = RunObserver(self.directory, self.lease, seconds, stop, tell, writes=team.leads, best=best)
        search = HarnessSearch(self.directory, self.spec, self.method, batches, self.device, observer, team)
        findings = find(self.method, problem, search, self.directory.findings_file)
        network = place(audited(self.method, problem, findings, self.spec.seed), self.recipe, self.device)
        training = Training(self.method, network, self.recipe, batches, self.device, team)
        if team.leads:
            self.costs = {**cell_costs.measured(self.directory, self.spec, training), **search.costs()}
            self.member_costs = cell_costs.measured_members(self.directory, self.spec, training)
        seed_training(self.spec, team.rank)
        observer.begin()
        resume(training, self.directory, observer)
        with contextlib.closing(best) if best is not None else contextlib.nullcontext():
            training.run(observer)
        self.costs["train_seconds"] = observer.seconds
        if best is not None and team.leads:
            self.held_out = best.result()
            network = best.network(self.method, problem, findings, self.device)
        return network, observer.restarts

    def _measure(self, network: nn.Module, data: DataSet, restarts: int) -> Record:
        """Evaluate once, store, certify."""
        begun = time.monotonic()
        each = predict_each(network, data.test(self.recipe.batch_size * 10, self.device), self.recipe, self.device)
        log_probability = mean_prediction(each)
        self.costs["test_seconds"] = time.monotonic() - begun
        counted = count(network, masks=self.method.structure(network).masks)
        _write_array(self.directory.correct_file, correctness_bits(log_probability, data.test_labels))
        _write_array(self.directory.predictions_file, log_probability.argmax(1).numpy())
        floats = write_model(self.directory.model_file, self.method, network)
        corrupted = self._corrupted(network, data.test_labels)
        certificate = _certify(self.directory, self.around, floats, counted.total, self.costs)
        self.costs["wall_seconds"] = time.monotonic() - self.around.started
        accounting = self.spec.task.accounting
        held = counted.held(accounting)
        members, subsets = member_results(each, data.test_labels, self.spec.task.metrics, self.member_costs)
        over = held - self.spec.budget_parameters - rounding(network, accounting)
        return Record(
            **_head(self.spec, "done" if over <= 0 else "over-budget"),
            reason="" if over <= 0 else f"counted {held:,} at the end, {over:,} over the budget",
            parameters=counted.as_dict(),
            bank_params=counted.bank_params,
            effective_parameters=None if certificate is None else counted.total - certificate.dead,
            side_information_bits=self.method.side_information_bits(network),
            running_statistics=running_statistics(network),
            metrics={**score(log_probability, data.test_labels, self.spec.task.metrics), **_diversity(each, data)},
            held_out=self.held_out,
            corrupted=corrupted,
            members=members,
            subsets=subsets,
            test_examples=len(data.test_labels),
            costs=self.costs,
            certificate=certificate,
            allocation=self._allocation(network),
            provenance={**self._provenance(), "restarts": restarts},
        )

    def _corrupted(self, network: nn.Module, test_labels: Tensor) -> CorruptedResult | None:
        if not self.spec.task.data.corrupted:
            return None
        begun = time.monotonic()
        found = tested_on_corrupted(network, self.spec.task, self.device, self.around.data_root, test_labels)
        self.costs["corrupted_seconds"] = time.monotonic() - begun
        return found

    def _allocation(self, network: nn.Module) -> dict[str, Any]:
        """The groups or clusters of layers and what each reads, if the method has them; layers alone are in no record."""
        allocation = self.method.allocation(network)
        return allocation if {"groups", "clusters"} & set(allocation) else {}

    def _unbuilt(self, state: State, reason: str, smallest: int | None = None) -> Record:
        return Record(**_head(self.spec, state), reason=reason, smallest=smallest, provenance=self._provenance())

    def _provenance(self) -> dict[str, Any]:
        times = {"started": self.begun, "finished": datetime.now(UTC)}
        source = provenance(self.spec, self.method, self.device, self.around.team.size)
        return {**source, **{name: time.isoformat(timespec="seconds") for name, time in times.items()}}


def resume(training: Training, directory: RunDirectory, observer: RunObserver) -> None:
    """Go on from the newest checkpoint that can be read, if there is one."""
    state, complaints = read_checkpoint(directory.checkpoint_file, training.device)
    for complaint in complaints:
        directory.log(complaint)
    if state is not None:
        training.load(state["training"])
        observer.resumed(state["observer"], training.step)
        if observer.best is not None:
            observer.best.load(state["best_epoch"])
    elif directory.metrics_file.exists():
        observer.resumed({"seconds": 0.0, "restarts": 0}, 0)


def _diversity(each: Tensor, data: DataSet) -> dict[str, float]:
    """Of an ensemble, where it is a number."""
    found = diversity(each, data.test_labels)
    return {} if found is None else {"diversity": found}


def _certify(
    directory: RunDirectory, around: Surroundings, floats: int, total: int, costs: dict[str, float | None]
) -> Certificate | None:
    if around.certify is None:
        return None
    begun = time.monotonic()
    certificate = Certificate.model_validate(around.certify(directory))
    costs["certificate_seconds"] = time.monotonic() - begun
    if floats != total:
        return certificate.model_copy(
            update={"passed": False, "detail": f"{floats:,} scalars had to be stored where {total:,} are counted"}
        )
    return certificate


def _head(spec: RunSpec, state: State) -> dict[str, Any]:
    return {
        "schema_": SCHEMA,
        "state": state,
        "task": spec.task.name,
        "task_version": spec.task.version,
        "task_fingerprint": spec.task.fingerprint,
        "fingerprint": spec.fingerprint,
        "label": spec.label,
        "method": spec.method,
        "method_version": spec.method_version,
        "knobs": spec.knobs,
        "addons": spec.addons,
        "seed": spec.seed,
        "budget": spec.budget,
        "budget_parameters": spec.budget_parameters,
        "dense_parameters": spec.dense_parameters,
        "accounting": spec.task.accounting,
    }


def _write_array(path: Any, array: np.ndarray[Any, Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic(path) as file:
        file.write(buffer.getvalue())


def _tidy(directory: RunDirectory) -> None:
    """What a finished run no longer needs."""
    remove_checkpoints(directory.checkpoint_file)
    directory.predictions_file.unlink(missing_ok=True)
    for stage in directory.path.glob("stage-*.pt"):
        stage.unlink(missing_ok=True)
