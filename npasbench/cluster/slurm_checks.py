"""What the cluster can do: SLURM's programs, accounting, arrays, requeueing, partitions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from npasbench.cluster import scheduler
from npasbench.cluster.checks import Check, Level
from npasbench.cluster.folder_checks import file_system, is_of_one_machine
from npasbench.cluster.programs import SchedulerError, ask
from npasbench.cluster.scheduler import Partition

_NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
_USEFUL = {"sacct": "how jobs ended is not known", "sinfo": "partitions are not known"}
_PREEMPTED = {
    "OFF": "not preempted",
    "REQUEUE": "preempted jobs are requeued",
    "SUSPEND": "preempted jobs are suspended",
    "GANG": "jobs take turns",
}


def slurm_checks(runs: Path) -> Iterator[Check]:
    """Everything that submitting to SLURM needs; one note where there is none."""
    if not scheduler.is_here():
        yield Check("SLURM", "note", "sbatch is not on PATH: no '--executor slurm' here; '--executor local' works")
        return
    yield from _program_checks()
    try:
        settings = scheduler.settings()
    except SchedulerError as error:
        configured = "configuration source" not in str(error)
        yield Check("SLURM", "wrong" if configured else "note", f"does not answer: {error}")
        return
    version, cluster = (
        settings.get("SLURM_VERSION", "of unknown version"),
        settings.get("ClusterName", "without a name"),
    )
    yield Check("SLURM", "ok", f"{version}, cluster {cluster}")
    yield _accounting_check()
    yield _array_check(settings)
    yield _requeue_check(settings)
    yield from _partition_checks(runs)


def _program_checks() -> Iterator[Check]:
    missing = [name for name in (*_NEEDED, *_USEFUL) if shutil.which(name) is None]
    for name in missing:
        if name in _NEEDED:
            yield Check("programs", "wrong", f"{name} is not on PATH")
        else:
            yield Check("programs", "note", f"{name} is not on PATH: {_USEFUL[name]}")
    if not missing:
        yield Check("programs", "ok", ", ".join((*_NEEDED, *_USEFUL)))


def _accounting_check() -> Check:
    try:
        ask("sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", "-S", "now-1minutes")
    except SchedulerError as error:
        return Check("accounting", "note", f"{error} So 'status' cannot tell how a job ended; runs are not affected")
    return Check("accounting", "ok", "sacct answers")


def _array_check(settings: dict[str, str]) -> Check:
    size = settings.get("MaxArraySize", "")
    if not size.isdigit():
        return Check("arrays", "note", "SLURM does not say how large a job array may be")
    if int(size) < 2:
        return Check("arrays", "note", "job arrays are switched off: every job is submitted by itself")
    return Check("arrays", "ok", f"of at most {size} jobs; more are submitted as several arrays")


def _requeue_check(settings: dict[str, str]) -> Check:
    wait = settings.get("KillWait", "").removesuffix(" sec")
    killed = f"; {wait} seconds from SIGTERM to SIGKILL" if wait.isdigit() else ""
    if settings.get("JobRequeue") == "0":
        return Check("requeueing", "note", f"is off unless a job asks for it, as those of npasbench do{killed}")
    return Check("requeueing", "ok", f"is on{killed}")


def _partition_checks(runs: Path) -> Iterator[Check]:
    try:
        found = scheduler.partitions()
    except SchedulerError as error:
        yield Check("partitions", "note", f"are not known: {error}")
        return
    if not found:
        yield Check("partitions", "wrong", "there is none that you may use")
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        yield Check("partition", _level(one), f"{one.name:<{width}}  {_limits(one)}")
    if any(one.nodes > 1 for one in found) and is_of_one_machine(runs):
        kind = file_system(runs if runs.exists() else Path.cwd())
        yield Check(
            "shared folder", "note", f"{runs} is on {kind}, which other nodes do not see: put runs on a shared one"
        )


def _level(partition: Partition) -> Level:
    usable = partition.state == "up" and partition.preempt_mode.split(",")[-1] in _PREEMPTED
    return "ok" if usable else "note"


def _limits(one: Partition) -> str:
    nodes = "1 node" if one.nodes == 1 else f"{one.nodes} nodes"
    limit = "no time limit" if one.time_limit == "infinite" else f"{one.time_limit} at most"
    lost = f"preempted jobs are lost ({one.preempt_mode}): submit again"
    preempted = _PREEMPTED.get(one.preempt_mode.split(",")[-1], lost)
    size = f"{nodes} with {one.cpus} cores, {one.memory / 1024:,.0f} GiB, {one.gres or 'no GPU'}"
    return f"{one.state}, {size}; {limit}; {preempted}"
