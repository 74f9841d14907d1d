"""Starting workers on this machine: from one preloaded process, each with a process beside it that makes certificates."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench import fork_server
from npasbench.errors import RunError

if TYPE_CHECKING:
    from npasbench.plan import RunSpec
    from npasbench.running.worker import Options

_PRELOADED = ("npasbench.running.preload",)
_DEATHS_OF_A_RUN = 2
_PATIENCE_WITH_A_TEAM = 20.0

Report = Callable[[dict[str, Any]], None]


@dataclass
class _Worker:
    number: int
    process: ForkServerProcess
    certifier: ForkServerProcess
    reports: Connection
    meeting: Path
    followers: list[ForkServerProcess] = field(default_factory=list)
    run: str | None = None
    lost: str | None = None
    """How a follower died, if one did."""

    @property
    def processes(self) -> list[ForkServerProcess]:
        return [self.process, *self.followers]


class Pool:
    """Workers on this machine, replaced when they die. A run that kills its worker twice is marked as failed.

    ``report`` receives each worker's events: ``{"run", "state", ...}``. ``told_to_stop`` says whether a worker has
    left because it was sent SIGTERM; nobody replaces it.
    """

    def __init__(self, specs: Sequence[RunSpec], root: Path, workers: int, options: Options, report: Report) -> None:
        self.specs, self.root, self.options, self.report = list(specs), root, options, report
        self.size = max(1, min(workers, len(self.specs)))
        self.told_to_stop = False
        self._context = multiprocessing.get_context("forkserver")
        self._stop = self._context.Event()
        self._workers: list[_Worker] = []
        self._deaths: dict[str, int] = {}
        self._meetings = tempfile.TemporaryDirectory(prefix="npasbench-")

    def work(self) -> None:
        """Do the runs; returns when nothing is left to do.

        Raises:
            KeyboardInterrupt: after the workers have stopped and written down where they stand.
            RunError: if no worker can be started, since the process that they are forked from has ended.
        """
        warm_up()
        with self._meetings, _one_thread_each():
            try:
                for number in range(self.size):
                    self._start(number)
            except (EOFError, ConnectionError):
                raise RunError(
                    "The process that workers are forked from has ended, so none could be started; what it said stands above. "
                    "See with 'npasbench doctor' whether everything is installed."
                ) from None
            try:
                self._listen()
            except KeyboardInterrupt:
                self._stop.set()
                self._listen()
                raise
            finally:
                self._close()

    def end(self, seconds: float) -> None:
        """Have the workers write down where they stand and leave; those that have not after ``seconds`` are killed.

        May be called from a signal handler while :meth:`work` is under way.
        """
        every = [process for worker in self._workers for process in worker.processes]
        for process in every:
            _send(process, signal.SIGTERM)
        for process in every:
            process.join(timeout=seconds)
            _send(process, signal.SIGKILL)

    def _start(self, number: int) -> None:
        """Start a worker, the processes that train with it, and its certifier, connected to each other and to this one."""
        from npasbench.running.certify import serve
        from npasbench.running.worker import Place, follower_main, worker_main

        reports, theirs = self._context.Pipe(duplex=False)
        asking, answering = self._context.Pipe()
        device = self.options.device(number)
        certifier = self._context.Process(target=serve, args=(answering, device, self.options.data_root))
        certifier.start()
        answering.close()
        meeting = Path(self._meetings.name) / uuid.uuid4().hex
        leading = (self.specs, self.root, self.options, Place(number, 0, meeting), theirs, asking, self._stop)
        process = self._context.Process(target=worker_main, args=leading)
        process.start()
        theirs.close()
        asking.close()
        worker = _Worker(number, process, certifier, reports, meeting)
        for rank in range(1, self.options.processes):
            with_what = (self.root, self.options, Place(number, rank, meeting), self._stop)
            follower = self._context.Process(target=follower_main, args=with_what)
            follower.start()
            worker.followers.append(follower)
        self._workers.append(worker)

    def _listen(self) -> None:
        """Pass events on until every worker is gone."""
        while self._workers:
            followers = {f.sentinel: (worker, f) for worker in self._workers for f in worker.followers}
            ready = wait([*(worker.reports for worker in self._workers), *followers])
            for worker in [one for one in self._workers if one.reports in ready]:
                self._hear(worker)
            for sentinel in [one for one in ready if isinstance(one, int)]:
                worker, follower = followers[sentinel]
                _note_loss(worker, follower)
                worker.followers.remove(follower)
                if follower.exitcode != 0 and worker in self._workers:
                    worker.process.join(timeout=_PATIENCE_WITH_A_TEAM)
                    _send(worker.process, signal.SIGKILL)

    def _hear(self, worker: _Worker) -> None:
        try:
            event = worker.reports.recv()
        except (EOFError, OSError):
            self._left(worker)
            return
        if "run" in event:
            worker.run = event["run"] if event["state"] in ("started", "running") else None
            self.report(event)
        elif event["state"] == "told-to-stop":
            self.told_to_stop = True

    def _left(self, worker: _Worker) -> None:
        """A worker has closed its end: it is done, or it died and is replaced."""
        from npasbench.running.worker import TEAM_ENDED
        from npasbench.training.team import Team

        worker.process.join()
        worker.reports.close()
        self._workers.remove(worker)
        worker.certifier.join(timeout=5)
        until = time.monotonic() + _PATIENCE_WITH_A_TEAM
        for follower in worker.followers:
            follower.join(timeout=max(0.0, until - time.monotonic()))
            _note_loss(worker, follower)
            _send(follower, signal.SIGKILL)
        code = worker.process.exitcode or 0
        if code == 0 or self._stop.is_set():
            return
        complaint = Team(meeting=worker.meeting).complaint()
        if worker.run and complaint:  # and the first process waited for the one that complained
            self._fail(worker.run, complaint)
            self._start(worker.number)
        elif (code == TEAM_ENDED and not worker.run) or self._may_go_on(worker.run, worker.lost or _how(code)):
            self._start(worker.number)

    def _may_go_on(self, run: str | None, how: str) -> bool:
        """Whether a worker that died is replaced; a run that killed it too often is marked as failed."""
        died = run or ""
        self._deaths[died] = self._deaths.get(died, 0) + 1
        again = self._deaths[died] < _DEATHS_OF_A_RUN
        if not died:
            if not again:
                self._could_not_start(how)
            return again
        if again:
            self.report({"run": died, "state": "interrupted", "reason": f"the worker died ({how}); another goes on"})
            return True
        self._fail(
            died,
            f"The worker was killed {self._deaths[died]} times in this run ({how}); most likely it needs more memory.",
        )
        return True

    def _could_not_start(self, how: str) -> None:
        reason = f"workers died before they began a run ({how}); what they said stands above"
        self.report({"run": "", "state": "blocked", "reason": reason})

    def _fail(self, run: str, sentence: str) -> None:
        from npasbench.running.rundir import RunDirectory

        RunDirectory(self.root / run).fail(sentence, "")
        self.report({"run": run, "state": "failed", "reason": sentence})

    def _close(self) -> None:
        for worker in self._workers:
            for process in worker.processes:
                process.terminate()
                process.join()
            worker.certifier.join(timeout=5)


def warm_up() -> None:
    """Start the process that workers are forked from, which imports what they need while the caller still plans."""
    with _one_thread_each(), _deaf():
        fork_server.start(_PRELOADED)


def _how(code: int) -> str:
    from npasbench.running.worker import TEAM_ENDED

    if code == TEAM_ENDED:
        return "its processes lost each other"
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _note_loss(worker: _Worker, follower: ForkServerProcess) -> None:
    """Remember how a follower died, unless it left by itself."""
    from npasbench.running.worker import TEAM_ENDED

    if follower.exitcode not in (None, 0, TEAM_ENDED):
        worker.lost = _how(follower.exitcode or 0)


def _send(process: ForkServerProcess, number: int) -> None:
    """Send a signal to a process that may be gone."""
    if process.pid is not None and process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A process started here ignores from its first instruction on what only its parent reacts to.

    SLURM sends signals to every process of a job: certifiers and the process that workers are forked from end with
    their parent, not by themselves. A worker listens to SIGTERM once it can write a checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
            else:
                os.environ[name] = value
