"""One run from spec to result: search, build, audit, train, evaluate once, certify, publish."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from npasbench import streams
from npasbench.building import audited, problem_of
from npasbench.data import DataSet, load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall
from npasbench.measuring.count import count
from npasbench.measuring.model_file import running_statistics, write_model
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.problem import Problem
from npasbench.registry import Registry, create
from npasbench.running import cell_costs
from npasbench.running.files import atomic, publish
from npasbench.running.lease import Lease
from npasbench.running.provenance import provenance
from npasbench.running.record import SCHEMA, Certificate, Record, State, write_text
from npasbench.running.rundir import RunDirectory
from npasbench.running.search import HarnessSearch, find
from npasbench.running.watch import RunObserver
from npasbench.training.checkpoint import read_checkpoint, remove_checkpoints
from npasbench.training.evaluate import correctness_bits, predict, score
from npasbench.training.loop import Training
from npasbench.training.recipe import place


@dataclass
class Surroundings:
    """What a run needs from the worker around it."""

    device: torch.device
    should_stop: Callable[[], bool] = lambda: False
    tell: Callable[[dict[str, Any]], None] = lambda _: None
    certify: Callable[[RunDirectory], dict[str, Any]] | None = None
    """Certifies a run in another process; returns a certificate's fields or raises RunError."""
    checkpoint_seconds: float = 30.0
    started: float = field(default_factory=time.monotonic)


def execute(directory: RunDirectory, spec: RunSpec, lease: Lease, around: Surroundings) -> Record | None:
    """Do one claimed run to its end and publish its result; None if somebody else published it first.

    Raises:
        Stopped: if asked to stop; the run goes on from its checkpoint.
        NpasbenchError: if the run cannot be done, with the reason.
    """
    prepare_process(spec, around.device)
    method = create(Registry(spec.plugins).method(spec.method), dict(spec.knobs), spec.method)
    problem = problem_of(spec)
    begun = datetime.now(UTC)
    reason = method.skip(problem)
    if reason:
        record = _unbuilt(spec, method, "skipped", reason, begun)
    else:
        try:
            record = _train_and_measure(directory, spec, method, problem, lease, around, begun)
        except BudgetTooSmall as error:
            record = _unbuilt(spec, method, "refused", str(error), begun, smallest=error.smallest)
    lease.check()
    published = publish(directory.result_file, write_text(record).encode())
    if published:
        _tidy(directory)
    return record if published else None


def prepare_process(spec: RunSpec, device: torch.device) -> None:
    """Threads from the card, deterministic algorithms on the CPU, the global generator on a stream of the run's own."""
    torch.set_num_threads(spec.task.recipe.threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.manual_seed(streams.stream_seed(spec.seed, "training"))


def _train_and_measure(
    directory: RunDirectory,
    spec: RunSpec,
    method: Method,
    problem: Problem,
    lease: Lease,
    around: Surroundings,
    begun: datetime,
) -> Record:
    data = load(spec.task.data, seed=spec.seed)
    recipe = spec.task.recipe
    batches = Batches(data, spec.task.data, recipe.batch_size, spec.seed, around.device)
    observer = RunObserver(directory, lease, around.checkpoint_seconds, around.should_stop, around.tell)
    search = HarnessSearch(directory, spec, method, batches, around.device, observer)
    findings = find(method, problem, search, directory.findings_file)
    network = place(audited(method, problem, findings, spec.seed), recipe, around.device)
    training = Training(method, network, recipe, batches, around.device)
    costs = cell_costs.measured(directory, spec, training)
    torch.manual_seed(streams.stream_seed(spec.seed, "training"))
    resume(training, directory, observer)
    training.run(observer)
    return _measure(directory, spec, method, network, data, around, begun, observer, {**costs, **search.costs()})


def resume(training: Training, directory: RunDirectory, observer: RunObserver) -> None:
    """Go on from the newest checkpoint that can be read, if there is one."""
    state, complaints = read_checkpoint(directory.checkpoint_file, training.device)
    for complaint in complaints:
        directory.log(complaint)
    if state is not None:
        training.load(state["training"])
        observer.resumed(state["observer"], training.step)
    elif directory.metrics_file.exists():
        observer.resumed({"seconds": 0.0, "restarts": 0}, 0)


def _measure(
    directory: RunDirectory,
    spec: RunSpec,
    method: Method,
    network: nn.Module,
    data: DataSet,
    around: Surroundings,
    begun: datetime,
    observer: RunObserver,
    costs: dict[str, float | None],
) -> Record:
    tested = time.monotonic()
    recipe = spec.task.recipe
    log_probability = predict(network, data.test(recipe.batch_size * 10), recipe, around.device)
    structure = method.structure(network)
    counted = count(network, masks=structure.masks)
    _write_array(directory.correct_file, correctness_bits(log_probability, data.test_labels))
    _write_array(directory.predictions_file, log_probability.argmax(1).numpy())
    floats = write_model(directory.model_file, method, network)
    costs = {**costs, "train_seconds": observer.seconds, "test_seconds": time.monotonic() - tested}
    certificate = _certify(directory, around, floats, counted.total, costs)
    costs["wall_seconds"] = time.monotonic() - around.started
    over = counted.total if spec.task.accounting == "total" else counted.bank_params
    state: State = "done" if over <= spec.budget_parameters else "over-budget"
    return Record(
        **_head(spec, state),
        reason=""
        if state == "done"
        else f"counted {over:,} at the end, {over - spec.budget_parameters:,} over the budget",
        parameters=counted.as_dict(),
        bank_params=counted.bank_params,
        effective_parameters=None if certificate is None else counted.total - certificate.dead,
        side_information_bits=method.side_information_bits(network),
        running_statistics=running_statistics(network),
        metrics=score(log_probability, data.test_labels, spec.task.metrics),
        test_examples=len(data.test_labels),
        costs=costs,
        certificate=certificate,
        provenance={**provenance(spec, type(method), around.device), **_times(begun), "restarts": observer.restarts},
    )


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


def _unbuilt(
    spec: RunSpec, method: Method, state: State, reason: str, begun: datetime, smallest: int | None = None
) -> Record:
    source = provenance(spec, type(method), torch.device("cpu"))
    return Record(**_head(spec, state), reason=reason, smallest=smallest, provenance={**source, **_times(begun)})


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
        "seed": spec.seed,
        "budget": spec.budget,
        "budget_parameters": spec.budget_parameters,
        "dense_parameters": spec.dense_parameters,
        "accounting": spec.task.accounting,
    }


def _times(begun: datetime) -> dict[str, str]:
    return {
        "started": begun.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
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
