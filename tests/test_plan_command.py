"""``npasbench plan``: what is missing, the largest gaps first, and how long it will take by what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import records
from test_commands import call

from npasbench.commands.estimates import duration
from npasbench.commands.planning import plan_runs
from npasbench.plan import RunSpec
from npasbench.running import record

TASK = "digits15-wrn-10-1"
SUITE = """
schema = 1
name = "mine"
title = "Mine"
tasks = ["digits15-wrn-10-1"]
budgets = [0.1, 0.25, 1]
seeds = [0, 1, 2, 3]
[[entry]]
label = "roast"
method = "roast"
[[entry]]
label = "naive"
method = "naive"
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def specs(suite: Path | str, label: str, budget: str, seeds: Sequence[int] = (0, 1, 2, 3)) -> list[RunSpec]:
    found = plan_runs(str(suite), None, None, {}, (budget,), seeds, ())
    return [spec for spec in found if spec.label == label]


def done(root: Path, spec: RunSpec, seconds: float, **changes: Any) -> Path:
    """A run that took so long."""
    of = spec.as_json()
    costs = {"wall_seconds": seconds, "train_seconds": seconds / 2}
    return records.put(root, of, record=records.result(of, **{"costs": costs, **changes}))


def planned(suite: Path, root: Path, *words: str) -> dict[str, Any]:
    code, said = call("plan", str(suite), "--runs", str(root), "--json", *words)
    assert code == 0
    content: dict[str, Any] = json.loads(said)
    return content


def cell(content: dict[str, Any], label: str, budget: str) -> dict[str, Any]:
    (found,) = [one for one in content["cells"] if (one["label"], one["budget"]) == (label, budget)]
    return found


def test_where_no_run_of_the_task_is_done_there_is_no_estimate_and_it_says_so(suite: Path, tmp_path: Path) -> None:
    code, said = call("plan", str(suite), "--runs", str(tmp_path / "runs"))
    assert code == 0
    assert "24 runs: 24 waiting." in said
    assert f"{TASK}: no run of this task is done yet; no estimate for 24 runs." in said
    content = planned(suite, tmp_path / "runs")
    assert (content["open"], content["without_estimate"], content["device_hours_left"]) == (24, {TASK: 24}, None)
    assert {one["device_hours_left"] for one in content["cells"]} == {None}


def test_a_cell_is_estimated_by_its_own_runs(suite: Path, tmp_path: Path) -> None:
    for spec, seconds in zip(specs(suite, "roast", "0.1", (0, 1)), (60, 120), strict=True):
        done(tmp_path / "runs", spec, seconds)
    found = cell(planned(suite, tmp_path / "runs"), "roast", "0.1")
    assert found["states"] == {"done": 2, "waiting": 2}
    assert (found["open"], found["device_seconds_of_a_run"], found["estimated_from"]) == (2, 90, "cell")
    assert found["device_hours_left"] == pytest.approx(2 * 90 / 3600)


def test_else_by_the_same_label_at_the_nearest_budget_else_by_the_task(suite: Path, tmp_path: Path) -> None:
    done(tmp_path / "runs", specs(suite, "roast", "0.1")[0], 50)
    done(tmp_path / "runs", specs(suite, "roast", "1")[0], 100)
    content = planned(suite, tmp_path / "runs")
    near, other = cell(content, "roast", "0.25"), cell(content, "naive", "0.25")
    assert (near["device_seconds_of_a_run"], near["estimated_from"]) == (50, "label")
    assert (other["device_seconds_of_a_run"], other["estimated_from"]) == (75, "task")
    said = call("plan", str(suite), "--runs", str(tmp_path / "runs"))[1]
    assert "for 22 runs (6 by others of their cell, 4 by others of their label, 12 by others of their task)" in said


def test_all_attempts_and_devices_of_a_run_are_counted(suite: Path, tmp_path: Path) -> None:
    of = specs(suite, "roast", "0.1")[0]
    costs = {"wall_seconds": 10, "train_seconds": 40, "search_seconds": 20}
    done(tmp_path / "runs", of, 0, costs=costs, provenance={"processes": 2, "restarts": 3})
    assert cell(planned(suite, tmp_path / "runs"), "roast", "0.1")["device_seconds_of_a_run"] == 120


