"""The budget certificate, made in a process that did not train.

The network is built anew from the spec, filled with nothing but what was counted (whatever the file does not hold is
NaN), and must predict the same class for every test example. One such process certifies many runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from npasbench.building import build, method_of, problem_of
from npasbench.data import DataSet, load
from npasbench.data.batches import Batches
from npasbench.errors import RunError
from npasbench.measuring.dead import dead_parameters
from npasbench.measuring.model_file import read_model
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.running.execute import prepare_process
from npasbench.running.findings import read_findings
from npasbench.running.rundir import RunDirectory
from npasbench.training.evaluate import predict
from npasbench.training.loop import Training
from npasbench.training.recipe import place

_SCANNED_EXAMPLES = 256


def load_trained(directory: RunDirectory, spec: RunSpec, device: torch.device) -> tuple[Method, nn.Module, int]:
    """A finished run's method and network, rebuilt from spec and stored numbers, and how many numbers those are.

    Raises:
        RunError: if the stored numbers do not fit.
    """
    method = method_of(spec)
    network = build(method, problem_of(spec), read_findings(directory.findings_file), spec.seed)
    floats = read_model(directory.model_file, method, network)
    return method, place(network, spec.task.recipe, device), floats


def certify(directory: RunDirectory, device: torch.device, data_root: Path | None = None) -> dict[str, Any]:
    """The fields of a run's certificate.

    Raises:
        RunError: if the run's files are missing or do not fit.
        DataError: if the data are no longer where the run found them.
    """
    spec = directory.spec()
    prepare_process(spec, device)
    method, network, floats = load_trained(directory, spec, device)
    data = load(spec.task.data, seed=spec.seed, root=data_root)
    recipe = spec.task.recipe
    predicted = predict(network, data.test(recipe.batch_size * 10, device), recipe, device).argmax(1).numpy()
    try:
        trained = np.load(directory.predictions_file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RunError(f"{directory.predictions_file} cannot be read: {error}.") from None
    differing = int((predicted != trained).sum())
    dead = _dead(method, network, data, spec, device)
    detail = "" if differing == 0 else f"{differing} predictions differ from the trained network's"
    return {
        "passed": differing == 0,
        "floats": floats,
        "differing_predictions": differing,
        "dead": dead,
        "detail": detail,
    }


def serve(connection: Connection, device: str, data_root: Path | None) -> None:
    """Certify every run whose path arrives, until the other end closes."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            path = connection.recv()
        except (EOFError, OSError):
            return
        answer: dict[str, Any] | str
        try:
            answer = certify(RunDirectory(path), torch.device(device), data_root)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # whoever asked may be gone
            connection.send(answer)


def client(connection: Connection) -> Callable[[RunDirectory], dict[str, Any]]:
    """A function that has runs certified by the process at the other end of ``connection``."""

    def ask(directory: RunDirectory) -> dict[str, Any]:
        try:
            connection.send(directory.path)
            answer = connection.recv()
        except (EOFError, OSError):
            raise RunError(
                f"{directory.path}: the process that makes certificates is gone. Run the same command again."
            ) from None
        if isinstance(answer, str):
            return {"passed": False, "floats": 0, "differing_predictions": 0, "dead": 0, "detail": answer}
        return dict(answer)

    return ask


def _dead(method: Method, network: nn.Module, data: DataSet, spec: RunSpec, device: torch.device) -> int:
    recipe = spec.task.recipe
    batches = Batches(data, spec.task.data, recipe.batch_size, spec.seed, device)
    training = Training(method, network, recipe, batches, device)
    looked_at = next(data.test(_SCANNED_EXAMPLES))

    def outputs(network: nn.Module) -> Tensor:
        return predict(network, [looked_at], recipe, device)

    several = (batch for epoch in range(recipe.epochs) for batch in batches.epoch(epoch))
    with contextlib.closing(batches):
        return dead_parameters(network, several, training.losses, outputs, method.structure(network).masks)
