"""What SLURM says: the states of jobs, its settings and its partitions, by its own programs. It may be absent, down or wrong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from npasbench.cluster.programs import ProgramFailed, SchedulerError, ask

_IDS_OF_A_CALL = 1000  # keeps a command line far below the 128 kB that one argument may have

_ENDED = re.compile(
    "COMPLETED|FAILED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|CANCELLED|BOOT_FAIL|DEADLINE|REVOKED|LAUNCH_FAILED|RECONFIG_FAIL"
)
_ALIVE = re.compile(
    "PENDING|RUNNING|REQUEUED|COMPLETING|CONFIGURING|SUSPENDED|REQUEUE_HOLD|REQUEUE_FED|RESIZING|SIGNALING|SPECIAL_EXIT|"
    "STAGE_OUT|STOPPED|RESV_DEL_HOLD|EXPEDITING|POWER_UP_NODE|UPDATE_DB"
)
_OVER = re.compile("invalid job id specified|already complet", re.IGNORECASE)
_JOB = re.compile(r"\d+(_\d+)?")
_WAITING_TASKS = re.compile(r"(\d+)_\[([\d,:-]*)(?:\.{3})?(?:%\d+)?\]")


@dataclass(frozen=True)
class JobState:
    """A job, or one task of a job array."""

    id: str
    state: str
    """SLURM's word: PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, CANCELLED ..."""
    reason: str = ""
    """Of a job in the queue what it waits for; of one that ended how: "exit code 1", "signal 9", "by 1000"."""
    restarts: int = 0

    @property
    def ended(self) -> bool:
        """Whether SLURM will not run it again by itself."""
        return _ENDED.fullmatch(self.state) is not None


@dataclass(frozen=True)
class Scheduled:
    """What the scheduler knows of jobs by id, and what kept it from telling more. An id it does not know is not there."""

    states: dict[str, JobState]
    complaints: list[str]


@dataclass(frozen=True)
class Partition:
    """One row of ``sinfo``: a partition, or a part of it whose nodes have the same GPUs."""

    name: str
    state: str
    time_limit: str
    """As SLURM writes it: ``infinite``, ``1-00:00:00``."""
    nodes: int
    cpus: int
    """Of its smallest node; likewise :attr:`memory`, in MB."""
    memory: int
    gres: str
    """Such as ``gpu:a100:4``; empty if there is none."""
    preempt_mode: str
    """What happens to a job that is preempted: ``REQUEUE``, ``CANCEL``, ``SUSPEND``, ``OFF`` ..."""


def is_here() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def states(jobs: Sequence[str]) -> Scheduled:
    """How jobs stand: by the queue, and by the accounting for those that have left it. Never raises.

    A job that the accounting still calls alive, while a queue that answered does not know it, is left out: it has just
    ended, or the accounting has lost sight of it.
    """
    wanted = list(dict.fromkeys(jobs))
    complaints: list[str] = []
    if not wanted:
        return Scheduled({}, complaints)
    queued = _queued(wanted, complaints)
    whole_queue = not complaints
    missing = [job for job in wanted if job not in queued]
    recorded = _recorded(missing, complaints) if missing else {}
    found = {job: state for job, state in recorded.items() if state.ended or not whole_queue}
    return Scheduled({job: (queued | found)[job] for job in wanted if job in queued or job in found}, complaints)


def settings() -> dict[str, str]:
    """SLURM's settings, as ``scontrol show config`` names them.

    Raises:
        SchedulerError: if it does not tell.
    """
    pairs = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    found = {name.strip(): value.strip() for name, equals, value in pairs if equals}
    if not found:
        raise SchedulerError("'scontrol show config' answered without a single setting.")
    return found


