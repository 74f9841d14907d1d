"""Against a real SLURM: whatever happens to jobs, workers and daemons, every run is done once, and bit-identical."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster as cluster

import npasbench.tasks
from npasbench.cluster.batch import Batch, find_batches

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SEEDS = 12
EPOCHS = 30
STEPS = EPOCHS * 3

PATIENT = '''
import os, time
from npasbench.baselines.roast import Roast

class Patient(Roast):
    """Takes its time at each step, long enough to be disturbed; hurries once it goes on from a checkpoint."""
    def after_step(self, network, progress):
        super().after_step(network, progress)
        self.begins = progress.step == 1 or getattr(self, "begins", False)
        if self.begins:
            time.sleep(float(os.environ.get("PATIENCE", "0")))
'''


@dataclass(frozen=True)
class Lab:
    """A card of a few seconds, a method that can be slowed down, and what undisturbed local runs of it give."""

    card: Path
    plugin: Path
    reference: Path

    def command(self, runs: Path, seeds: str, *more: str) -> list[str]:
        command = [sys.executable, "-m", "npasbench", "run", str(self.card), "--method", "patient", "--plugin"]
        command += [str(self.plugin), "--budget", "0.1", "--seeds", seeds, "--runs", str(runs), "--device", "cpu"]
        return [*command, "--checkpoint-seconds", "1", *more]


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    if reason := cluster.reason_to_skip():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    cluster.clear()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    shipped = Path(next(iter(npasbench.tasks.__path__))) / "digits15-wrn-10-1.toml"
    card = folder / shipped.name
    card.write_text(shipped.read_text(encoding="utf-8").replace("epochs = 60", f"epochs = {EPOCHS}"), encoding="utf-8")
    (folder / "patient.py").write_text(PATIENT)
    lab = Lab(card, folder / "patient.py", folder / "undisturbed")
    command = lab.command(lab.reference, f"0-{SEEDS - 1}", "--workers", "2")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


@dataclass(frozen=True)
class Submitted:
    """Runs that were handed to SLURM."""

    lab: Lab
    runs: Path
    seeds: str

    def again(self, *more: str, patience: float = 0) -> str:
        """Submit; the command's output."""
        process = self.start(*more, patience=patience)
        output = process.communicate(timeout=100)[0].decode()
        assert process.returncode == 0, output
        return output

    def start(self, *more: str, patience: float = 0) -> subprocess.Popen[bytes]:
        """The command that submits, running."""
        return subprocess.Popen(
            self.lab.command(self.runs, self.seeds, "--executor", "slurm", *more),
            env={**os.environ, "PATIENCE": str(patience), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def batches(self) -> list[Batch]:
        return find_batches(self.runs)

    @property
    def jobs(self) -> list[str]:
        return [job.id for batch in self.batches for job in batch.jobs]

    @property
    def folders(self) -> list[Path]:
        return sorted(path.parent for path in self.runs.glob("*/*/*/*/spec.json"))

    @property
    def only(self) -> Path:
        (folder,) = self.folders
        return folder

    def waiting(self) -> set[str]:
        """The jobs that are not over."""
        return set(cluster.queue()) & set(self.jobs)

    def until_it_runs(self) -> None:
        """Until a run is somewhere in the middle, and could go on from there."""
        cluster.wait_for("a checkpoint", lambda: any(self.runs.glob("*/*/*/*/checkpoint.pt")), 120, self.explain)
        assert not self.results(), "a run was over before it could be disturbed"

    def until_done(self, seconds: float = 200) -> None:
        """Until no job is left; then every run has a result."""
        cluster.wait_for("the jobs to end", lambda: not self.waiting(), seconds, self.explain)
        assert len(self.results()) == self.expected, f"no job is left, and runs are open\n{self.explain()}"

    @property
    def expected(self) -> int:
        first, _, last = self.seeds.partition("-")
        return int(last or first) - int(first) + 1

    def results(self) -> list[Path]:
        return list(self.runs.glob("*/*/*/*/result.json"))

    def went_on_from(self) -> list[int]:
        """The steps of the checkpoints that the only run went on from."""
        return [int(step) for step in re.findall(r"goes on from step (\d+)$", self.log(self.only), flags=re.MULTILINE)]

    def log(self, folder: Path) -> str:
        """What happened in a run."""
        return (folder / "log.txt").read_text()

    def claims(self) -> list[int]:
        """How often each run was claimed."""
        return [self.log(folder).count(" claimed by ") for folder in self.folders]

    def explain(self) -> str:
        """What a failed test shows: what SLURM knows, what the runs hold and what the jobs printed."""
        parts = [cluster.ask("sacct", "-D", "-j", ",".join(self.jobs), "-o", "JobID%12,State%20,ExitCode,Start,End")]
        parts += [f"{folder}: {sorted(path.name for path in folder.iterdir())}" for folder in self.folders]
        outputs = [path for batch in self.batches for path in sorted(batch.output(self.runs).glob("*_log.*"))]
        for path in [*(folder / "log.txt" for folder in self.folders), *outputs]:
            if path.exists():
                parts.append(f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-30:]))
        return "\n".join(parts)

    def check(self) -> None:
        """Every run was done once, is what an undisturbed run gives, and nothing lies about."""
        assert len(self.folders) == self.expected
        for folder in self.folders:
            log = self.log(folder)
            assert len(re.findall(r"^\S+ done$", log, flags=re.MULTILINE)) == 1, log
            assert sorted(path.name for path in folder.iterdir()) == FILES, log
            assert outcome(folder) == outcome(self.lab.reference / folder.relative_to(self.runs)), log


FILES = ["correct.npy", "log.txt", "metrics.jsonl", "model.safetensors", "result.json", "spec.json"]


