"""``npasbench doctor``: what it says of machines, installations, file systems and clusters that are not as they should be."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fake_slurm import FakeSlurm

from npasbench.cli import npasbench
from npasbench.cluster import checks, folder_checks, programs, slurm_checks
from npasbench.cluster.checks import Check
from npasbench.errors import DataError
from npasbench.registry import Registry, Source
from npasbench.running import commit


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm.on_path(tmp_path / "slurm", monkeypatch)


def said(found: Iterable[Check]) -> list[tuple[str, str]]:
    """Level and words of each check."""
    return [(check.level, f"{check.name}: {check.said}") for check in found]


def only(found: Iterable[Check], name: str) -> Check:
    """The one check of that name."""
    (check,) = [check for check in found if check.name == name]
    return check


# The command


def test_a_machine_without_slurm_is_well_and_the_cluster_is_one_note(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.remove()
    done = subprocess.run(
        [sys.executable, "-m", "npasbench", "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:4] == [
        "Machine",
        "Installation",
        "Folder of runs",
        "Cluster",
    ]
    assert lines[-2].split()[:4] == ["note", "SLURM", "sbatch", "is"]
    assert lines[-1].startswith("Nothing is wrong, ")
    assert {line.split()[0] for line in lines if line.startswith(" ")} == {"ok", "note"}


def test_json_has_every_check_and_exits_1_if_one_is_wrong(slurm: FakeSlurm) -> None:
    slurm.behave("scontrol", code=1, err="slurm_load_ctl_conf error: Unable to contact slurm controller\n")
    result = CliRunner().invoke(npasbench, ["doctor", "--json"], standalone_mode=False)
    report = json.loads(result.stdout)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert report["levels"]["wrong"] == 1
    assert report["checks"][-1] == {
        "room": "Cluster",
        "name": "SLURM",
        "level": "wrong",
        "said": "does not answer: scontrol failed with exit code 1: "
        "slurm_load_ctl_conf error: Unable to contact slurm controller.",
    }


# The machine


def cuda(monkeypatch: pytest.MonkeyPatch, count: int, compute: Callable[..., Any]) -> None:
    """Let torch see GPUs, and compute on them as told."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(name="H200"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100 * 2**30, 150 * 2**30))
    monkeypatch.setattr(torch, "ones", compute)


def test_every_gpu_is_tried_and_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.ones
    cuda(monkeypatch, 2, lambda *shape, device: real(*shape))
    assert said(checks._gpu_checks(torch)) == [
        ("ok", "cuda:0: H200, 100.0 GiB of 150.0 GiB free"),
        ("ok", "cuda:1: H200, 100.0 GiB of 150.0 GiB free"),
    ]


def test_a_gpu_that_is_visible_and_cannot_be_used_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*shape: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")

    cuda(monkeypatch, 1, fail)
    assert said(checks._gpu_checks(torch)) == [
        ("wrong", "cuda:0: is visible and cannot be used: CUDA error: no kernel image is available")
    ]


def test_a_gpu_that_miscalculates_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.ones
    cuda(monkeypatch, 1, lambda *shape, device: real(*shape) * 2)
    assert said(checks._gpu_checks(torch)) == [("wrong", "cuda:0: H200 computes wrong sums")]


@pytest.mark.parametrize(
    ("visible", "level", "words"),
    [(None, "wrong", "2 here, but torch"), ("", "note", "none, since CUDA_VISIBLE_DEVICES is ''")],
)
def test_gpus_that_the_driver_has_and_torch_does_not_see_are_wrong_unless_hidden(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, visible: str | None, level: str, words: str
) -> None:
    smi = slurm.programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n", encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (check,) = checks._gpu_checks(torch)
    assert check.level == level
    assert check.said.startswith(words)


def test_a_torch_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert only(checks.machine_checks(), "torch").level == "wrong"


# The installation


def test_a_dependency_that_is_too_old_or_missing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["click>=99", "nowhere-to-be-found>=1", "numpy>=1.2", 'pytest>=999; extra == "test"']
    monkeypatch.setattr(checks, "requires", lambda name: asked)
    found = said(checks._dependency_checks())
    assert [level for level, _ in found] == ["wrong", "wrong", "ok"]
    assert found[0][1].endswith("is installed; npasbench needs click>=99.")
    assert found[1][1].startswith("dependencies: nowhere-to-be-found is not installed")
    assert found[2][1].startswith("dependencies: numpy ")


