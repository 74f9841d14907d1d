"""``npasbench logs``: which run is meant, what is shown of it and of its jobs, and how it is followed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from npasbench.cli import npasbench
from npasbench.cluster.batch import Batch, Job
from npasbench.commands import logs as logs_module
from npasbench.errors import NpasbenchError
from npasbench.running.rundir import RunDirectory

CELL = "digits15-wrn-10-1/roast/0.1"


def call(*words: str) -> tuple[int, str]:
    """One command in this process: exit code and everything it said."""
    try:
        result = CliRunner().invoke(npasbench, ["logs", *words], standalone_mode=False, catch_exceptions=False)
    except NpasbenchError as error:
        return error.exit_code, str(error)
    return result.exit_code, result.output


def begin(root: Path, name: str, *lines: str) -> RunDirectory:
    """A run directory as a worker leaves it, as far as logs look at it."""
    directory = RunDirectory(root / name)
    directory.path.mkdir(parents=True)
    directory.spec_file.write_text("{}", encoding="utf-8")
    for line in lines:
        directory.log(line)
    return directory


def fail(directory: RunDirectory) -> None:
    """Let a run have failed."""
    content = {
        "error": "Method 'roast' raised ValueError: no.",
        "traceback": "Traceback (most recent call last):\n  x\n",
    }
    directory.failure_file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs of one cell, in the folder where a user stands, and one of another."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    for name in (f"{CELL}/seed1-aaaaaaaa", f"{CELL}/seed10-bbbbbbbb", f"{CELL}/seed2-cccccccc"):
        begin(root, name, f"claimed by process 1 on here, of {name}")
    begin(root, "digits15-wrn-10-1/roast-tile-4/0.1/seed1-dddddddd", "claimed by process 1 on here, of the other")
    return root


# Which run is meant


@pytest.mark.parametrize(
    "given",
    [
        f"runs/{CELL}/seed2-cccccccc",
        f"runs/{CELL}/seed2-cccccccc/",
        f"./runs/{CELL}/seed2",
        f"{CELL}/seed2-cccccccc",
        "roast/0.1/seed2",
        "seed2",
        "cccc",
        "0.1/seed2-c",
    ],
)
def test_a_run_is_named_by_its_folder_or_any_part_that_is_its_own(runs: Path, given: str) -> None:
    code, said = call(given)
    assert code == 0
    assert said.endswith(f"of {CELL}/seed2-cccccccc\n")


def test_a_part_that_stands_for_whole_words_wins(runs: Path) -> None:
    assert call("roast/0.1/seed1")[1].endswith(f"of {CELL}/seed1-aaaaaaaa\n")


def test_a_folder_outside_the_folder_of_runs_can_be_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs / CELL / "seed10-bbbbbbbb")
    assert call(".")[1].endswith(f"of {CELL}/seed10-bbbbbbbb\n")


def test_an_ambiguous_part_names_the_runs(runs: Path) -> None:
    code, said = call("seed1")
    assert code == 2
    assert said.startswith("'seed1' is a part of 2 runs in runs: digits15-wrn-10-1/roast-tile-4/0.1/seed1-dddddddd, ")
    assert said.endswith("Name more of it.")


def test_an_unknown_run_names_the_nearest(runs: Path) -> None:
    code, said = call("roast/0.1/sed2")
    assert code == 2
    assert said.startswith(f"There is no run 'roast/0.1/sed2' in runs. The nearest: {CELL}/seed2-cccccccc, ")


def test_many_runs_are_not_all_named(runs: Path) -> None:
    for seed in range(20, 40):
        begin(runs, f"{CELL}/seed{seed}-{seed:08x}")
    assert call("roast")[1].endswith(" and 18 more. Name more of it.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["seed0", "--runs", "nowhere"], "There is no folder nowhere"),
        (["seed0", "--runs", "empty"], "There is no run in empty yet"),
        (["[a-z", "--runs", "runs"], "There is no run '[a-z' in runs"),
    ],
)
def test_wrong_input_ends_in_a_sentence(runs: Path, words: list[str], sentence: str) -> None:
    Path("empty").mkdir()
    code, said = call(*words)
    assert code == 2
    assert said.startswith(sentence)


# What is shown


def test_a_failed_run_shows_its_traceback_and_exits_1(runs: Path) -> None:
    fail(RunDirectory(runs / CELL / "seed2-cccccccc"))
    code, said = call("seed2")
    assert code == 1
    assert said.splitlines()[1:] == [
        "Method 'roast' raised ValueError: no.",
        "Traceback (most recent call last):",
        "  x",
    ]


def test_a_run_that_was_submitted_and_not_begun_is_said_so(runs: Path) -> None:
    batch(runs, "first", Job(id="100_0", runs=(f"{CELL}/seed3-eeeeeeee",)))
    code, said = call("seed3")
    assert code == 1
    assert said.startswith(f"Nobody has begun {CELL}/seed3-eeeeeeee yet.")


def batch(root: Path, name: str, *jobs: Job) -> Batch:
    """A batch beside the runs."""
    made = Batch(
        name=name, executor="slurm", created=datetime.now(UTC), host="here", command="npasbench run", jobs=jobs
    )
    made.write(root)
    made.output(root).mkdir()
    return made


def test_the_output_of_the_jobs_that_a_run_was_submitted_for_and_that_claimed_it_is_shown(runs: Path) -> None:
    name = f"{CELL}/seed2-cccccccc"
    jobs = (Job(id="100_0", runs=(name,)), Job(id="100_1", runs=("another",)), Job(id="100_2", runs=("third",)))
    output = batch(runs, "first", *jobs).output(runs)
    RunDirectory(runs / name).log("claimed by process 7 on node3, job 100_2")
    for job in jobs:
        (output / f"{job.id}_0_log.out").write_text(f"out of {job.id}\n", encoding="utf-8")
    (output / "100_2_0_log.err").write_bytes(b"error of 100_2 \xff\nhalf a li")
    code, said = call("seed2", "--job")
    assert code == 0
    assert said.splitlines() == [
        f"==> {output.relative_to(runs.parent)}/100_0_0_log.out",
        "out of 100_0",
        f"==> {output.relative_to(runs.parent)}/100_2_0_log.out",
        "out of 100_2",
        f"==> {output.relative_to(runs.parent)}/100_2_0_log.err",
        "error of 100_2 \N{REPLACEMENT CHARACTER}",
        "half a li",
    ]


def test_a_run_that_no_job_worked_on_is_said_so(runs: Path) -> None:
    code, said = call("seed2", "--job")
    assert code == 1
    assert said.startswith(f"No job has printed anything about {CELL}/seed2-cccccccc yet")


# Following


def test_following_shows_new_lines_and_epochs_until_the_run_ends(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(runs / CELL / "seed2-cccccccc")
    row(directory, 1, 10)
    steps = iter(
        [
            lambda: row(directory, 2, 20),
            lambda: (directory.metrics_file.unlink(), row(directory, 1, 10), directory.log("goes on from step 10")),
            lambda: row(directory, 2, 20, loss=float("nan")),
            lambda: (directory.metrics_file.open("a").write('{"epoch": 3, "st'), fail(directory)),
            lambda: directory.log("failed: no"),
        ]
    )
    monkeypatch.setattr(logs_module.time, "sleep", lambda _: next(steps)())
    code, said = call("seed2", "-f")
    assert code == 1
    assert [line.partition("+00:00 ")[2] or line for line in said.splitlines()] == [
        f"claimed by process 1 on here, of {CELL}/seed2-cccccccc",
        "epoch 2    step 20      loss 0.5000   lr 0.1       1.5 s",
        "goes on from step 10",
        "epoch 2    step 20      loss nan      lr 0.1       1.5 s",
        "failed: no",
        "Method 'roast' raised ValueError: no.",
        "Traceback (most recent call last):",
        "  x",
    ]


def row(directory: RunDirectory, epoch: int, step: int, loss: float = 0.5) -> None:
    """One more epoch."""
    with directory.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, "step": step, "loss": loss, "lr": 0.1, "seconds": 1.5}) + "\n")


def test_the_last_epochs_come_before_how_the_run_ended(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(runs / CELL / "seed2-cccccccc")
    steps = iter([lambda: (row(directory, 1, 10), fail(directory), directory.log("failed: no")), lambda: None])
    monkeypatch.setattr(logs_module.time, "sleep", lambda _: next(steps)())
    _, said = call("seed2", "-f")
    assert said.index("epoch 1") < said.index("failed: no")


def test_ctrl_c_ends_following_quietly(runs: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "npasbench", "logs", "seed2", "-f"],
        cwd=runs.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # whatever these tests ignore
    )
    assert process.stdout is not None
    assert "claimed by process" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=20)
    assert (process.returncode, said, complained) == (0, "", "")


def test_following_waits_for_a_run_that_nobody_has_begun(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{CELL}/seed3-eeeeeeee"
    batch(runs, "first", Job(id="100_0", runs=(name,)))
    steps = iter([lambda: begin(runs, name, "claimed at last"), lambda: fail(RunDirectory(runs / name)), lambda: None])
    monkeypatch.setattr(logs_module.time, "sleep", lambda _: next(steps)())
    code, said = call("seed3", "-f")
    assert code == 1
    assert "claimed at last" in said
