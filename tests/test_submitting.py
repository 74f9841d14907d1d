"""Submitting to a SLURM that is played by small programs: the exact sbatch files, chunking, refusals, what is kept."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_slurm import FakeSlurm

from npasbench.amounts import memory, minutes
from npasbench.cli import npasbench
from npasbench.cluster.batch import find_batches, read_batch
from npasbench.cluster.profile import read_profile
from npasbench.cluster.submitting import _caps
from npasbench.errors import CardError, NpasbenchError, RunError, UsageError

GOLDEN = Path(__file__).parent / "data" / "sbatch"
TASK = ("run", "digits15-wrn-10-1", "--method", "narrow", "--budget", "0.5")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr("npasbench.cluster.snapshot._ROOMS", ("npasbench.tasks",))  # the copy has a test of its own
    return FakeSlurm.on_path(tmp_path / "slurm", monkeypatch)


def call(*words: str) -> Result:
    return CliRunner().invoke(npasbench, list(words))


def submit(tmp_path: Path, *words: str, task: tuple[str, ...] = TASK) -> Result:
    return call(*task, "--runs", str(tmp_path / "runs"), "--executor", "slurm", *words)


def sentence(result: Result) -> str:
    assert isinstance(result.exception, NpasbenchError), result.output
    return str(result.exception)


def profile(tmp_path: Path, text: str) -> tuple[str, str]:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return "--profile", str(path)


def normal(script: str, tmp_path: Path) -> str:
    script = re.sub(re.escape(str(tmp_path)) + r"/runs/\.batches/[^/]+", "BATCH", script)
    return script.replace(sys.executable, "PYTHON")


FULL = """\
[slurm]
partition = "gpu"
account = "vision"
qos = "long"
constraint = "a100|h100"
time = "4h"
cpus = 8
memory = "32G"
gpus = 2
runs-per-job = 3
jobs-at-once = 2
setup = ["module load cuda/12.4", "source ~/env.sh"]
mail-type = "FAIL"
nice = 100
exclusive = true
"""
PROFILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "nothing-asked": ("", ("--seeds", "0-2")),
    "everything-asked": (FULL, ("--seeds", "0-8")),
    "command-line-first": (FULL, ("--seeds", "0-8", "--time", "90m", "--partition", "small", "--sbatch", "nice=5")),
    "one-job": ("", ("--seeds", "0", "--time", "1m", "--sbatch", "exclude=node[3-4]", "--sbatch", "wckey=me")),
    "two-gpus-a-run": (
        '[slurm]\ngpus = 4\nmemory = "64G"\nruns-per-job = 6\n',
        ("--seeds", "0-8", "--gpus-per-run", "2"),
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_sbatch_file_is_exactly_this(name: str, slurm: FakeSlurm, tmp_path: Path) -> None:
    text, words = PROFILES[name]
    task = ("run", "digits15-transformer", *TASK[2:]) if "--gpus-per-run" in words else TASK
    result = submit(tmp_path, *(profile(tmp_path, text) if text else ()), *words, task=task)
    assert result.exit_code == 0, result.output
    (submission,) = slurm.submitted
    found = normal(submission.script, tmp_path)
    kept = GOLDEN / f"{name}.sh"
    assert found == kept.read_text(), f"{kept} differs; if that is meant, write this into it:\n{found}"


def test_an_array_is_cut_where_the_cluster_says(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.config["MaxArraySize"] = 4
    result = submit(tmp_path, "--seeds", "0-9", "--jobs-at-once", "5")
    assert result.exit_code == 0, result.output
    assert [one.options["array"] for one in slurm.submitted] == ["0-3%2", "0-3%2", "0-1%1"]
    assert "101 (4 jobs), 102 (4 jobs), 103 (2 jobs)" in result.output
    (batch,) = find_batches(tmp_path / "runs")
    assert [job.id for job in batch.jobs][3:5] == ["101_3", "102_0"]
    lines = batch.specs(tmp_path / "runs").read_text().splitlines()
    assert [f"seed{json.loads(line)['seed']}-" for line in lines] == [
        job.runs[0].rsplit("/", 1)[1].partition("-")[0] + "-" for job in batch.jobs
    ]
    assert sorted(seed for job in batch.jobs for seed in job.runs) == sorted(
        {run for job in batch.jobs for run in job.runs}
    )


def test_a_last_array_of_one_is_a_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.config["MaxArraySize"] = 2
    assert submit(tmp_path, "--seeds", "0-2").exit_code == 0
    assert "array" not in slurm.submitted[1].options
    assert [job.id for job in find_batches(tmp_path / "runs")[0].jobs] == ["101_0", "101_1", "102"]


def test_runs_that_need_other_things_go_into_other_arrays(slurm: FakeSlurm, tmp_path: Path) -> None:
    result = submit(tmp_path, task=("run", "quickstart", "--seeds", "0"))
    assert result.exit_code == 0, result.output
    times = {one.options["time"] for one in slurm.submitted}
    assert len(times) == len(slurm.submitted)
    before = len(slurm.submitted)
    assert submit(tmp_path, "--time", "1h", task=("run", "quickstart", "--seeds", "0")).exit_code == 0
    assert len(slurm.submitted) == before + 1


def test_no_wckey_unless_it_is_asked_for(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, "--seeds", "0")
    submit(tmp_path, "--seeds", "1", "--sbatch", "wckey=mine")
    assert "wckey" not in slurm.submitted[0].options
    assert slurm.submitted[1].options["wckey"] == "mine"


def test_what_sbatch_refuses_is_said_and_what_was_submitted_before_is_kept(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("sbatch", code=1, err="sbatch: error: invalid partition specified: gpuu\n", out="")
    said = sentence(submit(tmp_path, "--seeds", "0-2"))
    assert said == "SLURM did not take the jobs: sbatch: error: invalid partition specified: gpuu."
    (batch,) = find_batches(tmp_path / "runs")
    assert batch.jobs == ()


def test_an_answer_of_sbatch_without_an_id_is_a_sentence(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("sbatch", out="welcome to the cluster\n")
    assert "welcome to the cluster" in sentence(submit(tmp_path, "--seeds", "0"))


def test_without_slurm_it_says_what_to_do(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.remove("sbatch")
    said = sentence(submit(tmp_path, "--seeds", "0"))
    assert "--executor local" in said
    assert not (tmp_path / "runs").exists()


def test_without_an_answer_about_arrays_one_is_submitted(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("scontrol", code=1, err="scontrol: error: down", out="")
    assert submit(tmp_path, "--seeds", "0-4").exit_code == 0
    assert [one.options["array"] for one in slurm.submitted] == ["0-4%5"]


def test_nothing_is_submitted_where_all_is_done(slurm: FakeSlurm, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    submit(tmp_path, "--seeds", "0")
    folder = runs / find_batches(runs)[0].jobs[0].runs[0]
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text("{}")
    result = submit(tmp_path, "--seeds", "0")
    assert "0 to do, 1 failed earlier" in result.output.replace(". ", ", ")
    assert len(slurm.submitted) == 1


def test_cancel_ends_what_is_in_the_queue(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, "--seeds", "0-2")
    slurm.queue["101_0"] = "RUNNING"
    result = call("cancel", str(tmp_path / "runs"))
    assert "3 jobs told to end" in result.output
    assert not slurm.queue
    assert "No job is waiting or running" in call("cancel", str(tmp_path / "runs")).output


def test_cancel_of_an_unknown_batch_names_the_batches(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, "--seeds", "0")
    (batch,) = find_batches(tmp_path / "runs")
    said = sentence(call("cancel", str(tmp_path / "runs"), "--batch", batch.name[:-1]))
    assert f"Did you mean '{batch.name}'?" in said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--time", "soon"), "'time': 'soon' is not a time"),
        (("--memory", "lots"), "'memory': 'lots' is not an amount of memory"),
        (("--sbatch", "time-min=1", "--sbatch", "time-min=2"), "given once"),
        (("--sbatch", "array=1-3"), "runs-per-job and jobs-at-once decide it"),
        (("--sbatch", "mem=3G"), "Write 'memory' for it"),
        (("--sbatch", "a b=3"), "cannot be an option of sbatch"),
        (("--device", "cuda"), "--device cuda needs a job with a GPU. Ask for --gpus 1"),
        (("--gpus-per-run", "4"), "Set norm_images = 12 in the [recipe] of a card of your own"),
        (("--profile", "nowhere.toml"), "nowhere.toml cannot be read"),
    ],
)
def test_wrong_options_get_a_sentence(words: tuple[str, ...], part: str, slurm: FakeSlurm, tmp_path: Path) -> None:
    result = submit(tmp_path, "--seeds", "0", *words)
    assert part in sentence(result)
    assert isinstance(result.exception, UsageError)
    assert slurm.submitted == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("slurm = 3", "has no table [slurm]"),
        ("[slurmm]\n", "Unknown table or key 'slurmm'. Did you mean 'slurm'?"),
        ("[slurm\n", "is not TOML"),
        ("[slurm]\ntime = 'x'", "'time': 'x' is not a time"),
        ("[slurm]\ncpus = 'many'", "'cpus' was given 'many'"),
        ("[slurm]\nsetup = 'module load x'", "'setup' was given 'module load x': write a list of shell lines"),
        ("[slurm]\ngpus_per_run = 2", "Give it to npasbench run: --gpus-per-run"),
        ("[slurm]\nnice = false", "Give a text, a number or true"),
        ("[slurm]\nsignal = 'USR1'", "sets the sbatch option 'signal'"),
        ('[slurm]\nother = "a\\nb"', "Give a text, a number or true"),
    ],
)
def test_a_wrong_profile_is_named(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(part)) as caught:
        read_profile(path, {})
    assert str(path) in str(caught.value)


def test_a_run_that_does_not_fit_into_a_job_is_refused(slurm: FakeSlurm, tmp_path: Path) -> None:
    task = ("run", "digits15-transformer", "--method", "narrow", "--budget", "0.5", "--seeds", "0")
    result = submit(tmp_path, "--gpus-per-run", "4", "--gpus", "2", task=task)
    assert "Ask for --gpus 4" in sentence(result)
    assert submit(tmp_path, "--gpus-per-run", "4", "--gpus", "4", task=task).exit_code == 0


def test_a_folder_that_slurm_would_rename_is_refused(slurm: FakeSlurm, tmp_path: Path) -> None:
    result = call(*TASK, "--seeds", "0", "--runs", str(tmp_path / "r %j"), "--executor", "slurm")
    assert "SLURM replaces '%'" in sentence(result)


def test_an_option_without_a_value_is_given_as_true(slurm: FakeSlurm, tmp_path: Path) -> None:
    assert submit(tmp_path, "--seeds", "0", "--sbatch", "hold=true", "--sbatch", "exclusive").exit_code == 0
    assert slurm.submitted[0].options["hold"] == slurm.submitted[0].options["exclusive"] == ""


def test_options_are_read_even_where_nothing_is_to_do(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, "--seeds", "0")
    folder = tmp_path / "runs" / find_batches(tmp_path / "runs")[0].jobs[0].runs[0]
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text("{}")
    assert "'soon' is not a time" in sentence(submit(tmp_path, "--seeds", "0", "--time", "soon"))


def test_a_debugger_has_one_process(tmp_path: Path) -> None:
    words = ("--runs", str(tmp_path / "runs"), "--executor", "debug", "--gpus-per-run", "2")
    assert "--executor debug works in one process" in sentence(call(*TASK, *words))


def test_options_for_slurm_need_slurm(tmp_path: Path) -> None:
    said = sentence(call(*TASK, "--runs", str(tmp_path / "runs"), "--partition", "gpu"))
    assert said == "--partition is asked of SLURM: give it with --executor slurm."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("30m", 30),
        ("4h", 240),
        ("1h30m", 90),
        ("2d", 2880),
        (45, 45),
        ("45", 45),
        ("1-12:00:00", 2160),
        ("00:00:30", 1),
    ],
)
def test_times(given: Any, expected: int) -> None:
    assert minutes(given) == expected


@pytest.mark.parametrize("given", ["", "4 h", "-3m", "1:30", "h", "3.5h", None])
def test_no_times(given: Any) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        minutes(given)


@pytest.mark.parametrize(("given", "expected"), [("16G", "16G"), ("500M", "500M"), ("16GB", "16G")])
def test_memory(given: str, expected: str) -> None:
    assert memory(given) == expected


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([3], 9, [3]),
        ([9, 3], 2, [1, 1]),
        ([9, 9, 2], 10, [5, 4, 1]),
        ([4, 4, 2], 5, [2, 2, 1]),
        ([1, 1, 1], 2, [1, 1, 1]),
    ],
)
def test_the_cap_is_shared_out_among_arrays(lengths: list[int], most: int, expected: list[int]) -> None:
    assert _caps(lengths, most) == expected


def test_a_broken_batch_is_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / ".batches" / "b"
    folder.mkdir(parents=True)
    (folder / "batch.json").write_text('{"name": 3')
    with pytest.raises(RunError, match="cannot be read"):
        read_batch(folder / "batch.json")
    assert find_batches(tmp_path) == []


def test_a_profile_error_is_one_of_a_card(tmp_path: Path) -> None:
    with pytest.raises(CardError):
        read_profile(tmp_path / "none.toml", {})
