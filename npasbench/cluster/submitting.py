"""Submitting runs through submitit: to SLURM as job arrays, or to one background process on this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit

from npasbench.cluster import scheduler, snapshot
from npasbench.cluster.batch import Batch, Executor, Job
from npasbench.cluster.job import SECONDS_TO_STOP, WorkerJob
from npasbench.cluster.needs import Asked, asked_for
from npasbench.cluster.profile import Profile
from npasbench.errors import NpasbenchError, UsageError
from npasbench.plan import RunSpec
from npasbench.running.commit import commit
from npasbench.running.files import atomic

_MINUTES_OF_A_LOCAL_BATCH = 60 * 24 * 365
_TIMEOUTS = 10_000
_MARGIN = 15
"""Seconds that a signal leaves after workers had theirs."""


@dataclass(frozen=True)
class Request:
    """How to submit; nothing here decides a result."""

    executor: Executor
    profile: Profile
    command: str
    processes: int = 1
    device: str | None = None
    checkpoint_seconds: float = 30.0
    data_root: Path | None = None
    workers: int = 1
    """Of a ``local`` batch; a SLURM job has one for each ``processes`` of its GPUs."""


def submit(specs: Sequence[RunSpec], root: Path, request: Request) -> Batch:
    """Submit jobs for these runs and return at once.

    Raises:
        UsageError: if SLURM is not here.
        NpasbenchError: if SLURM refuses, with what it said; what was submitted before stays so.
    """
    if request.executor == "slurm" and not scheduler.is_here():
        raise UsageError(
            "--executor slurm needs sbatch, which is not on this machine's PATH. Submit from a login node, or take "
            "--executor local; 'npasbench doctor' says more."
        )
    if request.executor == "slurm" and "%" in str(root.resolve()):
        raise UsageError(f"SLURM replaces '%' in the names of folders. Take another folder than {root} for --runs.")
    ordered = [(asked, chunk) for asked, group in _grouped(specs, request).items() for chunk in _chunks(group, asked)]
    batch = Batch(
        name=Batch.new_name(),
        executor=request.executor,
        created=datetime.now(UTC),
        host=socket.gethostname(),
        command=request.command,
        commit=commit(),
    )
    batch.write(root)
    snapshot.take(batch.code(root))
    lines = [json.dumps(spec.as_json()) + "\n" for _, chunk in ordered for spec in chunk]
    with atomic(batch.specs(root)) as file:
        file.write("".join(lines).encode())
    return _submit(batch, ordered, root.resolve(), request)


def _submit(batch: Batch, ordered: Sequence[tuple[Asked, list[RunSpec]]], root: Path, request: Request) -> Batch:
    """One array after another; the batch is kept after each, so that what was submitted is known whatever comes."""
    sources = snapshot.sources([spec for _, chunk in ordered for spec in chunk])
    first = 0
    jobs: list[tuple[Asked, WorkerJob, tuple[str, ...]]] = []
    for asked, chunk in ordered:
        job = WorkerJob(
            root=str(root),
            specs=str(batch.specs(root)),
            first=first,
            last=first + len(chunk),
            workers=asked.workers if request.executor == "slurm" else request.workers,
            processes=request.processes,
            gpus=asked.gpus if request.executor == "slurm" else None,
            device=request.device,
            checkpoint_seconds=request.checkpoint_seconds,
            data_root=None if request.data_root is None else str(request.data_root.resolve()),
            sources=sources,
        )
        jobs.append((asked, job, tuple(str(spec.folder) for spec in chunk)))
        first += len(chunk)
    arrays = _arrays(jobs)
    caps = _caps([len(array) for array in arrays], request.profile.jobs_at_once)
    with _environment(batch.code(root)) if request.executor == "local" else contextlib.nullcontext():
        for array, cap in zip(arrays, caps, strict=True):
            asked = array[0][0]
            executor = _executor(batch, root, request, asked, cap)
            ids = _ids(executor, [job for _, job, _ in array], len(batch.jobs))
            added = tuple(Job(id=one, runs=runs) for one, (_, _, runs) in zip(ids, array, strict=True))
            batch = batch.model_copy(update={"jobs": batch.jobs + added})
            batch.write(root)
    return batch


def _grouped(specs: Sequence[RunSpec], request: Request) -> dict[Asked, list[RunSpec]]:
    """Runs by what they need, in the order given; on this machine they need nothing."""
    groups: dict[Asked, list[RunSpec]] = {}
    for spec in specs:
        if request.executor == "slurm":
            asked = asked_for(spec, request.profile, request.processes)
            if asked.gpus == 0 and (request.device or "cpu") != "cpu":
                raise UsageError(
                    f"--device {request.device} needs a job with a GPU. Ask for --gpus 1, or leave it out."
                )
        else:
            asked = Asked(minutes=_MINUTES_OF_A_LOCAL_BATCH, memory="", cpus=1, gpus=0, runs=len(specs), workers=1)
        groups.setdefault(asked, []).append(spec)
    return groups


def _chunks(specs: Sequence[RunSpec], asked: Asked) -> list[list[RunSpec]]:
    return [list(specs[start : start + asked.runs]) for start in range(0, len(specs), asked.runs)]


def _arrays(
    jobs: Sequence[tuple[Asked, WorkerJob, tuple[str, ...]]],
) -> list[list[tuple[Asked, WorkerJob, tuple[str, ...]]]]:
    """Jobs that ask for the same, as many to an array as the cluster allows."""
    longest = scheduler.max_array_size() if len(jobs) > 1 else None
    arrays: list[list[tuple[Asked, WorkerJob, tuple[str, ...]]]] = []
    for job in jobs:
        fits = arrays and arrays[-1][0][0] == job[0] and len(arrays[-1]) < (longest or len(jobs))
        if fits:
            arrays[-1].append(job)
        else:
            arrays.append([job])
    return arrays


def _caps(lengths: Sequence[int], most: int) -> list[int]:
    """How many jobs of each array run at once, so that all together are at most ``most`` wherever that can be."""
    total = sum(lengths)
    if total <= most:
        return list(lengths)
    shares = [max(1, most * length // total) for length in lengths]
    for index in range(len(shares)):
        if sum(shares) < most and shares[index] < lengths[index]:
            shares[index] += 1
    return shares


def _executor(batch: Batch, root: Path, request: Request, asked: Asked, cap: int) -> Any:
    """submitit's executor for one array."""
    folder = batch.output(root)
    folder.mkdir(parents=True, exist_ok=True)
    if request.executor == "local":
        local = submitit.LocalExecutor(folder, max_num_timeout=_TIMEOUTS)
        gpus = _visible_gpus() if request.device != "cpu" else []
        local.update_parameters(timeout_min=asked.minutes, gpus_per_node=len(gpus), visible_gpus=gpus)
        return local
    profile = request.profile
    slurm = submitit.SlurmExecutor(folder, max_num_timeout=_TIMEOUTS)
    code = batch.code(root)
    wanted = {
        "job_name": "npasbench",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": asked.minutes,
        "cpus_per_task": asked.cpus,
        "mem": asked.memory,
        "gpus_per_node": asked.gpus or None,
        "array_parallelism": cap,
        "signal_delay_s": min(int(SECONDS_TO_STOP) + _MARGIN, asked.minutes * 30),
        "setup": [*(f"{line} || exit" for line in profile.setup), *_exports(code)],
        "srun_args": [f"--cpus-per-task={asked.cpus}"],  # since 22.05 srun does not take it from sbatch
        "wckey": None,
        "additional_parameters": {"requeue": True, **profile.others},
    }
    slurm.update_parameters(**wanted)
    return slurm


