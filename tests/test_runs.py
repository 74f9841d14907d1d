"""Run directories, leases and workers: no run is done twice, a failing run stops no other, nothing written is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from npasbench.card import Entry
from npasbench.errors import LeaseLost, RunError, WriteError
from npasbench.plan import RunSpec, plan_entry
from npasbench.registry import Registry
from npasbench.running import lease as leases
from npasbench.running import record
from npasbench.running.certify import certify
from npasbench.running.dispatch import Pool
from npasbench.running.files import atomic, publish
from npasbench.running.lease import Lease
from npasbench.running.rundir import RunDirectory, find_runs
from npasbench.running.worker import Options, Ways, work


@pytest.fixture
def plan(small_card: Callable[..., Path]) -> Callable[..., list[RunSpec]]:
    def make(
        method: str, budget: str = "0.1", seeds: tuple[int, ...] = (0,), plugins: tuple[str, ...] = ()
    ) -> list[RunSpec]:
        return plan_entry(
            str(small_card(2)), Entry(label=method, method=method), Registry(plugins), budgets=[budget], seeds=seeds
        )

    return make


def do(specs: list[RunSpec], root: Path, should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    with_certificate = lambda directory: certify(directory, torch.device("cpu"))  # noqa: E731
    work(specs, root, Options(), Ways(events.append, should_stop, with_certificate))
    return events


def ends(events: list[dict[str, Any]]) -> list[str]:
    return [event["state"] for event in events if event["state"] not in ("started", "running")]


def test_a_done_run_holds_everything_that_a_reader_asks_for(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    (spec,) = plan("roast")
    assert ends(do([spec], tmp_path)) == ["done"]
    directory = RunDirectory.of(tmp_path, spec)
    assert sorted(path.name for path in directory.path.iterdir()) == [
        "correct.npy",
        "log.txt",
        "metrics.jsonl",
        "model.safetensors",
        "result.json",
        "spec.json",
    ]
    content = json.loads(directory.result_file.read_text())
    wanted = "schema task task_fingerprint label method method_version knobs seed budget budget_parameters parameters"
    assert {*wanted.split(), "metrics", "costs", "provenance"} <= set(content)
    result = record.read(directory.result_file)
    assert result.parameters["total"] <= result.budget_parameters
    assert sum(n for kind, n in result.parameters.items() if kind != "total") == result.parameters["total"]
    assert result.certificate is not None
    assert result.certificate.passed
    assert result.certificate.floats == result.parameters["total"]
    assert result.effective_parameters == result.parameters["total"] - result.certificate.dead
    assert set(result.metrics) == {"accuracy", "nll", "ece"}
    assert result.test_examples == 1647
    assert {"macs", "step_seconds", "generation_seconds", "peak_memory_bytes", "train_seconds"} <= set(result.costs)
    assert directory.spec() == spec


def test_the_packed_bits_agree_with_the_accuracy(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    import numpy as np

    (spec,) = plan("dense", "1")
    do([spec], tmp_path)
    directory = RunDirectory.of(tmp_path, spec)
    result = record.read(directory.result_file)
    bits = np.unpackbits(np.load(directory.correct_file), count=result.test_examples)
    assert bits.mean() == pytest.approx(result.metrics["accuracy"], abs=1e-12)


def test_what_a_killed_worker_was_writing_is_removed_by_the_next(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (spec,) = plan("roast")
    folder = RunDirectory.of(tmp_path, spec).path
    folder.mkdir(parents=True)
    left = [".stage-search.new", ".checkpoint.pt", ".model.safetensors"]
    others = [".lease.json", ".spec.json"]
    for name in [*left, *others]:
        (folder / f"{name}.{'0a' * 16}").write_bytes(b"half")
    (folder / ".nfs0001").touch()
    assert ends(do([spec], tmp_path)) == ["done"]
    hidden = {path.name.removesuffix(f".{'0a' * 16}") for path in folder.iterdir() if path.name.startswith(".")}
    assert hidden == {*others, ".nfs0001"}


def test_what_is_done_is_not_done_again(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    specs = plan("dense", "1")
    do(specs, tmp_path)
    before = RunDirectory.of(tmp_path, specs[0]).result_file.stat().st_mtime_ns
    assert do(specs, tmp_path) == []
    assert RunDirectory.of(tmp_path, specs[0]).result_file.stat().st_mtime_ns == before


def test_a_budget_too_small_is_refused_with_the_smallest_one(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (spec,) = plan("naive")
    assert ends(do([spec], tmp_path)) == ["refused"]
    result = record.read(RunDirectory.of(tmp_path, spec).result_file)
    assert result.smallest == 75_258
    assert "75,258" in result.reason
    assert not result.metrics


def test_a_method_without_business_is_skipped_with_its_reason(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (spec,) = plan("shallow")
    do([spec], tmp_path)
    result = record.read(RunDirectory.of(tmp_path, spec).result_file)
    assert (result.state, result.reason) == ("skipped", "wrn-10-1 cannot get shallower")


BROKEN = """
from npasbench.baselines.roast import Roast
class Broken(Roast):
    def after_step(self, network, progress):
        if progress.step == 2:
            raise ValueError("a bug of the plugin")
