"""``npasbench status``: run directories first, the scheduler second; what keeps open runs from being done, and what to do."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import records
from test_commands import call

from npasbench.cluster.batch import Batch, Job
from npasbench.running import lease as leases
from npasbench.running.lease import Lease

CELL = f"{records.TASK}/roast/0.1"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def put(runs: Path, seed: int, **content: Any) -> Path:
    return records.put(runs, records.spec("roast", "0.1", seed), **content)


def done(runs: Path, seed: int) -> Path:
    of = records.spec("roast", "0.1", seed)
    return records.put(runs, of, record=records.result(of))


def begun(runs: Path, seed: int, epoch: int, claims: int = 1) -> Path:
    """A run that was claimed so often and stands at a checkpoint after so many epochs of half a second."""
    folder = put(runs, seed)
    rows = [{"epoch": k, "step": 3 * k, "loss": 1.0, "lr": 0.1, "seconds": 0.5 * k} for k in range(1, epoch + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "checkpoint.pt").touch()
    line = "2026-11-21T10:00:00+00:00 claimed by process 7 on node1, job 12_3\n"
    (folder / "log.txt").write_text((line + "2026-11-21T10:00:01+00:00 goes on from step 3\n") * claims)
    return folder


def name(folder: Path, runs: Path) -> str:
    return folder.relative_to(runs).as_posix()


def report(runs: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(call("status", str(runs), "--json")[1])
    return content


# From run directories


def test_a_running_run_shows_its_progress_the_time_left_and_its_restarts(runs: Path) -> None:
    folder = begun(runs, 0, 20, claims=3)
    Lease.claim(folder / "lease.json")
    code, said = call("status", str(runs))
    assert code == 0
    assert f"{name(folder, runs)}: running, epoch 20 of 60, 20 s of training left, restarted 2 times\n" in said
    assert said.endswith("1 run: 1 running. 1 run restarted, 2 times in all.\n")
    (row,) = report(runs)["rows"]
    assert row == {
        "run": name(folder, runs), "state": "running", "epoch": 20, "epochs": 60, "seconds_left": 20.0, "restarts": 2,
    }  # fmt: skip


def test_a_line_that_was_cut_off_is_left_out_and_a_first_epoch_has_no_time_left(runs: Path) -> None:
    cut, first = begun(runs, 0, 30), begun(runs, 1, 0)
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 31, "st')
    said = call("status", str(runs))[1]
    assert f"{name(cut, runs)}: interrupted, epoch 30 of 60, 15 s of training left\n" in said
    assert f"{name(first, runs)}: interrupted, epoch 0 of 60\n" in said


def test_a_long_list_of_epochs_is_read_from_its_end(runs: Path) -> None:
    folder = begun(runs, 0, 59)
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"x" * 100_000 + b"\n" + rows)
    assert report(runs)["rows"][0]["epoch"] == 59


def test_a_failed_run_has_its_reason_and_the_exit_code_is_1(runs: Path) -> None:
    folder = put(runs, 0, failure={"error": "The loss became NaN in epoch 4."})
    code, said = call("status", str(runs))
    assert (code, f"{name(folder, runs)}: failed: The loss became NaN in epoch 4." in said) == (1, True)


def test_of_many_runs_in_one_state_some_are_listed_and_all_are_in_json(runs: Path) -> None:
    for seed in range(25):
        begun(runs, seed, 1)
    said = call("status", str(runs))[1]
    assert said.count(": interrupted, ") == 20
    assert "... and 5 more interrupted; --json lists all" in said
    assert len(report(runs)["rows"]) == 25


def test_logs_of_done_runs_are_not_read_and_their_records_tell_restarts(runs: Path) -> None:
    of = records.spec("roast", "0.1", 0)
    provenance = {**records.result(of)["provenance"], "restarts": 4}
    folder = records.put(runs, of, record=records.result(of, provenance=provenance))
    (folder / "log.txt").mkdir()  # cannot be read as a file
    assert report(runs)["rows"] == [{"run": name(folder, runs), "state": "done", "restarts": 4}]


# Batches, and what the scheduler says of their jobs


def submitted(
    runs: Path, jobs: dict[str, list[int]], executor: Any = "slurm", begin: str = "2026", **more: Any
) -> Batch:
    """A batch of jobs with the seeds of their runs."""
    folders = {job: tuple(folder_of(seed) for seed in seeds) for job, seeds in jobs.items()}
    batch = Batch(
        name=f"{begin}-abc",
        executor=executor,
        created=datetime.now(UTC),
        command="npasbench run mine.toml --executor slurm",
        jobs=tuple(Job(id=job, runs=own) for job, own in folders.items()),
        **{"host": socket.gethostname(), **more},
    )
    batch.write(runs)
    return batch


def folder_of(seed: int) -> str:
    of = records.spec("roast", "0.1", seed)
    return f"{CELL}/seed{seed}-{of['fingerprint'][:8]}"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Programs that answer as SLURM's, with the given lines; they note what they were asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(squeue: str = "", sacct: str = "") -> Path:
        for program, said in (("squeue", squeue), ("sacct", sacct)):
            (folder / program).write_text(
                f"#!/bin/sh\necho {program} \"$@\" >> {folder}/asked\ncat <<'END'\n{said}\nEND\n"
            )
            (folder / program).chmod(0o755)
        return folder / "asked"

    return answer


def test_runs_that_a_batch_planned_and_nobody_has_begun_wait(runs: Path, slurm: Any) -> None:
    slurm(squeue="12_0|PENDING|0|Priority|\n12_1|PENDING|0|Priority|")
    done(runs, 0)
    submitted(runs, {"12_0": [0, 1], "12_1": [2]})
    content = report(runs)
    assert content["states"] == {"done": 1, "waiting": 2}
    assert [row["run"] for row in content["rows"] if row["state"] == "waiting"] == sorted(map(folder_of, (1, 2)))
    code, said = call("status", str(runs))
    assert (code, "Jobs of open runs: 2 PENDING (Priority)." in said) == (0, True)


@pytest.mark.parametrize(
    ("sacct", "said"),
    [
        ("12_0|OUT_OF_MEMORY|0:125", "OUT_OF_MEMORY (signal 125), 2 open runs: ran out of memory: ask for more with --memory"),
        ("12_0|TIMEOUT|0:0", "TIMEOUT, 2 open runs: reached the time limit and did not requeue: run the same command again"),
        ("12_0|NODE_FAIL|0:0", "NODE_FAIL, 2 open runs: lost the node"),
        ("12_0|CANCELLED by 1000|0:0", "CANCELLED (by 1000), 2 open runs: was cancelled: run the same command again to go on"),
        ("12_0|FAILED|1:0", "FAILED (exit code 1), 2 open runs: see "),
        ("12_0|COMPLETED|0:0", "COMPLETED, 2 open runs: left runs of its share open"),
        ("", "UNKNOWN, 2 open runs: the scheduler does not know it any more"),
    ],
)  # fmt: skip
def test_a_job_that_ended_before_its_runs_is_named_with_advice(runs: Path, slurm: Any, sacct: str, said: str) -> None:
    slurm(sacct=sacct)
    begun(runs, 0, 3)
    batch = submitted(runs, {"12_0": [0, 1]})
    code, told = call("status", str(runs))
    assert code == 0
    assert f"job 12_0: {said}" in told
    assert batch.command in told
    if "FAILED" in sacct.split("|"):
        assert f"{batch.output(runs)}/12_0_0_log.err" in told


def test_jobs_that_ended_alike_are_told_together(runs: Path, slurm: Any) -> None:
    slurm(sacct="\n".join(f"12_{k}|OUT_OF_MEMORY|0:125" for k in range(6)))
    submitted(runs, {f"12_{k}": [k] for k in range(6)})
    assert (
        "jobs 12_0, 12_1, 12_2, 12_3 and 2 more: OUT_OF_MEMORY (signal 125), 6 open runs"
        in call("status", str(runs))[1]
    )
    (trouble,) = report(runs)["jobs"]["troubles"]
    assert (len(trouble["jobs"]), trouble["runs"]) == (6, 6)


def test_a_job_whose_runs_are_done_is_not_asked_about(runs: Path, slurm: Any) -> None:
    asked = slurm(sacct="12_0|OUT_OF_MEMORY|0:125")
    done(runs, 0)
    put(runs, 1, failure={"error": "a bug"})
    submitted(runs, {"12_0": [0, 1]})
    assert report(runs)["jobs"]["troubles"] == []
    assert not asked.exists()


def test_an_ended_job_is_no_trouble_where_its_runs_are_running_or_were_submitted_again(runs: Path, slurm: Any) -> None:
    slurm(squeue="20_0|RUNNING|1||", sacct="12_0|TIMEOUT|0:0\n12_1|TIMEOUT|0:0")
    Lease.claim(begun(runs, 0, 3) / "lease.json")
    submitted(runs, {"12_0": [0], "12_1": [1]})
    submitted(runs, {"20_0": [1]}, begin="2027")
    content = report(runs)["jobs"]
    assert content["troubles"] == []
    assert content["alive"] == {"RUNNING": 1}
    assert content["requeued"] == 1


def test_without_a_scheduler_the_run_directories_still_tell(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done(runs, 0)
    submitted(runs, {"12_0": [0, 1]})
    code, said = call("status", str(runs))
    assert (code, "2 runs: 1 done, 1 waiting." in said) == (0, True)
    assert "The scheduler could not be asked: " in said


def test_a_local_batch_whose_process_is_gone_is_named(runs: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    submitted(runs, {str(process.pid): [0], str(os.getpid()): [1]}, executor="local")
    submitted(runs, {"1234567": [2]}, executor="local", begin="2027", host="elsewhere")
    content = report(runs)["jobs"]
    assert content["alive"] == {"RUNNING": 1}
    assert [(one["state"], one["jobs"]) for one in content["troubles"]] == [("GONE", [str(process.pid)])]


# Watching


@pytest.fixture
def watching(runs: Path) -> Iterator[Any]:
    begun_: list[subprocess.Popen[str]] = []

    def start(**more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "npasbench", "status", "--watch", "0.2", str(runs)]
        process = subprocess.Popen(
            command, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **more
        )
        begun_.append(process)
        return process

    yield start
    for process in begun_:
        process.kill()
        process.wait()


def finish(folder: Path) -> None:
    of = records.spec("roast", "0.1", 0)
    (folder / "result.json").write_text(json.dumps(records.result(of)))


def test_watching_repeats_until_all_runs_ended(runs: Path, watching: Any) -> None:
    folder = begun(runs, 0, 3)
    process = watching(stdout=subprocess.PIPE)
    for _ in range(2 * 3):
        process.stdout.readline()
    finish(folder)
    rest, _ = process.communicate(timeout=30)
    assert rest.endswith("1 run: 1 done.\n")
    assert process.returncode == 0


def test_watching_ends_at_ctrl_c_without_a_word_too_many(runs: Path, watching: Any) -> None:
    begun(runs, 0, 3)
    process = watching(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")


def read_until(wanted: bytes, terminal: int) -> bytes:
    """What a terminal shows, to where this stands in it; an error at its end."""
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 4096)
    return seen


def test_watching_on_a_terminal_rewrites_one_screen(runs: Path, watching: Any) -> None:
    folder = begun(runs, 0, 3)
    ours, theirs = pty.openpty()
    process = watching(stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    before = read_until(b"1 interrupted", ours)
    finish(folder)
    seen = before + read_until(b"1 run: 1 done.", ours)
    process.wait(timeout=30)
    os.close(ours)
    assert b"\x1b[" in seen
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--watch", "0"], "'--watch 0' is no time to wait"),
        (["--watch", "nan"], "'--watch nan' is no time to wait"),
        (["--watch", "soon"], "'--watch soon' is no time to wait"),
        (["--watch", "1", "--json"], "leave out --watch"),
    ],
)
def test_wrong_times_get_a_sentence(runs: Path, words: list[str], said: str) -> None:
    code, told = call("status", str(runs), *words)
    assert (code, said in told) == (2, True)


def test_a_folder_after_watch_is_a_folder(runs: Path) -> None:
    done(runs, 0)
    assert call("status", "--watch", str(runs)) == call("status", str(runs))
    assert call("status", "--watch", "nowhere") == call("status", "nowhere")


# Leases of other machines


def held_elsewhere(folder: Path) -> Path:
    path = folder / "lease.json"
    path.write_text(json.dumps({"token": "t", "machine": "elsewhere", "pid": 1, "started": "1"}))
    return path


def test_the_file_systems_clock_is_asked_once_for_all_runs_that_are_held_elsewhere(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        held_elsewhere(begun(runs, seed, 1))
    stale = held_elsewhere(begun(runs, 5, 1))
    os.utime(stale, (1, 1))
    asked: list[Path] = []
    clock = leases._clock
    monkeypatch.setattr(leases, "_clocks", {})
    monkeypatch.setattr(leases, "_clock", lambda folder: asked.append(folder) or clock(folder))
    assert report(runs)["states"] == {"running": 5, "interrupted": 1}
    assert len(asked) == 1


def test_a_kept_clock_that_runs_ahead_takes_no_run_from_its_holder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = held_elsewhere(begun(runs, 0, 1))
    ahead = (time.time() + 2 * leases.STALE_AFTER, time.monotonic())
    monkeypatch.setattr(leases, "_clocks", {path.stat().st_dev: ahead})
    assert not Lease.is_held(path)
    assert Lease.claim(path) is None
    assert path.exists()


def test_a_fresh_lease_that_holds_nothing_yet_is_not_taken_for_the_stale_one_before_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder has created it and is about to write: so was the stale one's when it died."""
    path = runs / "lease.json"
    path.touch()
    os.utime(path, (1, 1))
    rename = Path.rename

    def others_are_quicker(old: Path, new: Path) -> Path:
        old.unlink()
        old.touch()
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", others_are_quicker)
    assert Lease.claim(path) is None
    assert path.exists()


