"""Starting workers on this machine: from one preloaded process, each with a process beside it that makes certificates."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npasbench.plan import RunSpec
    from npasbench.running.worker import Options

_PRELOADED = ("npasbench.running.preload",)
_DEATHS_OF_A_RUN = 2

Report = Callable[[dict[str, Any]], None]


@dataclass
class _Worker:
    process: ForkServerProcess
    certifier: ForkServerProcess
    reports: Connection
    run: str | None = None


@dataclass
class _Pool:
    context: ForkServerContext
    specs: Sequence[RunSpec]
    root: Path
    options: Options
    stop: Any
    workers: list[_Worker] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=dict)

    def start_one(self) -> None:
        """Start a worker and its certifier, connected to each other and to this process."""
        from npasbench.running.certify import serve
        from npasbench.running.worker import worker_main

        reports, theirs = self.context.Pipe(duplex=False)
        asking, answering = self.context.Pipe()
        with_what = (answering, self.options.device, self.options.data_root)
        certifier = self.context.Process(target=serve, args=with_what, daemon=True)
        certifier.start()
        answering.close()
        process = self.context.Process(
            target=worker_main, args=(self.specs, self.root, self.options, theirs, asking, self.stop)
        )
        process.start()
        theirs.close()
        asking.close()
        self.workers.append(_Worker(process, certifier, reports))


def warm_up() -> None:
    """Start the process that workers are forked from, which imports what they need while the caller still plans."""
    with _one_thread_each(), _deaf_to_ctrl_c():
        forkserver.set_forkserver_preload(list(_PRELOADED))
        forkserver.ensure_running()


def run_local(specs: Sequence[RunSpec], root: Path, workers: int, options: Options, report: Report) -> None:
    """Do runs with ``workers`` processes; returns when nothing is left to do or after Ctrl-C.

    ``report`` receives each worker's events: ``{"run", "state", ...}``. A worker that dies is replaced, and its run goes
    on from its checkpoint; a run that kills its worker twice is marked as failed.

    Raises:
        KeyboardInterrupt: after the workers have stopped and written down where they stand.
    """
    warm_up()
    context = multiprocessing.get_context("forkserver")
    pool = _Pool(context, list(specs), root, options, context.Event())
    with _one_thread_each():
        for _ in range(max(1, min(workers, len(specs)))):
            pool.start_one()
        try:
            _listen(pool, report)
        except KeyboardInterrupt:
            pool.stop.set()
            _listen(pool, report)
            raise
        finally:
            _close(pool)


def _listen(pool: _Pool, report: Report) -> None:
    """Pass events on until every worker is gone."""
    while pool.workers:
        ready = wait([worker.reports for worker in pool.workers])
        for worker in [w for w in pool.workers if w.reports in ready]:
            try:
                event = worker.reports.recv()
            except (EOFError, OSError):
                _left(pool, worker, report)
                continue
            if "run" in event:
                worker.run = event["run"] if event["state"] in ("started", "running") else None
                report(event)


def _left(pool: _Pool, worker: _Worker, report: Report) -> None:
    """A worker has closed its end: it is done, or it died and is replaced."""
    worker.process.join()
    worker.reports.close()
    pool.workers.remove(worker)
    worker.certifier.join(timeout=5)
    if worker.process.exitcode == 0 or pool.stop.is_set():
        return
    from npasbench.running.rundir import RunDirectory

    died = worker.run or ""
    pool.deaths[died] = pool.deaths.get(died, 0) + 1
    code = worker.process.exitcode or 0
    how = f"signal {-code}" if code < 0 else f"exit {code}"
    if not died:
        if pool.deaths[died] < _DEATHS_OF_A_RUN:
            pool.start_one()
        return
    if pool.deaths[died] < _DEATHS_OF_A_RUN:
        report({"run": died, "state": "interrupted", "reason": f"the worker died ({how}); another goes on"})
    else:
        sentence = (
            f"The worker was killed {pool.deaths[died]} times in this run ({how}); most likely it needs more memory."
        )
        RunDirectory(pool.root / died).fail(sentence, "")
        report({"run": died, "state": "failed", "reason": sentence})
    pool.start_one()


def _close(pool: _Pool) -> None:
    for worker in pool.workers:
        worker.process.terminate()
        worker.process.join()
        worker.certifier.join(timeout=5)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started here ignores Ctrl-C from its first instruction on: only the parent reacts to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Numerical libraries start one thread in each worker; the card's own number is set for each run."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: value or "1" for name, value in before.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
