"""Run directories as they are found: whole, corrupt, copied, failed, or still running."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from records import put, result, spec

from npasbench.errors import UsageError
from npasbench.leaderboard.store import collect


def good(root: Path, seed: int = 0) -> Path:
    of = spec("roast", "0.1", seed)
    return put(root, of, record=result(of))


@pytest.mark.parametrize(
    "damage", ['{"schema": 1, "sta', "[]", '{"schema": 99}', '{"schema": 1}', "1" * 5000, "[" * 100_000, ""]
)
def test_a_corrupt_result_is_named_and_the_others_are_shown(tmp_path: Path, damage: str) -> None:
    good(tmp_path)
    bad = good(tmp_path, seed=1) / "result.json"
    bad.write_text(damage)
    store = collect(tmp_path)
    assert [run.state for run in store.runs] == ["done", "corrupt"]
    assert len(store.problems) == 1
    assert str(bad) in store.problems[0]


def test_a_result_whose_spec_is_gone_is_still_shown(tmp_path: Path) -> None:
    (good(tmp_path) / "spec.json").unlink()
    assert [run.state for run in collect(tmp_path).runs] == ["done"]


def test_a_folder_with_nothing_readable_is_named(tmp_path: Path) -> None:
    folder = good(tmp_path)
    (folder / "spec.json").write_text("{")
    (folder / "result.json").unlink()
    store = collect(tmp_path)
    assert store.runs == ()
    assert "spec.json cannot be read" in store.problems[0]


def test_a_copied_run_is_counted_once_and_named(tmp_path: Path) -> None:
    folder = good(tmp_path)
    shutil.copytree(folder, folder.with_name("seed9-copied00"))
    store = collect(tmp_path)
    assert len(store.runs) == 1
    assert any("same run" in problem for problem in store.problems)


def test_failed_waiting_and_interrupted_runs_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, spec("roast", "0.1", 0), failure={"error": "The disk is full.", "traceback": "", "time": ""})
    put(tmp_path, spec("roast", "0.1", 1))
    (put(tmp_path, spec("roast", "0.1", 2)) / "checkpoint.pt").write_bytes(b"")
    runs = sorted(collect(tmp_path).runs, key=lambda run: run.identity.seed)
    assert [run.state for run in runs] == ["failed", "waiting", "interrupted"]
    assert runs[0].error == "The disk is full."


def test_no_folder_and_no_runs_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*quickstart"):
        collect(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no runs .*quickstart"):
        collect(tmp_path)


def test_nan_is_read_as_nan_and_a_missing_cost_as_none(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0)
    folder = put(tmp_path, of, record=result(of, metrics={"accuracy": float("nan")}, costs={"macs": None}))
    assert "NaN" in (folder / "result.json").read_text()
    (run,) = collect(tmp_path).runs
    assert run.accuracy != run.accuracy
    assert run.record is not None
    assert run.record.costs == {"macs": None}
    assert json.loads((folder / "spec.json").read_text())["label"] == "roast"