def test_a_method_that_cannot_be_imported_is_wrong_and_the_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> None:
            raise ImportError("no module")

    source = Source("broken", "somebody 1.0", entry_point=Broken())  # type: ignore[arg-type]
    monkeypatch.setattr(Registry, "sources", {"broken": source, "roast": Registry().sources["roast"]})
    count, broken = checks._methods(Registry())
    assert count == 1
    assert broken == ["Method 'broken' (somebody 1.0) cannot be imported: ImportError: no module."]


def test_a_card_that_cannot_be_read_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.toml").write_text("name = 3", encoding="utf-8")
    monkeypatch.setattr(Registry, "files", {"bad": tmp_path / "bad.toml"})
    _, count, broken = checks._tasks(Registry())
    assert count == 0
    assert len(broken) == 1
    assert "bad.toml" in broken[0]


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ({"commit": None, "dirty": None}, "note"),
        ({"commit": "a" * 40, "dirty": True}, "note"),
        ({"commit": "a" * 40, "dirty": False}, "ok"),
    ],
)
def test_the_commit_says_whether_results_are_trial_results(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], level: str
) -> None:
    monkeypatch.setattr(commit, "commit", lambda: found)
    assert checks._commit_check().level == level


def test_data_that_are_missing_are_a_note_and_damaged_ones_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, _, _ = checks._tasks(Registry())
    found = {check.name: check for check in checks._data_checks(sets, tmp_path)}
    assert found["digits"].level == "ok"
    assert found["cifar100"].level == "note"
    assert "\n" not in found["cifar100"].said

    def damaged(*_: object) -> None:
        raise DataError("train: so it is damaged or another.")

    monkeypatch.setattr("npasbench.data.checking.check", damaged)
    assert {check.level for check in checks._data_checks(sets, tmp_path)} == {"wrong"}


# The folder of runs


def test_a_good_folder_is_well_and_left_as_it_was(tmp_path: Path) -> None:
    found = said(folder_checks.folder_checks(tmp_path))
    assert {level for level, words in found if not words.startswith("space")} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_looked_for_above_and_not_made(tmp_path: Path) -> None:
    runs = tmp_path / "far" / "runs"
    assert only(folder_checks.folder_checks(runs), "folder").said.startswith(f"{runs} is not there yet; {tmp_path} can")
    assert not runs.parent.exists()


def test_a_folder_that_cannot_be_written_to_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert said(folder_checks.folder_checks(tmp_path)) == [
        ("wrong", f"folder: {tmp_path} cannot be written to: Read-only file system.")
    ]


def test_a_file_in_the_place_of_the_folder_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("", encoding="utf-8")
    assert only(folder_checks.folder_checks(tmp_path / "runs"), "folder").level == "wrong"


@pytest.mark.parametrize(("free", "level"), [(10**8, "wrong"), (10**9, "note"), (10**11, "ok")])
def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(folder_checks.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free))
    assert only(folder_checks.folder_checks(tmp_path), "space").level == level


def test_a_file_system_without_hard_links_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    check = only(folder_checks.folder_checks(tmp_path), "hard links")
    assert check == Check("hard links", "wrong", "Operation not permitted: results cannot be written")


def test_a_file_system_that_creates_one_file_twice_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: real(path, flags & ~os.O_EXCL, mode))
    assert only(folder_checks.folder_checks(tmp_path), "exclusive files").level == "wrong"


def test_a_file_system_that_does_not_rename_in_one_step_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def in_two_steps(path: Path, target: Path) -> Path:
        target.unlink(missing_ok=True)
        folder_checks.time.sleep(0.001)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", in_two_steps)
    check = only(folder_checks.folder_checks(tmp_path), "atomic renaming")
    assert check.level == "wrong"
    assert check.said.startswith("a reader saw no file")


@pytest.mark.parametrize(("skew", "words"), [(3600, "3,600 seconds behind"), (-3600, "3,600 seconds ahead of")])
def test_a_clock_that_differs_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: int, words: str) -> None:
    real = folder_checks.time.time
    monkeypatch.setattr(folder_checks.time, "time", lambda: real() + skew)
    check = only(folder_checks.folder_checks(tmp_path), "clock")
    assert check.level == "note"
    assert words in check.said


# The cluster


