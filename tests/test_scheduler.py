"""What SLURM says, by programs that play it: right, silent, failing, slow, or talking nonsense."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from npasbench.cluster import programs, scheduler
from npasbench.cluster.profile import read_profile
from npasbench.cluster.scheduler import JobState, Partition, SchedulerError

NONSENSE = "<html>\nService Unavailable|1|2\n\x00\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm.on_path(tmp_path / "slurm", monkeypatch)


def words(jobs: list[str]) -> dict[str, str]:
    """Job ids and their states, where nothing was complained of."""
    found = scheduler.states(jobs)
    assert found.complaints == []
    return {job: state.state for job, state in found.states.items()}


# States


def test_a_job_in_the_queue_has_the_queues_state_reason_and_restarts(slurm: FakeSlurm) -> None:
    slurm.queue["100_3"] = "PENDING|JobArrayTaskLimit|2"
    found = scheduler.states(["100_3"]).states
    assert found == {"100_3": JobState("100_3", "PENDING", "JobArrayTaskLimit", 2)}
    assert not found["100_3"].ended
    assert slurm.calls("sacct") == []


def test_a_job_that_left_the_queue_has_the_accountings_state(slurm: FakeSlurm) -> None:
    slurm.records += [("100_0", "COMPLETED", "0:0"), ("100_1", "FAILED", "3:0"), ("100_2", "OUT_OF_MEMORY", "0:125")]
    found = scheduler.states(["100_0", "100_1", "100_2"]).states
    assert [(state.state, state.reason) for state in found.values()] == [
        ("COMPLETED", ""),
        ("FAILED", "exit code 3"),
        ("OUT_OF_MEMORY", "signal 125"),
    ]
    assert all(state.ended for state in found.values())


def test_the_queue_wins_over_the_accounting(slurm: FakeSlurm) -> None:
    slurm.queue["100"] = "RUNNING"
    slurm.records.append(("100", "NODE_FAIL", "0:0"))
    assert words(["100"]) == {"100": "RUNNING"}


@pytest.mark.parametrize(
    ("written", "state", "reason"),
    [("CANCELLED by 1000", "CANCELLED", "by 1000"), ("CANCELLED+", "CANCELLED", ""), ("TIMEOUT", "TIMEOUT", "")],
)
def test_a_state_has_no_suffix(slurm: FakeSlurm, written: str, state: str, reason: str) -> None:
    slurm.records.append(("100", written, "0:0"))
    assert scheduler.states(["100"]).states == {"100": JobState("100", state, reason)}


def test_the_rows_of_a_requeued_job_are_restarts_and_the_last_one_counts(slurm: FakeSlurm) -> None:
    slurm.records += [("100", "PREEMPTED", "0:0"), ("100", "NODE_FAIL", "0:0"), ("100", "COMPLETED", "0:0")]
    assert scheduler.states(["100"]).states == {"100": JobState("100", "COMPLETED", "", 2)}


def test_waiting_tasks_of_one_row_are_told_apart_when_the_queue_is_down(slurm: FakeSlurm) -> None:
    slurm.behave("squeue", code=1, err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    slurm.records += [("100_[1,4-6,10-20:5%2]", "PENDING", "0:0"), ("100_5", "RUNNING", "0:0")]
    found = scheduler.states([f"100_{task}" for task in (0, 1, 3, 4, 5, 6, 7, 14, 15, 20)])
    assert {job: state.state for job, state in found.states.items()} == {
        **dict.fromkeys(["100_1", "100_4", "100_6", "100_15", "100_20"], "PENDING"),
        "100_5": "RUNNING",
    }
    assert found.complaints == [
        "squeue failed with exit code 1: slurm_load_jobs error: Unable to contact slurm controller (connect failure)."
    ]


def test_a_job_that_only_the_accounting_calls_alive_is_left_out(slurm: FakeSlurm) -> None:
    slurm.records += [("100", "RUNNING", "0:0"), ("101", "FAILED", "1:0")]
    assert words(["100", "101"]) == {"101": "FAILED"}


def test_a_job_that_nobody_knows_is_left_out(slurm: FakeSlurm) -> None:
    slurm.behave("squeue", code=1, err="slurm_load_jobs error: Invalid job id specified\n")
    assert words(["100"]) == {}


def test_no_jobs_ask_nothing(slurm: FakeSlurm) -> None:
    assert words([]) == {}
    assert slurm.calls("squeue") == []


def test_ten_thousand_tasks_are_asked_for_by_their_arrays_in_one_call(slurm: FakeSlurm) -> None:
    jobs = [f"{array}_{task}" for array in range(100, 110) for task in range(1000)]
    slurm.records += [(job, "COMPLETED", "0:0") for job in jobs]
    assert len(words(jobs)) == 10_000
    for program in ("squeue", "sacct"):
        (call,) = slurm.calls(program)
        assert call[-1] == ",".join(map(str, range(100, 110)))


def test_ten_thousand_jobs_of_their_own_are_asked_for_in_calls_that_fit_a_command_line(slurm: FakeSlurm) -> None:
    jobs = [str(1_000_000_000 + job) for job in range(10_000)]
    slurm.records += [(job, "COMPLETED", "0:0") for job in jobs]
    assert len(words(jobs)) == 10_000
    assert all(len(call[-1]) < 100_000 for call in slurm.calls("sacct"))


def test_a_users_own_settings_of_squeue_change_nothing(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "all")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    (slurm.programs / "squeue").write_text("#!/bin/sh\nenv >&2; exit 3\n", encoding="utf-8")
    with pytest.raises(programs.ProgramFailed) as caught:
        programs.ask("squeue")
    assert "SLURM_CONF=" in caught.value.said
    assert "SQUEUE_STATES" not in caught.value.said
    assert "SACCT_FORMAT" not in caught.value.said


# A scheduler that is not what it should be


@pytest.mark.parametrize("program", ["squeue", "sacct"])
@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("missing", "{} is not on PATH here."),
        ("failing", "{} failed with exit code 1: Slurm accounting storage is disabled."),
        ("silent failure", "{} failed with exit code 1: it said nothing."),
        ("nonsense", "{} answered with 3 lines that are not a job's state, such as '<html>'."),
        ("hanging", "{} did not answer within 0.3 seconds."),
        ("no program", "{} cannot be started: Exec format error."),
    ],
)
def test_a_broken_program_is_complained_of_and_the_other_still_asked(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, program: str, how: str, complaint: str
) -> None:
    slurm.queue["100"] = "RUNNING"
    slurm.records.append(("101", "FAILED", "1:0"))
    break_it(slurm, program, how)
    if how == "hanging":
        monkeypatch.setattr(programs, "TIMEOUT", 0.3)
    found = scheduler.states(["100", "101"])
    assert found.complaints == [complaint.format(program)]
    assert {job: state.state for job, state in found.states.items()} == (
        {"101": "FAILED"} if program == "squeue" else {"100": "RUNNING"}
    )


def break_it(slurm: FakeSlurm, program: str, how: str) -> None:
    """Let a program be missing, fail, talk nonsense or hang."""
    match how:
        case "missing":
            slurm.remove(program)
        case "failing":
            slurm.behave(program, code=1, err="Slurm accounting storage is disabled\n")
        case "silent failure":
            slurm.behave(program, code=1)
        case "nonsense":
            slurm.behave(program, out=NONSENSE)
        case "hanging":
            slurm.behave(program, seconds=60)
        case _:
            (slurm.programs / program).write_bytes(b"\x7fELF")


@pytest.mark.parametrize(
    "row",
    [
        "100|WELL|0:0",
        "100|COMPLETED",
        "100|COMPLETED|0",
        "100|COMPLETED|0:0|more",
        "hundred|COMPLETED|0:0",
        "100.batch|COMPLETED|0:0",
        "100_[0-5|COMPLETED|0:0",
        "100|completed|0:0",
        "COMPLETED",
        "|||",
    ],
)
def test_a_row_of_sacct_that_is_not_a_jobs_state_gives_no_state(slurm: FakeSlurm, row: str) -> None:
    slurm.behave("sacct", out=f"{row}\n101|FAILED|1:0\n")
    found = scheduler.states(["100", "100_3", "101"])
    assert list(found.states) == ["101"]
    assert found.complaints == [f"sacct answered with 1 line that is not a job's state, such as '{row}'."]


@pytest.mark.parametrize("then", ["", "wait"])
def test_a_program_that_hangs_is_killed_with_its_children(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(programs, "TIMEOUT", 0.5)
    lasting, number = os.path.realpath("/bin/sleep"), tmp_path / "child"
    (slurm.programs / "sacct").write_text(f"#!/bin/sh\n{lasting} 30 &\necho $! > {number}\n{then}\n", encoding="utf-8")
    begun = time.monotonic()
    assert scheduler.states(["100"]).complaints == ["sacct did not answer within 0.5 seconds."]
    assert time.monotonic() - begun < 10
    assert is_gone(int(number.read_text(encoding="utf-8")))


def is_gone(process: int) -> bool:
    """Whether a process has ended, at the latest in a few seconds."""
    status = Path(f"/proc/{process}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


# Settings, partitions, cancelling


def test_without_sbatch_there_is_no_slurm(slurm: FakeSlurm) -> None:
    assert scheduler.is_here()
    slurm.remove("sbatch")
    assert not scheduler.is_here()


def test_the_largest_array_is_what_slurm_says(slurm: FakeSlurm) -> None:
    slurm.config["MaxArraySize"] = "11"
    assert scheduler.max_array_size() == 11


@pytest.mark.parametrize("out", [NONSENSE, "", "MaxArraySize = many\n"])
def test_the_largest_array_is_unknown_where_slurm_does_not_say(slurm: FakeSlurm, out: str) -> None:
    slurm.behave("scontrol", out=out)
    assert scheduler.max_array_size() is None
    slurm.remove("scontrol")
    assert scheduler.max_array_size() is None


def test_partitions_are_rows_with_their_limits(slurm: FakeSlurm) -> None:
    slurm.partitions[:] = [
        "gpu|up|1-00:00:00|3|16+|64000+|gpu:a100:4|REQUEUE",
        "cpu|down|infinite|1|8|16000|(null)|OFF",
    ]
    assert scheduler.partitions() == [
        Partition("gpu", "up", "1-00:00:00", 3, 16, 64000, "gpu:a100:4", "REQUEUE"),
        Partition("cpu", "down", "infinite", 1, 8, 16000, "", "OFF"),
    ]


def test_partitions_that_make_no_sense_are_said_so(slurm: FakeSlurm) -> None:
    slurm.behave("sinfo", out=NONSENSE)
    with pytest.raises(SchedulerError, match="sinfo answered with something that is not a partition: '<html>'"):
        scheduler.partitions()


def test_cancelling_names_every_job(slurm: FakeSlurm) -> None:
    slurm.queue.update({"100_0": "RUNNING", "100_1": "PENDING", "101": "RUNNING"})
    scheduler.cancel(["100_0", "101"])
    assert list(slurm.queue) == ["100_1"]


@pytest.mark.parametrize(
    "said",
    [
        "scancel: error: Kill job error on job id 100: Invalid job id specified\n",
        "scancel: error: Kill job error on job id 100: Job/step already completing or completed\n",
    ],
)
def test_cancelling_what_has_ended_is_no_error(slurm: FakeSlurm, said: str) -> None:
    slurm.behave("scancel", code=1, err=said)
    scheduler.cancel(["100"])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("scancel: error: Kill job error on job id 100: Access/permission denied\n", "Access/permission denied"),
        ("", "scancel failed with exit code 1: it said nothing"),
    ],
)
def test_a_refusal_to_cancel_is_a_sentence(slurm: FakeSlurm, said: str, sentence: str) -> None:
    slurm.behave("scancel", code=1, err=said)
    with pytest.raises(SchedulerError, match=sentence):
        scheduler.cancel(["100"])


def test_cancelling_without_scancel_is_a_sentence(slurm: FakeSlurm) -> None:
    slurm.remove("scancel")
    with pytest.raises(SchedulerError, match="scancel is not on PATH here"):
        scheduler.cancel(["100"])
    scheduler.cancel([])


# The programs themselves


def test_the_fake_sbatch_keeps_the_script_and_queues_every_task(slurm: FakeSlurm, tmp_path: Path) -> None:
    script = tmp_path / "submission.sh"
    script.write_text("#!/bin/bash\n#SBATCH --array=0-2%2\n#SBATCH --requeue\ntrue\n", encoding="utf-8")
    assert programs.ask("sbatch", str(script)) == "Submitted batch job 101\n"
    (kept,) = slurm.submitted
    assert kept.options == {"array": "0-2%2", "requeue": ""}
    assert kept.arguments == [str(script)]
    assert words(["101_0", "101_1", "101_2"]) == dict.fromkeys(["101_0", "101_1", "101_2"], "PENDING")


# The page


def test_the_profile_in_the_documents_can_be_read_and_holds_every_key(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "slurm.md"
    text = page.read_text(encoding="utf-8").partition("```text\n[slurm]\n")[2].partition("```")[0]
    path = tmp_path / "cluster.toml"
    path.write_text("[slurm]\n" + text, encoding="utf-8")
    profile = read_profile(path, {})
    assert profile.time == 240
    assert profile.others == {"nice": 100, "exclusive": True}
    assert [name for name in type(profile).model_fields if not getattr(profile, name)] == []