"""


def test_a_failing_run_stops_no_other_and_keeps_its_traceback(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    specs = [*plan("broken", plugins=(str(plugin),)), *plan("roast")]
    assert ends(do(specs, tmp_path / "runs")) == ["failed", "done"]
    failure = RunDirectory.of(tmp_path / "runs", specs[0]).failure()
    assert failure["error"] == "Method 'broken' raised ValueError: a bug of the plugin in broken.py:6 (after_step)."
    assert "Traceback" in failure["traceback"]
    assert do(specs, tmp_path / "runs") == []


MISFIT = """
import torch
from npasbench.baselines.roast import Roast
class Misfit(Roast):
    def after_step(self, network, progress):
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3)})
"""


def test_an_error_of_torch_is_told_in_one_line_at_the_line_of_the_method_that_led_to_it(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    plugin = tmp_path / "misfit.py"
    plugin.write_text(MISFIT)
    (spec,) = plan("misfit", plugins=(str(plugin),))
    assert ends(do([spec], tmp_path)) == ["failed"]
    failure = RunDirectory.of(tmp_path, spec).failure()
    assert failure["error"] == (
        "Method 'misfit' raised RuntimeError: Error(s) in loading state_dict for Linear in misfit.py:6 (after_step)."
    )
    assert 'Missing key(s) in state_dict: "bias"' in failure["traceback"]


STUBBORN = """
from npasbench.baselines.roast import Roast
class Stubborn(Roast):
    def generator(self, layers, parameters, rng):
        return super().generator(layers, 40_000, rng)
"""


def test_a_method_that_builds_the_same_whatever_its_budget_fails_and_is_not_refused(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    plugin = tmp_path / "stubborn.py"
    plugin.write_text(STUBBORN)
    (spec,) = plan("stubborn", plugins=(str(plugin),))
    assert ends(do([spec], tmp_path)) == ["failed"]
    assert (
        "stubborn was given a budget of 7,756 parameters and built"
        in RunDirectory.of(tmp_path, spec).failure()["error"]
    )


PRUNES_LATE = """
from npasbench.api import *
class Late(Method):
    '''Promises the budget and does not keep it.'''
    def build(self, problem, findings, rng):
        return problem.create()
    def final_count(self, network):
        return 1
"""


def test_what_is_over_its_budget_at_the_end_says_so(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    plugin = tmp_path / "late.py"
    plugin.write_text(PRUNES_LATE)
    (spec,) = plan("late", plugins=(str(plugin),))
    assert ends(do([spec], tmp_path)) == ["over-budget"]
    result = record.read(RunDirectory.of(tmp_path, spec).result_file)
    assert result.parameters["total"] == 77_562
    assert "69,806 over the budget" in result.reason


HIDES = """
import torch
from npasbench.baselines.roast import Roast
class Hides(Roast):
    '''Keeps half of what it learns where nobody counts.'''
    def build(self, problem, findings, rng):
        network = super().build(problem, findings, rng)
        network.generator.register_buffer("more", torch.zeros_like(network.generator.bank))
        network.generator.register_forward_hook(
            lambda module, _, out: {n: w + 0.1 * module.more.flatten()[: 1].sum() for n, w in out.items()})
        return network
    def after_step(self, network, progress):
        network.generator.more.add_(0.01)