def test_a_good_cluster_is_told_with_its_limits(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.partitions[:] = [one.replace("|4|16|", "|1|16|") for one in slurm.partitions]
    found = said(slurm_checks.slurm_checks(tmp_path))
    assert found == [
        ("ok", "programs: sbatch, srun, squeue, scontrol, scancel, sacct, sinfo"),
        ("ok", "SLURM: 22.05.8, cluster fake"),
        ("ok", "accounting: sacct answers"),
        ("ok", "arrays: of at most 1001 jobs; more are submitted as several arrays"),
        ("ok", "requeueing: is on; 30 seconds from SIGTERM to SIGKILL"),
        (
            "ok",
            "partition: main  up, 1 node with 16 cores, 62 GiB, gpu:a100:4; 2-00:00:00 at most; "
            "preempted jobs are requeued",
        ),
        ("ok", "partition: high  up, 1 node with 8 cores, 16 GiB, no GPU; no time limit; not preempted"),
    ]


def test_a_machine_without_slurm_gets_one_note(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.remove()
    (check,) = slurm_checks.slurm_checks(tmp_path)
    assert check.level == "note"


@pytest.mark.parametrize(("program", "level"), [("srun", "wrong"), ("squeue", "wrong"), ("sacct", "note")])
def test_a_missing_program_is_named(slurm: FakeSlurm, tmp_path: Path, program: str, level: str) -> None:
    slurm.remove(program)
    check = only(slurm_checks.slurm_checks(tmp_path), "programs")
    assert check.level == level
    assert check.said.startswith(f"{program} is not on PATH")


@pytest.mark.parametrize("how", ["failing", "hanging", "nonsense"])
def test_a_cluster_that_does_not_answer_is_wrong_and_nothing_more_is_asked(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(programs, "TIMEOUT", 0.3)
    settings = {"failing": {"code": 1}, "hanging": {"seconds": 30}, "nonsense": {"out": "<html>"}}
    slurm.behave("scontrol", **settings[how])
    assert only(slurm_checks.slurm_checks(tmp_path), "SLURM").level == "wrong"
    assert slurm.calls("sinfo") == []


def test_slurm_that_is_installed_and_not_set_up_is_a_note(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("scontrol", code=1, err="scontrol: fatal: Could not establish a configuration source\n")
    assert only(slurm_checks.slurm_checks(tmp_path), "SLURM").level == "note"


def test_accounting_that_is_off_is_a_note(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("sacct", code=1, err="Slurm accounting storage is disabled\n")
    check = only(slurm_checks.slurm_checks(tmp_path), "accounting")
    assert check.level == "note"
    assert "Slurm accounting storage is disabled" in check.said


@pytest.mark.parametrize(
    ("setting", "value", "name", "words"),
    [
        ("JobRequeue", "0", "requeueing", "is off unless a job asks for it"),
        ("MaxArraySize", "0", "arrays", "job arrays are switched off"),
        ("MaxArraySize", "many", "arrays", "SLURM does not say"),
    ],
)
def test_settings_worth_knowing_are_notes(
    slurm: FakeSlurm, tmp_path: Path, setting: str, value: str, name: str, words: str
) -> None:
    slurm.config[setting] = value
    check = only(slurm_checks.slurm_checks(tmp_path), name)
    assert check.level == "note"
    assert check.said.startswith(words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("gpu|down|infinite|1|8|16000|(null)|OFF", "down, 1 node"),
        ("gpu|up|infinite|1|8|16000|(null)|CANCEL", "preempted jobs are lost (CANCEL): submit again"),
    ],
)
def test_a_partition_that_is_down_or_cancels_jobs_is_a_note(
    slurm: FakeSlurm, tmp_path: Path, row: str, words: str
) -> None:
    slurm.partitions[:] = [row]
    check = only(slurm_checks.slurm_checks(tmp_path), "partition")
    assert check.level == "note"
    assert words in check.said


def test_a_folder_that_other_nodes_do_not_see_is_a_note(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_checks, "file_system", lambda folder: "xfs")
    assert only(slurm_checks.slurm_checks(tmp_path), "shared folder").level == "note"
    monkeypatch.setattr(folder_checks, "file_system", lambda folder: "nfs4")
    assert not any(check.name == "shared folder" for check in slurm_checks.slurm_checks(tmp_path))


def test_partitions_that_are_not_told_are_a_note(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.behave("sinfo", out="<html>\n")
    assert only(slurm_checks.slurm_checks(tmp_path), "partitions").level == "note"
