"""What runs in a job: a pool of workers that begins with the job's share of runs, and is asked to stop by a signal.

submitit gets the signals. SIGUSR2 comes before the time limit, and on some clusters before a preemption: the workers
write down where they stand, and the job is requeued. SIGTERM is followed by SIGKILL: workers that get it write
checkpoints, and the job waits for its end; SLURM requeues what it preempts and what a dead node took with it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench.errors import NpasbenchError, RunError, UsageError

if TYPE_CHECKING:
    import submitit

    from npasbench.plan import RunSpec
    from npasbench.running.dispatch import Pool

SECONDS_TO_STOP = 45.0
"""How long workers have to write down where they stand."""
_SECONDS_TO_BE_KILLED = 90.0
_MOST_BARREN = 5


@dataclass
class WorkerJob:
    """A job, as it is pickled: plain values, so that it is read by the code that was submitted."""

    root: str
    specs: str
    """A file with a line of JSON for every run of the batch."""
    first: int
    last: int
    """The lines of this job's share: ``first`` up to, not including, ``last``."""
    workers: int
    processes: int
    gpus: int | None
    """How many were asked for; None on a machine whose devices are all taken."""
    device: str | None
    checkpoint_seconds: float
    data_root: str | None
    sources: dict[str, str | None]
    barren: int = 0
    """How often in a row it was requeued without having written anything."""

    def __call__(self) -> str:
        """Work until nothing is left; what is said stands in the job's output.

        Raises:
            RuntimeError: with a sentence, if the job cannot begin.
        """
        self._pool: Pool | None = None
        try:
            self._before = self._written()
            return self._work()
        except NpasbenchError as error:
            raise RuntimeError(str(error)) from None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Asked to stop: the workers write down where they stand; the job goes on later. None if it gets nowhere."""
        import submitit

        if self._pool is not None:
            self._pool.end(SECONDS_TO_STOP)
        self.barren = 0 if self._has_written() else self.barren + 1
        if self.barren >= _MOST_BARREN:
            _say(f"requeued {self.barren} times without a checkpoint: ask for more time with --time")
            return None
        return submitit.helpers.DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def _work(self) -> str:
        from npasbench.cluster.snapshot import check_sources, is_imported
        from npasbench.running.dispatch import Pool, warm_up
        from npasbench.running.worker import Options

        code = Path(self.specs).parent / "code"
        if not is_imported(code):
            raise RunError(
                f"This job imports npasbench from elsewhere than {code}. Does 'setup' change how Python starts?"
            )
        warm_up()
        own, others = self._read()
        check_sources([*own, *others], self.sources)
        environment = _environment()
        if environment == "local":
            signal.signal(signal.SIGTERM, _interrupt)
        options = Options(
            devices=self._devices(),
            processes=self.processes,
            checkpoint_seconds=self.checkpoint_seconds,
            data_root=Path(self.data_root) if self.data_root else None,
            job=_job_id(),
            sources=self.sources,
            others=tuple(others),
        )
        while True:
            blocked: list[str] = []
            self._pool = Pool(own, Path(self.root), self.workers, options, functools.partial(_tell, blocked=blocked))
            try:
                self._pool.work()
            except KeyboardInterrupt:
                return "cancelled; the runs keep their checkpoints"
            if blocked:
                raise RunError(blocked[0])
            if not self._pool.told_to_stop:
                return "nothing is left to do"
            _say("the workers were told to stop; waiting to be killed or requeued")
            time.sleep(_SECONDS_TO_BE_KILLED)
            _say("nothing came; going on")

    def _read(self) -> tuple[list[RunSpec], list[RunSpec]]:
        from npasbench.plan import RunSpec

        try:
            lines = Path(self.specs).read_text(encoding="utf-8").splitlines()
            specs = [RunSpec.from_json(json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"{self.specs} cannot be read: {error}. Submit again.") from None
        return specs[self.first : self.last], specs[: self.first] + specs[self.last :]

    def _devices(self) -> tuple[str, ...]:
        """Where to compute: every GPU of the job, or the CPU.

        Raises:
            UsageError: if the GPUs that were asked for cannot be used.
        """
        import torch

        if self.device == "cpu" or self.gpus == 0:
            return ("cpu",)
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if seen == 0 and self.gpus is None:
            return ("cpu",)
        if seen < max(self.gpus or 1, self.processes):
            raise UsageError(
                f"This job has {self.gpus or self.processes} GPUs, but torch {torch.__version__} can use {seen}. Install a torch "
                "that fits the driver, or submit with --device cpu --gpus 0."
            )
        return tuple(f"cuda:{index}" for index in range(seen))

    def _has_written(self) -> bool:
        """Whether a run of the share has ended since the job began, or has a newer checkpoint."""
        return self._written() != self._before

    def _written(self) -> dict[Path, float]:
        """When results and checkpoints of the share were written, by the file system's clock."""
        from npasbench.running.rundir import RunDirectory

        found = {}
        for directory in (RunDirectory.of(Path(self.root), spec) for spec in self._read()[0]):
            for file in (directory.result_file, directory.checkpoint_file, *directory.path.glob("stage-*.pt")):
                with contextlib.suppress(OSError):
                    found[file] = file.stat().st_mtime
        return found


def work_here(specs: Sequence[RunSpec], root: Path, options: Any, tell: Any) -> None:
    """Do every run in this very process, one after another, so that a debugger stops where it is told to."""
    import multiprocessing

    from npasbench import fork_server
    from npasbench.running.certify import client, serve
    from npasbench.running.worker import Ways, work

    fork_server.start(())
    context = multiprocessing.get_context("forkserver")
    asking, answering = context.Pipe()
    device = options.device(0)
    certifier = context.Process(target=serve, args=(answering, device, options.data_root))
    certifier.start()
    answering.close()
    try:
        work(specs, root, options, Ways(tell, certify=client(asking), device=device))
    finally:
        asking.close()
        certifier.join(timeout=5)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _environment() -> str:
    return os.environ.get("SUBMITIT_EXECUTOR", "")


def _job_id() -> str:
    import submitit

    return str(submitit.JobEnvironment().job_id)


def _tell(event: dict[str, Any], blocked: list[str]) -> None:
    if event["state"] != "running":
        reason = event.get("reason")
        if event["state"] == "blocked":
            blocked.append(str(reason))
        _say(f"{event['run']}: {event['state']}{f': {reason}' if reason else ''}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the job's output is its log