"""


def test_the_certificate_exposes_what_is_learned_outside_of_the_count(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    plugin = tmp_path / "hides.py"
    plugin.write_text(HIDES)
    (spec,) = plan("hides", plugins=(str(plugin),))
    do([spec], tmp_path)
    certificate = record.read(RunDirectory.of(tmp_path, spec).result_file).certificate
    assert certificate is not None
    assert not certificate.passed
    assert certificate.differing_predictions > 0


def test_a_worker_that_is_asked_to_stop_leaves_a_checkpoint_and_no_lease(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    specs = plan("roast", seeds=(0, 1))
    asked = iter([False, False, False, *[True] * 100])
    assert ends(do(specs, tmp_path, lambda: next(asked))) == ["interrupted"]
    directory = RunDirectory.of(tmp_path, specs[0])
    assert directory.state() == "interrupted"
    assert not directory.lease_file.exists()
    assert ends(do(specs, tmp_path)) == ["done", "done"]


def test_only_one_of_many_claims_succeeds(tmp_path: Path) -> None:
    taken: list[Lease] = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        mine = Lease.claim(tmp_path / "lease.json")
        if mine:
            taken.append(mine)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert taken[0].is_mine()


def dead_process() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {"token": "old", "machine": leases._identity()["machine"], "pid": process.pid, "started": "1"}


def test_the_lease_of_a_dead_process_on_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(dead_process()))
    assert not Lease.is_held(path)
    assert Lease.claim(path) is not None


def test_the_lease_of_another_machine_is_kept_while_its_pulse_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"token": "old", "machine": "elsewhere", "pid": 1, "started": "1"}))
    assert Lease.claim(path) is None
    old = time.time() - leases.STALE_AFTER - 1
    os.utime(path, (old, old))
    assert Lease.claim(path) is not None


def test_a_worker_that_lost_its_lease_notices_before_it_writes(tmp_path: Path) -> None:
    mine = Lease.claim(tmp_path / "lease.json")
    assert mine is not None
    (tmp_path / "lease.json").write_text(json.dumps({"token": "somebody else's"}))
    with pytest.raises(LeaseLost, match="taken over"):
        mine.check()
    mine.release()
    assert (tmp_path / "lease.json").exists()


def test_a_stale_lease_is_taken_over_by_exactly_one(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / f"lease{attempt}.json"
        path.write_text(json.dumps(dead_process() if attempt == 0 else {"token": "t", "machine": "elsewhere"}))
        os.utime(path, (1, 1))
        taken: list[Lease] = []
        barrier = threading.Barrier(4)

        def claim(path: Path = path, taken: list[Lease] = taken, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            mine = Lease.claim(path)
            if mine:
                taken.append(mine)

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one.is_mine() for one in taken) <= 1
        assert taken


def test_a_result_is_published_once(tmp_path: Path) -> None:
    assert publish(tmp_path / "result.json", b"first")
    assert not publish(tmp_path / "result.json", b"second")
    assert (tmp_path / "result.json").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def write_half() -> None:
        with atomic(tmp_path / "file") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WriteError, match="cannot be written: Not a directory"), atomic(tmp_path / "file" / "x") as file:
        file.write(b"")


def test_runs_that_cannot_be_written_stay_open_and_stop_the_worker(
    plan: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    specs = plan("roast", seeds=(0, 1))
    events = do(specs, tmp_path / "file" / "runs")
    assert ends(events) == ["blocked"]
    assert "cannot be written" in events[0]["reason"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"schema": 1, "sta', "cannot be read"),
        ('{"schema": 99}', "has schema 99; this npasbench reads 1"),
        ('{"schema": 1, "state": "done"}', "is not a result: key 'task'"),
        ("[]", "has schema None"),
    ],
)
def test_a_corrupt_result_is_named_with_what_is_wrong(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(RunError, match=words) as caught:
        record.read(path)
    assert str(path) in str(caught.value)


def test_nan_stays_nan_in_a_result(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    (spec,) = plan("shallow")
    do([spec], tmp_path)
    path = RunDirectory.of(tmp_path, spec).result_file
    result = record.read(path).model_copy(update={"metrics": {"accuracy": float("nan")}})
    path.write_text(record.write_text(result))
    assert str(record.read(path).metrics["accuracy"]) == "nan"
    assert '"accuracy": NaN' in path.read_text()


def test_every_run_is_found_in_a_fixed_order(plan: Callable[..., list[RunSpec]], tmp_path: Path) -> None:
    specs = plan("shallow", seeds=(2, 0, 1))
    do(specs, tmp_path)
    found = [directory.spec().seed for directory in find_runs(tmp_path)]
    assert found == [0, 1, 2]


@pytest.mark.slow
def test_workers_find_the_package_where_their_parent_does_whatever_lies_in_the_folder(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "npasbench").mkdir()
    (tmp_path / "npasbench" / "__init__.py").write_text("raise SystemError('the wrong one')")
    program = Path(sys.executable).with_name("npasbench")
    words = [program, "run", small_card(2), "--method", "hashed", "--budget", "0.1", "--seeds", "0"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert "1 run: 1 done." in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_no_worker_is_a_sentence(small_card: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise SystemError('broken')")
    words = [sys.executable, "-m", "npasbench", "run", small_card(2), "--method", "hashed", "--budget", "0.1"]
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "SystemError: broken" in done.stderr
    assert "npasbench: The process that workers are forked from has ended" in done.stderr


class Unreadable:
    """A spec that no worker can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.getenv, (1,))


def test_workers_that_die_before_a_run_are_not_started_for_ever_and_are_told(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    Pool([cast("Any", Unreadable())], tmp_path, 1, Options(), events.append).work()
    assert [(event["run"], event["state"]) for event in events] == [("", "blocked")]
    assert events[0]["reason"] == "workers died before they began a run (exit 1); what they said stands above"
