"""A worker: claims runs from their directories and does one after another. The same everywhere; dispatch only starts it."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from npasbench.errors import LeaseLost, NpasbenchError, TeamEnded, WriteError
from npasbench.explaining import explain
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.running.certify import client
from npasbench.running.execute import Surroundings, execute, take_part
from npasbench.running.lease import Lease, kept_alive
from npasbench.running.leftovers import left_by_others, wait_for_holders
from npasbench.running.method_sources import changed_since, classes_of
from npasbench.running.rundir import RunDirectory
from npasbench.running.watch import Stopped
from npasbench.training.team import Team

TEAM_ENDED = 3
"""Exit code of a team that has to be started anew before the next run."""


@dataclass(frozen=True)
class Options:
    """How workers work; nothing here decides a result."""

    devices: tuple[str, ...] = ("cpu",)
    """Shared out among the processes, in turn."""
    processes: int = 1
    """How many train one run together, each on a device of its own."""
    checkpoint_seconds: float = 30.0
    data_root: Path | None = None
    """Where data sets lie that have to be brought along."""
    job: str = ""
    """The job that the worker is in, for the run's log."""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """The source of plugins' methods, by name, as it was submitted."""
    others: tuple[RunSpec, ...] = ()
    """Runs of other jobs: taken over where they were begun and left."""

    def device(self, worker: int, rank: int = 0) -> str:
        """The device of one process."""
        return self.devices[(worker * self.processes + rank) % len(self.devices)]


@dataclass(frozen=True)
class Ways:
    """How a worker reaches the outside."""

    tell: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool] = lambda: False
    certify: Callable[[RunDirectory], dict[str, Any]] | None = None
    device: str = "cpu"
    team: Team = field(default_factory=Team)


def work(specs: Sequence[RunSpec], root: Path, options: Options, ways: Ways) -> None:
    """Do every run of ``specs`` that is open and that nobody else holds, until none is left or it is time to stop.

    Then, in a job, those of its own whose holder turns out to be gone, and what other jobs of its batch have left. A
    worker that cannot write stops; a method that fails stops nothing but its run.
    """
    try:
        _work_through(specs, root, options, ways)
        if options.job and wait_for_holders(specs, root, ways.should_stop):
            _work_through(specs, root, options, ways)
        _work_through(left_by_others(options.others, root), root, options, ways)
    except WriteError as error:  # the next run could not be written either
        ways.tell({"run": error.run, "state": "blocked", "reason": str(error)})
        ways.team.end_after(error)


def _work_through(specs: Iterable[RunSpec], root: Path, options: Options, ways: Ways) -> None:
    for spec in specs:
        if ways.should_stop():
            return
        directory = RunDirectory.of(root, spec)
        if not directory.open_to_work():
            continue
        if changed := changed_since(spec, options.sources):
            ways.tell({"run": str(spec.folder), "state": "blocked", "reason": changed})
            return
        try:
            directory.create(spec)
            lease = Lease.claim(directory.lease_file)
            if lease is not None:
                _work_on(directory, spec, lease, options, ways)
        except WriteError as error:
            error.run = str(spec.folder)
            raise


def _work_on(directory: RunDirectory, spec: RunSpec, lease: Lease, options: Options, ways: Ways) -> None:
    """One claimed run: whatever its method does stops no other.

    Raises:
        WriteError: if nothing can be written; the run stays open.
        TeamEnded: if the team cannot go on together.
    """
    run, team = str(spec.folder), ways.team
    around = _surroundings(spec, options, ways)
    with kept_alive(lease):
        try:
            if not directory.open_to_work():
                return
            directory.tidy()
            ways.tell({"run": run, "state": "started"})
            directory.log(
                f"claimed by process {os.getpid()} on {platform.node()}{options.job and f', job {options.job}'}"
            )
            team.agree(spec.as_json())
            record = execute(directory, spec, lease, around)
            if record is not None:
                directory.log(f"{record.state} {record.reason}".rstrip())
                ways.tell({"run": run, "state": record.state, "reason": record.reason, "metrics": record.metrics})
        except Stopped:
            directory.log("stopped when asked to")
            ways.tell({"run": run, "state": "interrupted"})
            team.end_after(Stopped())
        except LeaseLost as error:
            ways.tell({"run": run, "state": "interrupted", "reason": str(error)})
            team.end_after(error)
        except WriteError:
            raise
        except Exception as error:
            complaint = team.complaint()
            if isinstance(error, TeamEnded) and not complaint:
                raise  # another process was killed: no fault of the run that is known
            sentence = complaint or sentence_for(error, spec)
            directory.fail(sentence, "".join(traceback.format_exception(error)))
            directory.log(f"failed: {sentence}")
            ways.tell({"run": run, "state": "failed", "reason": sentence})
            team.end_after(error)
        finally:
            lease.release()


def follow(root: Path, options: Options, ways: Ways) -> None:
    """Take part in every run that the team's first process claims, until it has no more.

    Raises:
        TeamEnded: if the team cannot go on together.
    """
    while True:
        content = ways.team.agree(None)
        if content is None:
            return
        spec = RunSpec.from_json(content)
        directory = RunDirectory.of(root, spec)
        try:
            take_part(directory, spec, _surroundings(spec, options, ways))
        except Stopped:
            return
        except TeamEnded:
            raise
        except Exception as error:
            ways.team.complain(sentence_for(error, spec))
            ways.team.end_after(error)


def _surroundings(spec: RunSpec, options: Options, ways: Ways) -> Surroundings:
    run = str(spec.folder)
    leads = ways.team.leads
    return Surroundings(
        device=torch.device(ways.device),
        should_stop=ways.should_stop,
        tell=lambda event: ways.tell({"run": run, "state": "running", **event}) if leads else None,
        certify=ways.certify if leads else None,
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
        started=time.monotonic(),
        team=ways.team,
    )


def sentence_for(error: Exception, spec: RunSpec) -> str:
    """One sentence for what went wrong in a run."""
    if isinstance(error, NpasbenchError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "Out of memory. Take a smaller batch or network, or a machine with more memory."
    return f"Method '{spec.method}' raised {explain(error, *_classes_of(spec))}."


def _classes_of(spec: RunSpec) -> list[type[Method]]:
    try:
        return list(classes_of(spec).values())
    except NpasbenchError:
        return []


def worker_main(
    specs: Sequence[RunSpec],
    root: Path,
    options: Options,
    place: Place,
    reports: Connection,
    certifier: Connection,
    stop: Event,
) -> None:
    """The main function of a worker process: reports go to the parent, which alone reacts to Ctrl-C."""
    asked = _Asked(stop)

    def tell(event: dict[str, Any]) -> None:
        try:
            reports.send(event)
        except OSError:
            asked.directly = True

    team = place.join(options)
    code = 0
    try:
        work(specs, root, options, Ways(tell, asked, client(certifier), place.device(options), team))
        team.agree(None)
    except TeamEnded as error:
        code = 0 if asked() or isinstance(error.__cause__, WriteError) else TEAM_ENDED
    team.leave()
    tell({"state": "told-to-stop" if asked.directly else "leaving"})
    if code:
        sys.exit(code)


def follower_main(root: Path, options: Options, place: Place, stop: Event) -> None:
    """The main function of every other process of a team."""
    asked = _Asked(stop)
    team = place.join(options)
    code = 0
    try:
        follow(root, options, Ways(lambda _: None, asked, None, place.device(options), team))
    except TeamEnded:
        code = TEAM_ENDED
    team.leave()
    sys.exit(code)


@dataclass(frozen=True)
class Place:
    """Which process of which worker this is."""

    worker: int
    rank: int
    meeting: Path

    def device(self, options: Options) -> str:
        """Where it computes."""
        return options.device(self.worker, self.rank)

    def join(self, options: Options) -> Team:
        """Meet the others of the team."""
        return Team.join(self.rank, options.processes, self.meeting, torch.device(self.device(options)))


class _Asked:
    """Whether it is time to stop. A signal only sets a flag: the event's lock may be held when it comes."""

    def __init__(self, stop: Event) -> None:
        self.directly = False
        self._stop = stop
        for deaf in (signal.SIGINT, signal.SIGUSR2):
            signal.signal(deaf, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop_this_one)

    def __call__(self) -> bool:
        return self.directly or self._stop.is_set()

    def _stop_this_one(self, *_: object) -> None:
        self.directly = True
