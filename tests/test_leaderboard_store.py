"""Run directories as they are found: whole, corrupt, copied, failed, or still running."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from records import put, result, spec

from npasbench.errors import UsageError
from npasbench.leaderboard.command import leaderboard
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.site import build_site
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


# Several folders


def of_two_machines(tmp_path: Path) -> tuple[Path, Path]:
    for name, seeds in (("a", (0, 1)), ("b", (1, 2))):
        for seed in seeds:
            good(tmp_path / name, seed)
    return tmp_path / "a", tmp_path / "b"


def test_folders_are_read_together_and_what_is_in_both_is_named_and_counts_once(tmp_path: Path) -> None:
    one, two = of_two_machines(tmp_path)
    store = collect(one, two)
    assert [run.identity.seed for run in store.runs] == [0, 1, 2]
    assert len({run.where for run in store.runs}) == 3
    (problem,) = store.problems
    assert "is the same run as" in problem
    assert str(one) in problem
    assert str(two) in problem


def test_different_results_of_one_run_are_named_and_none_is_counted_in_either_order(tmp_path: Path) -> None:
    one, two = of_two_machines(tmp_path)
    file = next(two.rglob("seed1-*/result.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "metrics": {"accuracy": 0.5}}))
    for roots in ((one, two), (two, one)):
        store = collect(*roots)
        assert [(run.identity.seed, run.state) for run in store.runs] == [(0, "done"), (1, "corrupt"), (2, "done")]
        assert [run.accuracy is None for run in store.runs] == [False, True, False]
        (problem,) = store.problems
        assert all(word in problem for word in (str(one), str(two), "different results of one run", "None of them"))
        assert store.runs[1].error == problem
    (cell,) = (cell for entry in boards(collect(one, two).runs)[0].entries for cell in entry.cells.values())
    assert sorted(cell.scores) == [0, 2]
    file.unlink()
    assert len(collect(one, two).runs) == 3


def test_bits_that_differ_are_a_contradiction_and_times_are_not(tmp_path: Path) -> None:
    one, two = of_two_machines(tmp_path)
    folder = next(two.rglob("seed1-*"))
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**content, "costs": {"train_seconds": 1.0}}))
    assert "the same run" in collect(one, two).problems[0]
    np.save(folder / "correct.npy", np.load(folder / "correct.npy")[::-1])
    assert "different results" in collect(one, two).problems[0]


@pytest.mark.parametrize(
    "change",
    [
        {"costs": {"macs": 1.0}},
        {"side_information_bits": 65},
        {"running_statistics": 641},
        {"test_examples": 2 * 1_647},
        {"dense_parameters": 77_851},
    ],
)
def test_copies_with_other_counts_are_a_contradiction_and_say_in_what(tmp_path: Path, change: dict[str, Any]) -> None:
    one, two = of_two_machines(tmp_path)
    file = next(two.rglob("seed1-*/result.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    store = collect(one, two)
    assert [run.state for run in store.runs] == ["done", "corrupt", "done"]
    (problem,) = store.problems
    assert f"{next(iter(change.get('costs', change)))} differ. None of them is counted" in problem


def test_copies_that_were_not_as_fast_are_one_result_and_say_so(tmp_path: Path) -> None:
    one, two = of_two_machines(tmp_path)
    file = next(two.rglob("seed1-*/result.json"))
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "costs": {**content["costs"], "train_seconds": 99.0}}))
    store = collect(one, two)
    assert [run.state for run in store.runs] == ["done"] * 3
    assert "which is counted; train_seconds differ. Remove one" in store.problems[0]


def test_many_that_are_there_twice_are_counted_in_one_sentence(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for seed in range(9):
            good(tmp_path / name, seed)
    (problem,) = collect(tmp_path / "a", tmp_path / "b").problems
    assert "9 runs are there twice with the same results" in problem


def test_a_clean_result_counts_before_a_trial_one(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0)
    put(tmp_path / "a", of, record=result(of, provenance={"dirty": True}))
    put(tmp_path / "b", of, record=result(of))
    for names in ("ab", "ba"):
        (run,) = collect(*(tmp_path / name for name in names)).runs
        assert not run.trial


def test_a_site_of_several_folders_shows_all_of_them(tmp_path: Path) -> None:
    one, two = of_two_machines(tmp_path)
    outcome = CliRunner().invoke(leaderboard, [str(one), str(two), "--out", str(tmp_path / "site"), "--json"])
    assert outcome.exit_code == 1  # one run is there twice
    (cell,) = json.loads(outcome.output)["tasks"][0]["cells"]
    assert cell["seeds"] == 3
    assert build_site([one], tmp_path / "one").problems == ()


def test_two_runs_of_one_seed_under_one_budget_are_named_and_neither_counts(tmp_path: Path) -> None:
    for parameters in (7_785, 70_000):
        of = spec("roast", "0.1", 0, budget_parameters=parameters)
        put(tmp_path, of, record=result(of))
    good(tmp_path, seed=1)
    (board,) = boards(collect(tmp_path).runs)
    assert "different runs of one seed; none of them is counted" in board.notices[0]
    (cell,) = (cell for entry in board.entries for cell in entry.cells.values())
    assert sorted(cell.scores) == [1]