def max_array_size() -> int | None:
    """The most tasks that one array may have; its indices end one below. None if SLURM does not tell."""
    try:
        return int(settings()["MaxArraySize"])
    except (SchedulerError, KeyError, ValueError):
        return None


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; one that has ended already, or that SLURM has forgotten, is no error.

    Raises:
        SchedulerError: if SLURM refuses or does not answer.
    """
    for some in _chunks(dict.fromkeys(jobs)):
        try:
            ask("scancel", "--quiet", *some)
        except ProgramFailed as error:
            lines = [line for line in error.said.splitlines() if line.strip()]
            if not lines or not all(_OVER.search(line) for line in lines):
                raise


def partitions() -> list[Partition]:
    """Every partition, one row for each kind of nodes in it.

    Raises:
        SchedulerError: if ``sinfo`` does not tell.
    """
    lines = [line for line in ask("sinfo", "-h", "-o", "%R|%a|%l|%D|%c|%m|%G|%M").splitlines() if line.strip()]
    rows = [_partition(line) for line in lines]
    return [row for row in rows if row is not None]


def _queued(wanted: Sequence[str], complaints: list[str]) -> dict[str, JobState]:
    found: dict[str, JobState] = {}
    said = _asked("squeue", ["-h", "-r", "-O", "JobArrayID:|,State:|,RestartCnt:|,Reason:|", "-j"], wanted, complaints)
    odd = []
    for line in said:
        match = re.fullmatch(r"(\d+(?:_\d+)?)\|([A-Z_]+)\|(\d+)\|(.*?)\|?\s*", line)
        if match is None or not _is_state(match[2]):
            odd.append(line)
            continue
        reason = "" if match[4] == "None" else match[4]
        found[match[1]] = JobState(match[1], match[2], reason, int(match[3]))
    _complain_of("squeue", odd, complaints)
    return {job: found[job] for job in wanted if job in found}


def _recorded(wanted: Sequence[str], complaints: list[str]) -> dict[str, JobState]:
    """What the accounting says; of a job that was requeued the last row counts, and the others are restarts."""
    found: dict[str, JobState] = {}
    together: list[tuple[str, str, JobState]] = []
    odd = []
    for line in _asked("sacct", ["-n", "-P", "-X", "-D", "-o", "JobID,State,ExitCode", "-j"], wanted, complaints):
        job, _, rest = line.strip().partition("|")
        state = _state(job, *rest.split("|"))
        waiting = _WAITING_TASKS.fullmatch(job)
        if state is None or not (waiting or _JOB.fullmatch(job)):
            odd.append(line)
        elif waiting:
            together.append((waiting[1], waiting[2], state))
        else:
            restarts = found[job].restarts + 1 if job in found else 0
            found[job] = JobState(job, state.state, state.reason, restarts)
    _complain_of("sacct", odd, complaints)
    for job in wanted:
        array, _, task = job.partition("_")
        for whose, tasks, state in together if job not in found and task else ():
            if whose == array and _is_among(int(task), tasks):
                found[job] = JobState(job, state.state, state.reason)
    return {job: found[job] for job in wanted if job in found}


def _state(job: str, word: str = "", code: str = "", *more: str) -> JobState | None:
    """A job's state from two columns of sacct; None if these are not what was asked for."""
    match = re.fullmatch(r"([A-Z_]+)\+?(?: (by \d+))?", word)
    exit_code = re.fullmatch(r"(\d+):(\d+)", code)
    if more or match is None or exit_code is None or not _is_state(match[1]):
        return None
    how = f"signal {exit_code[2]}" if exit_code[2] != "0" else f"exit code {exit_code[1]}"
    return JobState(job, match[1], match[2] or ("" if code == "0:0" else how))


def _is_state(word: str) -> bool:
    return bool(_ENDED.fullmatch(word) or _ALIVE.fullmatch(word))


def _is_among(task: int, tasks: str) -> bool:
    """Whether an array's index is in a list such as ``1,4-9,20-30:2``."""
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None:
            continue
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if first <= task <= last and step and (task - first) % step == 0:
            return True
    return False


def _asked(program: str, words: Sequence[str], wanted: Sequence[str], complaints: list[str]) -> Iterator[str]:
    """The lines of a program's answers for the arrays of these jobs; what goes wrong becomes a complaint."""
    for arrays in _chunks(dict.fromkeys(job.partition("_")[0] for job in wanted)):
        try:
            said = ask(program, *words, ",".join(arrays))
        except ProgramFailed as error:
            if not _OVER.search(error.said):  # what squeue says of a single job that has left the queue
                complaints.append(str(error))
                return
        except SchedulerError as error:
            complaints.append(str(error))
            return
        else:
            yield from (line for line in said.splitlines() if line.strip())


def _complain_of(program: str, odd: Sequence[str], complaints: list[str]) -> None:
    if odd:
        lines = "1 line that is" if len(odd) == 1 else f"{len(odd)} lines that are"
        complaints.append(f"{program} answered with {lines} not a job's state, such as '{odd[0].strip()[:60]}'.")


def _chunks(words: Iterable[str]) -> Iterator[list[str]]:
    listed = list(words)
    for start in range(0, len(listed), _IDS_OF_A_CALL):
        yield listed[start : start + _IDS_OF_A_CALL]


def _partition(line: str) -> Partition | None:
    match = re.fullmatch(r"([^|]+)\|([^|]*)\|([^|]*)\|(\d+)\|(\d+)\+?\|(\d+)\+?\|([^|]*)\|([^|]*)", line.strip())
    if match is None:
        raise SchedulerError(f"sinfo answered with something that is not a partition: '{line.strip()[:60]}'.")
    name, state, limit, nodes, cpus, memory, gres, preempt = match.groups()
    return Partition(name, state, limit, int(nodes), int(cpus), int(memory), gres.replace("(null)", ""), preempt)
