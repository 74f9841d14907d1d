"""What runs in a job and in the background: shares, leftovers, the code as submitted, being told to stop."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from npasbench.card import Entry
from npasbench.cli import npasbench
from npasbench.cluster import snapshot
from npasbench.cluster.batch import find_batches
from npasbench.cluster.job import WorkerJob
from npasbench.errors import UsageError
from npasbench.plan import RunSpec, plan_entry
from npasbench.registry import Registry
from npasbench.running.lease import STALE_AFTER, Lease
from npasbench.running.leftovers import left_by_others, wait_for_holders
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work

PLUGIN = '''
import os
from pathlib import Path
from npasbench.baselines.narrow import Narrow

class Noted(Narrow):
    """Writes down which process built it."""
    name = "noted"

    def build(self, problem, findings, rng):
        with open(Path(__file__).with_suffix(".pids"), "a") as file:
            file.write(f"{os.getpid()}\\n")
        return super().build(problem, findings, rng)
'''


@pytest.fixture
def specs(small_card: Callable[[int], Path]) -> list[RunSpec]:
    return plan_entry(
        str(small_card(2)), Entry(label="narrow", method="narrow"), Registry(), budgets=["0.5"], seeds=range(3)
    )


def begin(root: Path, spec: RunSpec) -> RunDirectory:
    directory = RunDirectory.of(root, spec)
    directory.create(spec)
    directory.log("claimed by process 1 on elsewhere")
    return directory


def held_elsewhere(directory: RunDirectory, age: float) -> Path:
    """The lease of a worker on another machine whose last sign of life is so many seconds old."""
    directory.lease_file.write_text(json.dumps({"token": "t", "machine": "other", "pid": 1, "started": "1"}))
    when = time.time() - age
    os.utime(directory.lease_file, (when, when))
    return directory.lease_file


def wait_until(true: Callable[[], bool], what: str, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.2)


def test_only_what_was_begun_and_left_is_taken_over(specs: list[RunSpec], tmp_path: Path) -> None:
    left, held, untouched = specs
    begin(tmp_path, left)
    lease = Lease.claim(begin(tmp_path, held).lease_file)
    assert lease is not None
    assert list(left_by_others(specs, tmp_path)) == [left]
    lease.release()
    held_elsewhere(RunDirectory.of(tmp_path, left), STALE_AFTER + 5)
    assert list(left_by_others(specs, tmp_path)) == [left, held]
    RunDirectory.of(tmp_path, left).fail("it broke", "")
    assert list(left_by_others(specs, tmp_path)) == [held]
    assert untouched not in left_by_others(specs, tmp_path)


def test_a_holder_that_gives_a_sign_of_life_is_left_alone(specs: list[RunSpec], tmp_path: Path) -> None:
    lease = held_elsewhere(begin(tmp_path, specs[0]), 5)
    threading.Timer(3, lambda: os.utime(lease)).start()
    begun = time.monotonic()
    directories = [RunDirectory.of(tmp_path, spec) for spec in specs[1:]]
    for directory, spec in zip(directories, specs[1:], strict=True):
        directory.create(spec)
        directory.fail("done with", "")
    assert not wait_for_holders(specs, tmp_path, lambda: False)
    assert 2 < time.monotonic() - begun < 10


def test_a_holder_that_is_gone_is_waited_for_until_its_lease_is_stale(specs: list[RunSpec], tmp_path: Path) -> None:
    held_elsewhere(begin(tmp_path, specs[0]), STALE_AFTER - 4)
    begun = time.monotonic()
    assert wait_for_holders(specs[:1], tmp_path, lambda: False)
    assert 3 < time.monotonic() - begun < 12


def test_waiting_ends_when_it_is_time_to_stop(specs: list[RunSpec], tmp_path: Path) -> None:
    held_elsewhere(begin(tmp_path, specs[0]), 0)
    begun = time.monotonic()
    wait_for_holders(specs[:1], tmp_path, lambda: time.monotonic() - begun > 1)
    assert time.monotonic() - begun < 5


def job(tmp_path: Path, **changes: object) -> WorkerJob:
    given = {
        "root": str(tmp_path),
        "specs": str(tmp_path / "specs.jsonl"),
        "first": 0,
        "last": 1,
        "workers": 1,
        "processes": 1,
        "gpus": 0,
        "device": None,
        "checkpoint_seconds": 30.0,
        "data_root": None,
        "sources": {},
    }
    return WorkerJob(**{**given, **changes})  # type: ignore[arg-type]


def test_a_job_is_pickled_as_plain_values(tmp_path: Path) -> None:
    one = job(tmp_path)
    one._pool = threading.Lock()  # type: ignore[assignment] # what cannot be pickled
    assert pickle.loads(pickle.dumps(one)) == job(tmp_path)


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(specs: list[RunSpec], tmp_path: Path) -> None:
    (tmp_path / "specs.jsonl").write_text(json.dumps(specs[0].as_json()))
    one = job(tmp_path)
    one._pool, one._before = None, one._written()
    assert [one.checkpoint() is None for _ in range(5)] == [False] * 4 + [True]
    directory = begin(tmp_path, specs[0])
    directory.checkpoint_file.write_bytes(b"")
    assert one.checkpoint() is not None
    assert one.barren == 0


def test_gpus_that_torch_cannot_use_are_a_sentence(specs: list[RunSpec], tmp_path: Path) -> None:
    (tmp_path / "specs.jsonl").write_text(json.dumps(specs[0].as_json()))
    with pytest.raises(UsageError, match="This job has 99 GPUs, but torch"):
        job(tmp_path, gpus=99)._devices()
    assert job(tmp_path, gpus=99, device="cpu")._devices() == ("cpu",)


def test_the_copy_of_the_code_is_what_is_imported(tmp_path: Path) -> None:
    snapshot.take(tmp_path / "code")
    asks = (
        "import npasbench, npasbench.baselines.narrow, npasbench.tasks, npasbench.leaderboard.store, json;"
        "from npasbench.running.commit import commit; from npasbench.registry import Registry;"
        "print(json.dumps([npasbench.__file__, npasbench.baselines.narrow.__file__, npasbench.leaderboard.store.__file__,"
        "Registry().method('narrow').__module__, commit()]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True)
    *files, module, commit = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(tmp_path / "code") for file in files)
    assert module == "npasbench.baselines.narrow"
    assert commit == json.loads((tmp_path / "code" / "commit.json").read_text())
    assert not list((tmp_path / "code").rglob("__pycache__/*.pyc")) or files


def test_a_plugin_that_has_changed_since_is_refused(small_card: Callable[[int], Path], tmp_path: Path) -> None:
    plugin = tmp_path / "noted.py"
    plugin.write_text(PLUGIN)
    registry = Registry([str(plugin)])
    specs = plan_entry(str(small_card(2)), Entry(label="noted", method="noted"), registry, budgets=["0.5"], seeds=[0])
    submitted = snapshot.sources(specs)
    assert set(submitted) == {"noted"}
    snapshot.check_sources(specs, submitted)
    plugin.write_text(PLUGIN + "# changed\n")
    with pytest.raises(UsageError, match="The source of method 'noted' has changed since these jobs were submitted"):
        snapshot.check_sources(specs, submitted)


def test_a_worker_looks_at_the_plugin_that_it_imported(small_card: Callable[[int], Path], tmp_path: Path) -> None:
    plugin = tmp_path / "noted.py"
    plugin.write_text(PLUGIN)
    registry = Registry([str(plugin)])
    specs = plan_entry(str(small_card(2)), Entry(label="noted", method="noted"), registry, budgets=["0.5"], seeds=[0])
    told: list[dict[str, object]] = []
    work(specs, tmp_path / "runs", Options(sources={"noted": "of another text"}), Ways(told.append))
    assert [event["state"] for event in told] == ["blocked"]
    assert "has changed since these jobs were submitted" in str(told[0]["reason"])
    assert not RunDirectory.of(tmp_path / "runs", specs[0]).path.exists()


def test_a_job_that_imports_other_code_than_was_submitted_does_nothing(specs: list[RunSpec], tmp_path: Path) -> None:
    (tmp_path / "specs.jsonl").write_text(json.dumps(specs[0].as_json()))
    with pytest.raises(RuntimeError, match="This job imports npasbench from elsewhere"):
        job(tmp_path)()


def test_debug_works_in_this_very_process(small_card: Callable[[int], Path], tmp_path: Path) -> None:
    plugin = tmp_path / "noted.py"
    plugin.write_text(PLUGIN)
    words = ["run", str(small_card(2)), "--method", "noted", "--plugin", str(plugin), "--budget", "0.5", "--seeds", "0"]
    result = CliRunner().invoke(npasbench, [*words, "--runs", str(tmp_path / "runs"), "--executor", "debug"])
    assert result.exit_code == 0, result.output
    assert "1 run: 1 done." in result.output
    pids = plugin.with_suffix(".pids").read_text().split()
    assert pids[0] == str(os.getpid())
    assert len(set(pids)) == 2, "the certificate is another process's"


def test_local_works_in_the_background_and_outlives_its_command(
    small_card: Callable[[int], Path], tmp_path: Path
) -> None:
    words = ["run", str(small_card(2)), "--method", "narrow", "--budget", "0.5", "--seeds", "0-1"]
    command = [sys.executable, "-m", "npasbench", *words, "--runs", "runs", "--executor", "local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "works in the background" in done.stdout
    runs = tmp_path / "runs"
    wait_until(lambda: len(list(runs.glob("*/*/*/*/result.json"))) == 2, "the runs were not done")
    (batch,) = find_batches(runs)
    log = next(runs.glob("*/*/*/*/log.txt")).read_text()
    assert f", job {batch.jobs[0].id}" in log
    assert "nothing is left" not in log


def test_a_background_batch_can_be_cancelled_and_goes_on(small_card: Callable[[int], Path], tmp_path: Path) -> None:
    words = ["run", str(small_card(400)), "--method", "narrow", "--budget", "0.5", "--seeds", "0"]
    words += ["--runs", str(tmp_path / "runs"), "--checkpoint-seconds", "1"]
    command = [sys.executable, "-m", "npasbench", *words, "--executor", "local"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    runs = tmp_path / "runs"
    wait_until(lambda: bool(list(runs.glob("*/*/*/*/checkpoint.pt"))), "no checkpoint was written")
    result = CliRunner().invoke(npasbench, ["cancel", str(runs)])
    assert result.output == "1 job told to end.\n"
    (lease,) = (path.parent / "lease.json" for path in runs.glob("*/*/*/*/spec.json"))
    wait_until(lambda: not lease.exists(), "the worker did not leave")
    directory = RunDirectory(lease.parent)
    assert directory.state() == "interrupted"
    wait_until(
        lambda: "No job is waiting" in CliRunner().invoke(npasbench, ["cancel", str(runs)]).output,
        "the job did not end",
    )
    assert "told to end" not in CliRunner().invoke(npasbench, ["cancel", str(runs)]).output