def _ids(executor: Any, jobs: Sequence[WorkerJob], before: int) -> list[str]:
    """Submit one array; the ids of its jobs.

    Raises:
        NpasbenchError: with what SLURM said.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        known = f" {before} jobs were submitted before: 'npasbench cancel' ends them." if before else ""
        said = " ".join(str(error).split()) or type(error).__name__
        raise NpasbenchError(f"SLURM did not take the jobs: {said}{'' if said.endswith('.') else '.'}{known}") from None
    return [str(job.job_id) for job in submitted]


def _exports(code: Path) -> list[str]:
    """Shell lines that let a job find the code as it was submitted, whatever came before them."""
    return [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]


def _variables(code: Path) -> dict[str, str]:
    """What lets a job find the code as it was submitted before any other, the folder that it starts in included."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{code}{os.pathsep}{before}" if before else str(code), "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def _environment(code: Path) -> Iterator[None]:
    """A local job inherits the environment, outlives the terminal it was submitted from, and holds no pipe of it open."""
    changed = _variables(code)
    before = {name: os.environ.get(name) for name in changed}
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    os.environ.update(changed)
    sys.stdout.flush()
    streams = {number: os.dup(number) for number in (0, 1, 2)}
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in streams:
        os.dup2(nowhere, number)
    os.close(nowhere)
    try:
        yield
    finally:
        for number, copy in streams.items():
            os.dup2(copy, number)
            os.close(copy)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _visible_gpus() -> list[int]:
    """The GPUs of this machine that torch may use, by the numbers that CUDA_VISIBLE_DEVICES knows."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(name) for name in named if name.strip().isdigit()]
    return numbers or list(range(torch.cuda.device_count()))