def outcome(folder: Path) -> tuple[Any, ...]:
    """Everything of a run that must not depend on where and how it was done."""
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [(row["epoch"], row["step"], row["loss"], row["lr"]) for row in rows]
    kept = [result[name] for name in ("state", "fingerprint", "metrics", "parameters", "certificate")]
    return *kept, told, (folder / "model.safetensors").read_bytes(), (folder / "correct.npy").read_bytes()


def submit(lab: Lab, tmp_path: Path, seeds: str, *more: str, patience: float = 0) -> Submitted:
    submitted = Submitted(lab, tmp_path / "runs", seeds)
    submitted.again(*more, patience=patience)
    return submitted


def in_the_middle(lab: Lab, tmp_path: Path, *more: str, seconds: float = 9) -> Submitted:
    """One submitted run, of some ``seconds``, that has begun."""
    submitted = submit(lab, tmp_path, "0", *more, patience=seconds / STEPS)
    submitted.until_it_runs()
    return submitted


def test_an_array_longer_than_the_cluster_takes_is_done_with_a_gpu_for_each_run(lab: Lab, tmp_path: Path) -> None:
    begun = time.monotonic()
    submitted = submit(lab, tmp_path, f"0-{SEEDS - 1}", "--gpus", "1", "--cpus", "1")
    assert time.monotonic() - begun < 30
    assert len(submitted.results()) < SEEDS, "the command has waited for the runs"
    assert len(submitted.jobs) == SEEDS
    assert len({job.partition("_")[0] for job in submitted.jobs}) == 2, "9 tasks are the most that an array may have"
    submitted.until_done(400)
    submitted.check()
    assert submitted.claims() == [1] * SEEDS, submitted.explain()
    rows = cluster.ask("sacct", "-X", "-n", "-P", "-o", "JobID,AllocTRES", "-j", ",".join(submitted.jobs)).split()
    assert sorted(row.partition("|")[0] for row in rows) == sorted(submitted.jobs)
    assert all("gres/gpu=1" in row and "cpu=1," in row for row in rows), rows


def test_a_preempted_run_goes_on_where_it_stood(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path, "--partition", "normal", "--cpus", "2", seconds=15)
    cluster.ask("sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 2")
    submitted.until_done()
    submitted.check()
    assert any(submitted.went_on_from()), submitted.explain()
    assert "Restarts=0" not in cluster.ask("scontrol", "show", "job", submitted.jobs[0])


def test_a_run_longer_than_its_time_limit_goes_on_in_a_requeued_job(lab: Lab, tmp_path: Path) -> None:
    # slurmctld looks at time limits every 30 s from its start on: the signal does not come while the job still begins.
    cluster.restart("slurmctld")
    submitted = in_the_middle(lab, tmp_path, "--time", "1m", seconds=35)
    submitted.until_done()
    submitted.check()
    assert any(submitted.went_on_from()), submitted.explain()


def test_a_job_told_to_stop_before_its_limit_requeues_itself(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path)
    cluster.ask("scancel", "--signal=USR2", submitted.jobs[0])
    submitted.until_done()
    submitted.check()
    assert any(submitted.went_on_from()), submitted.explain()
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", submitted.jobs[0])


def test_a_killed_worker_is_replaced_within_its_job(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path)
    os.kill(json.loads((submitted.only / "lease.json").read_text())["pid"], signal.SIGKILL)
    submitted.until_done()
    submitted.check()
    assert any(submitted.went_on_from()), submitted.explain()
    assert "Restarts=0" in cluster.ask("scontrol", "show", "job", submitted.jobs[0])


def test_a_run_outlives_slurmd(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path)
    cluster.end("slurmd", signal.SIGTERM)
    time.sleep(3)
    cluster.up()
    submitted.until_done()
    submitted.check()
    assert submitted.claims() == [1], submitted.explain()


def test_a_run_on_a_node_given_up_for_lost_is_done_once(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path, seconds=20)
    cluster.end("slurmd", signal.SIGKILL)
    cluster.ask("scontrol", "update", "nodename=localhost", "state=down", "reason=lost")
    cluster.wait_for(
        "the job to wait again", lambda: cluster.queue().get(submitted.jobs[0]) == "PENDING", 30, submitted.explain
    )
    cluster.up()
    submitted.until_done()
    submitted.check()
    assert submitted.claims() != [0]


def test_runs_outlive_slurmctld(lab: Lab, tmp_path: Path) -> None:
    submitted = submit(lab, tmp_path, "0-1", patience=9 / STEPS)
    submitted.until_it_runs()
    cluster.restart("slurmctld")
    submitted.until_done()
    submitted.check()
    assert submitted.claims() == [1, 1], submitted.explain()


def test_the_same_command_after_scancel_does_the_rest(lab: Lab, tmp_path: Path) -> None:
    submitted = in_the_middle(lab, tmp_path)
    cluster.ask("scancel", *submitted.jobs)
    cluster.wait_for("the job to be gone", lambda: not submitted.waiting(), 30, submitted.explain)
    assert not submitted.results()
    submitted.again()
    assert len(submitted.batches) == 2
    submitted.until_done()
    submitted.check()
    assert any(submitted.went_on_from()), submitted.explain()


def test_two_submissions_of_the_same_runs_at_once_do_each_run_once(lab: Lab, tmp_path: Path) -> None:
    submitted = Submitted(lab, tmp_path / "runs", "0-3")
    for process in [submitted.start("--runs-per-job", "4", patience=2 / STEPS) for _ in range(2)]:
        output = process.communicate(timeout=100)[0].decode()
        assert process.returncode == 0, output
    assert [len(batch.jobs) for batch in submitted.batches] == [1, 1]
    submitted.until_done()
    submitted.check()
    assert submitted.claims() == [1] * 4, submitted.explain()