def test_a_lease_that_is_given_back_meanwhile_is_never_moved(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it went aside and came back, its next holder could not give it back: it stayed for ever."""
    path = runs / "lease.json"
    create = leases._create
    path.touch()

    def given_back(wanted: Path) -> int | None:
        handle = create(wanted)
        if handle is None:
            wanted.unlink()
        return handle

    def refuse(old: Path, new: Path) -> Path:
        raise AssertionError(f"{old} was moved to {new}")

    monkeypatch.setattr(leases, "_create", given_back)
    monkeypatch.setattr(Path, "rename", refuse)
    mine = Lease.claim(path)
    assert mine is not None
    mine.release()
    assert not path.exists()


@pytest.mark.parametrize("command", ["status", "retry"])
def test_a_folder_that_is_not_that_of_all_runs_is_told_with_the_one_that_is(command: str, runs: Path) -> None:
    assert call(command, str(runs)) == (
        2,
        f"There is no run in {runs}. Name the folder of all runs, or start some with 'npasbench run'.",
    )
    folder = put(runs, 0)
    for part in [folder, *folder.parents[:3]]:
        assert call(command, str(part)) == (
            2,
            f"{part} is only a part of the folder of all runs. Name that: {runs.resolve()}",
        )
    code, said = call(command, str(runs.parent))
    assert (code, said.startswith(f"There is no run in {runs.parent}. Name {runs}, or start")) == (2, True)
    assert call(command, str(runs))[0] == 0
