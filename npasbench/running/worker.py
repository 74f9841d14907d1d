"""A worker: claims runs from their directories and does one after another. The same everywhere; dispatch only starts it."""

from __future__ import annotations

import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from npasbench.errors import LeaseLost, NpasbenchError, WriteError
from npasbench.explaining import explain
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.registry import Registry
from npasbench.running.certify import client
from npasbench.running.execute import Surroundings, execute
from npasbench.running.lease import Lease, kept_alive
from npasbench.running.rundir import RunDirectory
from npasbench.running.watch import Stopped


@dataclass(frozen=True)
class Options:
    """How workers work; nothing here decides a result."""

    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    data_root: Path | None = None
    """Where data sets lie that have to be brought along."""


def work(
    specs: Sequence[RunSpec],
    root: Path,
    options: Options,
    tell: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    certify: Callable[[RunDirectory], dict[str, Any]] | None,
) -> None:
    """Do every run of ``specs`` that is open and that nobody else holds, until none is left or it is time to stop.

    A worker that cannot write stops; a method that fails stops nothing but its run.
    """
    for spec in specs:
        if should_stop():
            return
        directory = RunDirectory.of(root, spec)
        if not directory.open_to_work():
            continue
        try:
            directory.create(spec)
            lease = Lease.claim(directory.lease_file)
            if lease is not None:
                _work_on(directory, spec, lease, options, tell, should_stop, certify)
        except WriteError as error:  # the next run could not be written either
            tell({"run": str(spec.folder), "state": "blocked", "reason": str(error)})
            return


def _work_on(
    directory: RunDirectory,
    spec: RunSpec,
    lease: Lease,
    options: Options,
    tell: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    certify: Callable[[RunDirectory], dict[str, Any]] | None,
) -> None:
    """One claimed run: whatever its method does stops no other.

    Raises:
        WriteError: if nothing can be written; the run stays open.
    """
    run = str(spec.folder)
    around = Surroundings(
        device=torch.device(options.device),
        should_stop=should_stop,
        tell=lambda event: tell({"run": run, "state": "running", **event}),
        certify=certify,
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
        started=time.monotonic(),
    )
    with kept_alive(lease):
        try:
            if not directory.open_to_work():
                return
            tell({"run": run, "state": "started"})
            directory.log(f"claimed by process {os.getpid()} on {platform.node()}")
            record = execute(directory, spec, lease, around)
            if record is not None:
                directory.log(f"{record.state} {record.reason}".rstrip())
                tell({"run": run, "state": record.state, "reason": record.reason, "metrics": record.metrics})
        except Stopped:
            directory.log("stopped when asked to")
            tell({"run": run, "state": "interrupted"})
        except LeaseLost as error:
            tell({"run": run, "state": "interrupted", "reason": str(error)})
        except WriteError:
            raise
        except Exception as error:
            sentence = sentence_for(error, spec)
            directory.fail(sentence, "".join(traceback.format_exception(error)))
            directory.log(f"failed: {sentence}")
            tell({"run": run, "state": "failed", "reason": sentence})
        finally:
            lease.release()


def sentence_for(error: Exception, spec: RunSpec) -> str:
    """One sentence for what went wrong in a run."""
    if isinstance(error, NpasbenchError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "Out of memory. Take a smaller batch or network, or a machine with more memory."
    return f"Method '{spec.method}' raised {explain(error, _method_of(spec))}."


def _method_of(spec: RunSpec) -> type[Method] | None:
    try:
        return Registry(spec.plugins).method(spec.method)
    except NpasbenchError:
        return None


def worker_main(
    specs: Sequence[RunSpec], root: Path, options: Options, reports: Connection, certifier: Connection, stop: Event
) -> None:
    """The main function of a worker process: reports go to the parent, which alone reacts to Ctrl-C."""
    gone = False

    def tell(event: dict[str, Any]) -> None:
        nonlocal gone
        try:
            reports.send(event)
        except OSError:
            gone = True

    def stop_asked() -> bool:
        return gone or stop.is_set()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    work(specs, root, options, tell, stop_asked, client(certifier))
    tell({"state": "leaving"})