def test_a_cell_whose_runs_are_refused_takes_no_time(suite: Path, tmp_path: Path) -> None:
    done(tmp_path / "runs", specs(suite, "roast", "0.1")[0], 50)
    done(tmp_path / "runs", specs(suite, "naive", "0.1")[0], 0, state="refused", costs={})
    found = cell(planned(suite, tmp_path / "runs"), "naive", "0.1")
    assert (found["open"], found["device_hours_left"], found["estimated_from"]) == (3, 0, "cell")


def test_the_largest_gaps_come_first_and_what_is_complete_last(suite: Path, tmp_path: Path) -> None:
    for label, budget, number, seconds in (
        ("naive", "0.1", 4, 1), ("naive", "0.25", 3, 100), ("naive", "1", 1, 10), ("roast", "0.1", 2, 200),
        ("roast", "0.25", 2, 20), ("roast", "1", 3, 1),
    ):  # fmt: skip
        for spec in specs(suite, label, budget)[:number]:
            done(tmp_path / "runs", spec, seconds)
    order = [(one["label"], one["budget"], one["open"]) for one in planned(suite, tmp_path / "runs")["cells"]]
    assert order == [
        ("roast", "0.1", 2), ("naive", "0.25", 1), ("roast", "0.25", 2), ("naive", "1", 3), ("roast", "1", 1), ("naive", "0.1", 0),
    ]  # fmt: skip


def test_runs_that_were_not_planned_say_how_long_it_takes_unless_their_card_was_another(
    suite: Path, tmp_path: Path
) -> None:
    (other,) = specs(suite, "roast", "0.5", (7,))
    folder = done(tmp_path / "runs", other, 50)
    found = cell(planned(suite, tmp_path / "runs", "--budget", "0.1"), "roast", "0.1")
    assert (found["device_seconds_of_a_run"], found["estimated_from"]) == (50, "label")
    result = folder / "result.json"
    result.write_text(result.read_text().replace(other.task.fingerprint, "0" * 64))
    assert planned(suite, tmp_path / "runs", "--budget", "0.1")["without_estimate"] == {TASK: 8}


def test_of_an_interrupted_run_only_the_rest_is_missing(suite: Path, tmp_path: Path) -> None:
    first, second = specs(suite, "roast", "0.1", (0, 1))
    done(tmp_path / "runs", first, 100)
    folder = records.put(tmp_path / "runs", second.as_json())
    (folder / "checkpoint.pt").touch()
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 45, "step": 135, "loss": 1.0, "seconds": 60}) + "\n")
    found = cell(planned(suite, tmp_path / "runs", "--seeds", "0-1"), "roast", "0.1")
    assert (found["open"], found["states"]) == (1, {"done": 1, "interrupted": 1})
    assert found["device_hours_left"] == pytest.approx(100 * 0.25 / 3600)


def test_failed_and_corrupt_runs_are_missing(suite: Path, tmp_path: Path) -> None:
    first, second, third, _ = specs(suite, "roast", "0.1")
    done(tmp_path / "runs", first, 100)
    records.put(tmp_path / "runs", second.as_json(), failure={"error": "a bug"})
    (done(tmp_path / "runs", third, 100) / "result.json").write_text("{")
    found = cell(planned(suite, tmp_path / "runs"), "roast", "0.1")
    assert found["states"] == {"done": 1, "failed": 1, "corrupt": 1, "waiting": 1}
    assert found["device_hours_left"] == pytest.approx(3 * 100 / 3600)


def test_every_result_is_read_once(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget in ("0.1", "0.25"):
        for spec in specs(suite, "roast", budget):
            done(tmp_path / "runs", spec, 10)
    seen: list[Path] = []
    read: Callable[[Path], record.Record] = record.read
    monkeypatch.setattr(record, "read", lambda path: seen.append(path) or read(path))
    assert planned(suite, tmp_path / "runs")["states"] == {"done": 8, "waiting": 16}
    assert len(seen) == len(set(seen)) == 8


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0 s"), (99, "99 s"), (130, "2 min"), (7200, "2.0 h"), (36_000, "10.0 h"), (4_000_000, "1,111 h")],
)
def test_durations_are_short(seconds: float, written: str) -> None:
    assert duration(seconds) == written
