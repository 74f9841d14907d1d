"""What became of the jobs whose runs are still open: asked of the scheduler, said with what to do."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from npasbench.cluster.batch import Batch, Job, find_batches
from npasbench.cluster.scheduler import JobState, Scheduled, states
from npasbench.commands.wording import plural

_FINISHED = ("done", "refused", "skipped", "over-budget", "failed", "corrupt")
_NAMED = 4
_AGAIN = "run the same command again"
_ADVICE = {
    "OUT_OF_MEMORY": "ran out of memory: ask for more with --memory, and " + _AGAIN,
    "TIMEOUT": f"reached the time limit and did not requeue: {_AGAIN}, with a longer --time if no run gets on",
    "NODE_FAIL": f"lost the node and did not requeue: {_AGAIN}",
    "BOOT_FAIL": f"found no node that starts: {_AGAIN}",
    "PREEMPTED": f"was preempted and did not requeue: {_AGAIN}",
    "CANCELLED": f"was cancelled: {_AGAIN} to go on",
    "COMPLETED": f"left runs of its share open: {_AGAIN}",
    "GONE": f"ended before its runs were done: {_AGAIN}",
    "UNKNOWN": f"the scheduler does not know it any more: {_AGAIN}",
}


@dataclass(frozen=True)
class Trouble:
    """Jobs that ended alike and left runs open, and what to do."""

    state: str
    reason: str
    jobs: tuple[str, ...]
    runs: int
    advice: str
    command: str
    """What submitted them."""


@dataclass(frozen=True)
class Jobs:
    """Of all batches what matters for open runs; ``alive`` counts jobs by state and reason."""

    planned: tuple[str, ...]
    """Every run that a batch was submitted for."""
    alive: dict[str, int]
    requeued: int
    troubles: list[Trouble]
    complaints: list[str]


def look(root: Path, run_states: Mapping[str, str], ask: Callable[[Sequence[str]], Scheduled] = states) -> Jobs:
    """What batches and the scheduler say beyond the run directories, whose states are given by run.

    A job is asked about only if it is the last one that was submitted for an open run.
    """
    batches = find_batches(root)
    last = {run: (batch, job) for batch in batches for job in batch.jobs for run in job.runs}
    shares: dict[tuple[str, str], tuple[Batch, Job, list[str]]] = {}
    for run, (batch, job) in last.items():
        if run_states.get(run, "waiting") not in _FINISHED:
            shares.setdefault((batch.name, job.id), (batch, job, []))[2].append(run)
    known, complaints = _ask(shares.values(), ask)
    found = [
        (batch, known[batch.name, job.id], runs)
        for batch, job, runs in shares.values()
        if (batch.name, job.id) in known
    ]
    alive = Counter(_named(state) for _, state, _ in found if not _has_ended(state))
    ended = [
        (batch, state, [run for run in runs if run_states.get(run) != "running"])
        for batch, state, runs in found
        if _has_ended(state)
    ]
    requeued = sum(state.restarts for _, state, _ in found)
    return Jobs(tuple(last), dict(alive), requeued, _troubles(root, ended), complaints)


def _ask(
    shares: Collection[tuple[Batch, Job, list[str]]], ask: Callable[[Sequence[str]], Scheduled]
) -> tuple[dict[tuple[str, str], JobState], list[str]]:
    """The jobs' states by batch and id; a job that a scheduler which answers does not know is ``UNKNOWN``."""
    submitted = [(batch.name, job.id) for batch, job, _ in shares if batch.executor == "slurm"]
    asked = ask([job for _, job in submitted]) if submitted else Scheduled({}, [])
    known = {(batch.name, job.id): _process(job) for batch, job, _ in shares if _is_here(batch)}
    for batch, job in submitted:
        if job in asked.states:
            known[batch, job] = asked.states[job]
        elif not asked.complaints:
            known[batch, job] = JobState(job, "UNKNOWN")
    return known, asked.complaints


def _troubles(root: Path, ended: Iterable[tuple[Batch, JobState, Collection[str]]]) -> list[Trouble]:
    alike: dict[tuple[str, str, str], list[tuple[Batch, JobState, Collection[str]]]] = {}
    for batch, state, runs in ended:
        if runs:
            alike.setdefault((batch.name, state.state, state.reason), []).append((batch, state, runs))
    return [
        Trouble(
            state,
            reason,
            tuple(job.id for _, job, _ in those),
            sum(len(runs) for *_, runs in those),
            _advice(those[0][1], those[0][0].output(root)),
            those[0][0].command,
        )
        for (_, state, reason), those in alike.items()
    ]


def sentence(trouble: Trouble) -> str:
    """One line: which jobs, how they ended, how many runs wait for it, what to do."""
    more = len(trouble.jobs) - _NAMED
    named = ", ".join(trouble.jobs[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    reason = f" ({trouble.reason})" if trouble.reason else ""
    waiting = plural(trouble.runs, "open run")
    which = "job" if len(trouble.jobs) == 1 else "jobs"
    return f"{which} {named}: {trouble.state}{reason}, {waiting}: {trouble.advice}: {trouble.command}"


def _advice(job: JobState, output: Path) -> str:
    return _ADVICE.get(job.state, f"see {output / f'{job.id}_0_log.err'}, then {_AGAIN}")


def _named(job: JobState) -> str:
    return f"{job.state} ({job.reason})" if job.reason else job.state


def _has_ended(job: JobState) -> bool:
    return job.ended or job.state in ("GONE", "UNKNOWN")


def _is_here(batch: Batch) -> bool:
    return batch.executor == "local" and batch.host == socket.gethostname()


def _process(job: Job) -> JobState:
    """How a process of this machine stands."""
    try:
        os.kill(int(job.id), 0)
    except PermissionError:
        return JobState(job.id, "RUNNING")
    except (OSError, ValueError, OverflowError):
        return JobState(job.id, "GONE")
    return JobState(job.id, "RUNNING")
