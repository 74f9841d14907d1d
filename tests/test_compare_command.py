"""Comparing two folders of results: what became better, worse, undecided, stayed, came or went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from records import put, result, scored, spec

from npasbench.leaderboard.compare_command import compare
from npasbench.leaderboard.publishing import publish

LOW = {seed: 0.80 + seed / 1000 for seed in range(8)}
HIGH = {seed: value + 0.05 + seed % 2 / 500 for seed, value in LOW.items()}


def invoke(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(compare, [str(tmp_path / "a"), str(tmp_path / "b"), *words])


def content(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads(invoke(tmp_path, "--json").output))


def test_the_same_results_differ_in_nothing(tmp_path: Path) -> None:
    for name in "ab":
        scored(tmp_path / name, "roast", "0.1", LOW)
    outcome = invoke(tmp_path)
    assert outcome.exit_code == 0
    assert "1 cell in both: 0 better, 0 worse, 0 undecided, 1 the same." in outcome.output
    assert content(tmp_path)["runs_with_another_result"] == []


@pytest.mark.parametrize(
    ("a", "b", "verdict", "code"),
    [
        (LOW, HIGH, "better", 0),
        (HIGH, LOW, "worse", 1),
        (LOW, {seed: value + (-1) ** seed / 100 for seed, value in LOW.items()}, "undecided", 0),
        ({k: LOW[k] for k in range(5)}, {k: HIGH[k] for k in range(5)}, "undecided", 0),
        (LOW, {k + 100: value for k, value in HIGH.items()}, "undecided", 0),
    ],
)
def test_a_cell_is_judged_by_the_seeds_that_both_have(
    tmp_path: Path, a: dict[int, float], b: dict[int, float], verdict: str, code: int
) -> None:
    scored(tmp_path / "a", "roast", "0.1", a)
    scored(tmp_path / "b", "roast", "0.1", b)
    assert invoke(tmp_path).exit_code == code
    (cell,) = content(tmp_path)["cells"]
    assert cell["verdict"] == verdict
    common = sorted(a.keys() & b.keys())
    assert cell["n"] == len(common)
    if common:
        assert cell["difference"] == pytest.approx(sum(b[k] - a[k] for k in common) / len(common))
        assert cell["low"] < cell["difference"] < cell["high"]


def test_seeds_that_are_gone_are_worse_and_more_seeds_are_not(tmp_path: Path) -> None:
    scored(tmp_path / "a", "roast", "0.1", LOW)
    scored(tmp_path / "b", "roast", "0.1", {seed: LOW[seed] for seed in range(5, 8)})
    outcome = invoke(tmp_path)
    assert outcome.exit_code == 1
    assert "n 3, 5 of 8 seeds are gone" in outcome.output
    assert CliRunner().invoke(compare, [str(tmp_path / "b"), str(tmp_path / "a")]).exit_code == 0


def test_cells_that_came_and_went_and_runs_with_another_result_are_listed(tmp_path: Path) -> None:
    scored(tmp_path / "a", "roast", "0.1", LOW)
    scored(tmp_path / "b", "roast", "0.1", HIGH)
    scored(tmp_path / "a", "naive", "0.1", LOW)
    scored(tmp_path / "b", "ssn", "0.05", LOW)
    found = content(tmp_path)
    assert [(key["label"], key["budget"]) for key in found["only_a"]] == [("naive", "0.1")]
    assert [(key["label"], key["budget"]) for key in found["only_b"]] == [("ssn", "0.05")]
    assert len(found["runs_with_another_result"]) == 8
    text = invoke(tmp_path).output
    assert "only in" in text
    assert "not the same result" in text


def test_another_task_or_definition_is_another_cell(tmp_path: Path) -> None:
    scored(tmp_path / "a", "roast", "0.1", HIGH)
    scored(tmp_path / "b", "roast", "0.1", LOW, task_fingerprint="a" * 64)
    scored(tmp_path / "a", "naive", "0.1", HIGH)
    scored(tmp_path / "b", "naive", "0.1", LOW, method_version=2)
    found = content(tmp_path)
    assert found["cells"] == []
    assert (len(found["only_a"]), len(found["only_b"])) == (2, 2)
    assert invoke(tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("states", "verdict", "code"),
    [(("done", "refused"), "worse", 1), (("refused", "done"), "better", 0), (("refused", "refused"), "the same", 0),
     (("done", "over-budget"), "worse", 1), (("refused", "skipped"), "undecided", 0)],
)  # fmt: skip
def test_to_be_measured_no_more_is_worse(tmp_path: Path, states: tuple[str, str], verdict: str, code: int) -> None:
    for name, state in zip("ab", states, strict=True):
        of = spec("roast", "0.1", 0)
        unbuilt = {"metrics": {}, "parameters": {}, "certificate": None, "costs": {}, "reason": "It cannot be."}
        put(
            tmp_path / name, of, record=result(of, state=state, **({} if state in ("done", "over-budget") else unbuilt))
        )
    assert content(tmp_path)["cells"][0]["verdict"] == verdict
    assert invoke(tmp_path).exit_code == code


def test_runs_compare_with_published_results_and_a_file_of_them(tmp_path: Path) -> None:
    scored(tmp_path / "a", "roast", "0.1", LOW)
    publish(tmp_path / "a", tmp_path / "b")
    assert content(tmp_path)["counts"]["the same"] == 1
    (file,) = (tmp_path / "b").glob("*.jsonl")
    outcome = CliRunner().invoke(compare, [str(file), str(tmp_path / "a")])
    assert (outcome.exit_code, "1 the same" in outcome.output) == (0, True)


def test_a_result_that_cannot_be_read_is_named_and_ends_with_1(tmp_path: Path) -> None:
    for name in "ab":
        scored(tmp_path / name, "roast", "0.1", LOW)
    next((tmp_path / "b").rglob("seed0-*/result.json")).write_text("{")
    outcome = invoke(tmp_path)
    assert outcome.exit_code == 1
    assert "result.json cannot be read" in outcome.output


# Beside accuracy


def shifted(tmp_path: Path, key: str) -> dict[str, Any]:
    (cell,) = content(tmp_path)["cells"]
    return dict(next(one for one in cell["others"] if one["quantity"] == key))


def cells(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], seeds: int = 8) -> None:
    """The same cell twice, with changes; a metric may be a function of the seed."""
    for name, changes in (("a", a), ("b", b)):
        for seed in range(seeds):
            of = spec("roast", "0.1", seed)
            record = result(of)
            told = {key: changes[key](seed) for key in ("nll", "ece") if key in changes}
            rest = {key: value for key, value in changes.items() if key not in told}
            if "parameters" in rest:
                rest = {
                    key: value for key, value in result(of, **rest).items() if key not in ("metrics", "costs")
                } | rest
            put(tmp_path / name, of, record=record | rest | {"metrics": {**record["metrics"], **told}})


@pytest.mark.parametrize(
    ("key", "title"),
    [("nll", "NLL +0.1005 [+0.1001, +0.1009], n 8"), ("ece", "ECE (points) +10.05 [+10.01, +10.09], n 8")],
)
def test_a_metric_is_judged_by_the_interval_of_its_paired_differences(tmp_path: Path, key: str, title: str) -> None:
    cells(tmp_path, {key: lambda seed: 0.3 + seed / 100}, {key: lambda seed: 0.4 + seed / 100 + seed % 2 / 1000})
    outcome = invoke(tmp_path)
    assert outcome.exit_code == 1
    assert f"worse: digits15-wrn-10-1 roast 0.1: {title}" in outcome.output
    assert "1 cell in both: 0 better, 0 worse, 0 undecided, 1 the same." in outcome.output
    assert f"Beside accuracy: {key.upper()} 1 worse." in outcome.output
    found = shifted(tmp_path, key)
    assert found["verdict"] == "worse"
    assert found["difference"] == pytest.approx(0.1005)
    assert 0 < found["low"] < found["difference"] < found["high"]
    back = CliRunner().invoke(compare, [str(tmp_path / "b"), str(tmp_path / "a")])
    assert (back.exit_code, f"{key.upper()} 1 better" in back.output) == (0, True)


def test_a_metric_whose_interval_holds_zero_is_undecided(tmp_path: Path) -> None:
    cells(tmp_path, {"nll": lambda _: 0.3}, {"nll": lambda seed: 0.3 + (-1) ** seed / 100})
    assert invoke(tmp_path).exit_code == 0
    assert shifted(tmp_path, "nll")["verdict"] == "undecided"
    assert "NLL 1 undecided" in invoke(tmp_path).output


def test_a_metric_that_became_nan_is_worse(tmp_path: Path) -> None:
    cells(tmp_path, {"nll": lambda _: 0.3}, {"nll": lambda seed: float("nan") if seed == 3 else 0.3})
    found = shifted(tmp_path, "nll")
    assert (found["verdict"], found["difference"]) == ("worse", None)
    assert "1 seed became NaN" in found["why"]


def test_counts_and_multiply_adds_are_compared_exactly(tmp_path: Path) -> None:
    fewer = {"parameters": {"bank": 7_000, "total": 7_000}, "bank_params": 7_000, "effective_parameters": 7_000}
    cells(tmp_path, {"parameters": {"bank": 7_001, "total": 7_001}}, fewer)
    cells(tmp_path / "macs", {}, {"costs": {"macs": 2_317_121.0}})
    outcome = invoke(tmp_path)
    assert "better: digits15-wrn-10-1 roast 0.1: parameters 7,001 → 7,000, n 8" in outcome.output
    assert outcome.exit_code == 0, outcome.output
    told = shifted(tmp_path, "parameters")
    assert (told["verdict"], told["before"], told["after"]) == ("better", 7_001, 7_000)
    assert shifted(tmp_path, "bank_params")["why"] == "only the second folder tells it"
    outcome = invoke(tmp_path / "macs")
    assert "MACs 2,317,120 → 2,317,121" in outcome.output
    assert outcome.exit_code == 1


def test_long_names_are_shortened(tmp_path: Path) -> None:
    for name, scores in (("a", HIGH), ("b", LOW)):
        scored(tmp_path / name / "runs", "roast", "0.1", scores)
        publish(tmp_path / name / "runs", tmp_path / name)
        (file,) = (tmp_path / name).glob("*.jsonl")
        file.write_text(file.read_text(encoding="utf-8").replace('"label": "roast"', f'"label": "{"long" * 500}"'))
    lines = (
        CliRunner().invoke(compare, [str(next((tmp_path / name).glob("*.jsonl"))) for name in "ab"]).output.splitlines()
    )
    assert any("longlong" in line for line in lines)
    assert max(map(len, lines)) < 700
