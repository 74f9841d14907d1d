"""Verifying results: real runs, published and not, as they are and with something changed in every way."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import npasbench.tasks
from npasbench.card import Entry
from npasbench.cli import npasbench as cli
from npasbench.leaderboard.known_cards import Cards
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.verify_command import verify as command
from npasbench.plan import plan_entry
from npasbench.registry import Registry
from npasbench.running import record as records
from npasbench.running.rebuilding import Builder
from npasbench.running.record_checks import check_record
from npasbench.running.repeating import EVALUATED, TRAINED, compared
from npasbench.running.verification import FILE, STATES, Verified, read_states, write_states

CARDS = Path(next(iter(npasbench.tasks.__path__)))
FROZEN = Path(__file__).parent / "data" / "records"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of one epoch, an ensemble's, and runs of both: done, refused, pruned, with members."""
    root = tmp_path_factory.mktemp("made")
    for name in ("digits15-wrn-10-1", "digits15-ensemble"):
        text = (CARDS / f"{name}.toml").read_text(encoding="utf-8").replace("epochs = 60", "epochs = 1")
        (root / f"{name}.toml").write_text(text, encoding="utf-8")
    for words in (
        f"run {root}/digits15-wrn-10-1.toml --method roast --budget 0.1 --seeds 0,1",
        f"run {root}/digits15-wrn-10-1.toml --method magnitude --budget 0.25 --seeds 0",
        f"run {root}/digits15-ensemble.toml --method narrow --budget 0.05 --seeds 0",
    ):
        done = CliRunner().invoke(
            cli, [*words.split(), "--runs", str(root / "runs"), "--workers", "1", "--device", "cpu"]
        )
        assert done.exit_code == 0, done.output
    CliRunner().invoke(
        cli,
        f"run {root}/digits15-wrn-10-1.toml --method dense --budget 0.1 --seeds 0 --runs {root}/runs --workers 1".split(),
    )
    return root


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def invoke(path: Path, made: Path, *words: str) -> Result:
    tasks = [word for card in sorted(made.glob("*.toml")) for word in ("--task", str(card))]
    return CliRunner().invoke(command, [str(path), *tasks, "--device", "cpu", *words])


def states(outcome: Result) -> dict[str, int]:
    return {state: number for state, number in json.loads(outcome.output)["states"].items() if number}


def one_of(runs: Path, label: str, seed: int = 0) -> Path:
    return next(runs.glob(f"*/{label}/*/seed{seed}-*"))


def rewrite(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    (folder / "result.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


# Runs as they are


def test_weights_are_evaluated_again_and_a_refusal_is_submitted(runs: Path, made: Path) -> None:
    outcome = invoke(runs, made, "--json")
    assert outcome.exit_code == 0, outcome.output
    assert states(outcome) == {"re-evaluated": 4, "submitted": 1}
    content = json.loads(outcome.output)
    details = [check["detail"] for run in content["runs"] for check in run["checks"] if check["name"] == "weights"]
    assert details == ["exactly, on the same device and versions"] * 4
    assert content["written"] == str(runs / FILE)


def test_verifying_twice_gives_the_same_bytes_and_the_site_is_told(runs: Path, made: Path) -> None:
    invoke(runs, made)
    before = (runs / FILE).read_bytes()
    invoke(runs, made)
    assert (runs / FILE).read_bytes() == before
    told = {(run.identity.label, run.identity.seed): run.verified for run in collect(runs).runs}
    assert told == {
        ("roast", 0): "re-evaluated",
        ("roast", 1): "re-evaluated",
        ("magnitude", 0): "re-evaluated",
        ("narrow", 0): "re-evaluated",
        ("dense", 0): "submitted",
    }


def test_what_runs_were_verified_holds_for_the_same_records_published(runs: Path, made: Path, tmp_path: Path) -> None:
    publish(runs, tmp_path / "results", trial=True)
    assert invoke(tmp_path / "results", made).exit_code == 0
    assert {run.verified for run in collect(tmp_path / "results").runs} == {"submitted"}
    outcome = invoke(runs, made, "--out", str(tmp_path / "results"))
    assert outcome.exit_code == 0, outcome.output
    assert not (runs / FILE).exists()
    again = invoke(tmp_path / "results", made, "--json")
    assert states(again) == {"submitted": 5}
    assert [run.verified for run in collect(tmp_path / "results").runs].count("re-evaluated") == 4


def test_a_run_directory_and_a_published_file_can_be_named(runs: Path, made: Path, tmp_path: Path) -> None:
    outcome = invoke(one_of(runs, "roast"), made, "--json")
    assert states(outcome) == {"re-evaluated": 1}
    assert json.loads(outcome.output)["written"] is None
    publish(runs, tmp_path / "results", trial=True)
    outcome = invoke(tmp_path / "results" / "digits15-ensemble.jsonl", made, "--json")
    assert states(outcome) == {"submitted": 1}
    assert (tmp_path / "results" / FILE).exists()


@pytest.mark.slow
def test_runs_are_trained_again_and_come_out_the_same(runs: Path, made: Path) -> None:
    first = invoke(runs, made, "--retrain", "2", "--draw-seed", "three", "--json")
    assert first.exit_code == 0, first.output
    assert states(first) == {"re-run": 2, "re-evaluated": 2, "submitted": 1}
    trained = [
        check for run in json.loads(first.output)["runs"] for check in run["checks"] if check["name"] == "training"
    ]
    assert {check["detail"] for check in trained} == {"exactly, on the same device and versions"}
    lots = json.loads(first.output)["lots"]
    assert (lots["seed"], len(lots["drawn"]), lots["able"]) == ("three", 2, 4)
    assert lots["unable"] == {"it was refused": 1}
    invoke(runs, made)
    assert [run.verified for run in collect(runs).runs].count("re-run") == 2


@pytest.mark.slow
def test_training_again_finds_numbers_that_were_made_up(runs: Path, made: Path, tmp_path: Path) -> None:
    publish(runs, tmp_path / "results", trial=True)
    file = tmp_path / "results" / "digits15-ensemble.jsonl"
    line = json.loads(file.read_text(encoding="utf-8"))
    line["record"]["metrics"]["nll"] += 0.001
    line["record"]["subsets"][-1]["metrics"]["nll"] += 0.001
    file.write_text(json.dumps(line), encoding="utf-8")
    assert invoke(file, made).exit_code == 0
    outcome = invoke(file, made, "--retrain", "5", "--json")
    assert outcome.exit_code == 1
    assert states(outcome) == {"differs": 1}
    assert read_states(tmp_path / "results") == {}
    assert "4 runs fewer trained again than wished" in invoke(file, made, "--retrain", "5").output


# What differs


@pytest.mark.parametrize(
    ("label", "changes", "words"),
    [
        ("roast", {"seed": 7}, "fingerprint"),
        ("roast", {"knobs": {}}, "fingerprint"),
        ("roast", {"budget_parameters": 9_999}, "budget: 0.1 of"),
        ("roast", {"dense_parameters": 100_000}, "the dense network has"),
        ("roast", {"state": "over-budget"}, "called over-budget"),
        ("roast", {"parameters": {"bank": 7, "total": 9}}, "the kinds sum to 7, the total says 9"),
        ("roast", {"parameters": {"bank": 90_000, "total": 90_000}}, "over the budget of"),
        ("roast", {"bank_params": 10**9}, "parameters in banks are more"),
        ("roast", {"effective_parameters": 10**9}, "effective parameters are more"),
        ("roast", {"metrics": {"accuracy": 0.9, "nll": 0.1, "ece": 0.1}}, "is no whole number of"),
        ("roast", {"metrics": {"accuracy": 1.0, "nll": 0.1, "ece": 0.1}}, "correctness bits are set"),
        ("roast", {"metrics": {"accuracy": 1.5, "nll": -0.1, "ece": 0.1}}, "nll is negative"),
        ("roast", {"metrics": {"accuracy": float("nan"), "nll": 1.0, "ece": 0.1}}, "accuracy is no number"),
        ("roast", {"metrics": {"accuracy": 1.0}}, "nll is missing"),
        ("roast", {"test_examples": 8}, "do not fit 8 test examples"),
        ("roast", {"certificate": None}, "certificate: there is none"),
        ("roast", {"accounting": "bank"}, "the card counts by total"),
        ("roast", {"task_version": 9}, "the record says 9"),
        ("roast", {"costs": {"macs": -1.0}}, "cost macs is negative"),
        ("roast", {"costs": {"macs": 1.0}}, "multiply-adds, not 1"),
        ("magnitude", {"costs": {"macs": 1.0}}, "multiply-adds, not 1"),
        ("narrow", {"costs": {"macs": 1.0}}, "multiply-adds, not 1"),
        ("roast", {"side_information_bits": 1}, "bits of side information, not 1"),
        ("roast", {"running_statistics": 1}, "running statistics, not 1"),
        ("narrow", {"bank_params": 1}, "parameters in banks, not 1"),
        ("dense", {"reason": ""}, "does not say why"),
        ("dense", {"smallest": 5}, "though 5 parameters would do"),
        ("dense", {"metrics": {"accuracy": 0.9}}, "has no metrics"),
        ("narrow", {"subsets": []}, "no subset is told"),
    ],
)
def test_a_record_that_cannot_be_is_named_with_what_is_wrong(
    runs: Path, made: Path, label: str, changes: dict[str, Any], words: str
) -> None:
    rewrite(one_of(runs, label), **changes)
    outcome = invoke(one_of(runs, label), made)
    assert outcome.exit_code == 1
    assert words in outcome.output
    assert "Traceback" not in outcome.output


def test_fewer_parameters_than_the_network_has_differ(runs: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npasbench.running.rebuilding.commit", lambda: {"commit": "here"})
    folder = one_of(runs, "roast")
    told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    kinds = told["parameters"]
    here = {**told["provenance"], "commit": "here", "torch": torch.__version__}
    fewer = {**kinds, "bank": kinds["bank"] - 9, "total": kinds["total"] - 9}
    certificate = {**told["certificate"], "floats": fewer["total"]}
    effective = told["effective_parameters"] - 9
    changes = {"certificate": certificate, "effective_parameters": effective, "provenance": here}
    rewrite(folder, parameters=fewer, bank_params=None, **changes)
    (folder / "model.safetensors").unlink()
    outcome = invoke(folder, made)
    assert f"the network has {kinds['total']:,} parameters, not {fewer['total']:,}" in outcome.output
    elsewhere = {**told["provenance"], "commit": "another"}
    rewrite(folder, provenance=elsewhere)
    assert "differs" not in invoke(folder, made).output.replace("0 differs", "")
    rewrite(folder, costs={"macs": told["costs"]["macs"] * 1.02})
    assert "multiply-adds, not" in invoke(folder, made).output


def test_an_nll_below_what_the_wrong_predictions_cost_differs(runs: Path, made: Path) -> None:
    folder = one_of(runs, "roast")
    metrics = json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"]
    least = (1 - metrics["accuracy"]) * math.log(2)
    rewrite(folder, metrics={**metrics, "nll": least - 0.001})
    assert "each wrong prediction costs at least ln 2" in invoke(folder, made).output
    rewrite(folder, metrics={**metrics, "nll": least + 0.001})
    assert "at least ln 2" not in invoke(folder, made).output


def test_a_network_that_a_search_decides_is_not_built_and_says_so(runs: Path, made: Path) -> None:
    builder = Builder()
    record = records.read(FROZEN / "1-first-done.json")
    card = Cards(()).of(record)
    assert card is not None
    entry = Entry(label="x", method="ssn", set={"groups": "learned"})
    (spec,) = plan_entry(card.name, entry, Registry(), budgets=["0.1"], seeds=[0])
    assert "depends on a search" in builder.check(record, "a", lambda: spec).detail
    huge = spec.model_copy(update={"budget_parameters": 10**12})
    assert "above 4 times the dense count is not built" in builder.check(record, "b", lambda: huge).detail


def test_a_certificate_that_was_not_passed_or_does_not_add_up_differs(runs: Path, made: Path) -> None:
    folder = one_of(runs, "roast")
    told = json.loads((folder / "result.json").read_text(encoding="utf-8"))["certificate"]
    for change, words in (
        ({"passed": False, "detail": "broken"}, "not passed: broken"),
        ({"floats": 5}, "5 floats are stored"),
        ({"differing_predictions": 3}, "3 differing predictions"),
        ({"dead": 4}, "without 4 dead ones"),
    ):
        rewrite(folder, certificate={**told, **change})
        assert words in invoke(folder, made).output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda subsets: subsets[0]["metrics"].update(nll=9.0), "other metrics than its only member"),
        (lambda subsets: subsets[-1]["metrics"].update(nll=9.0), "other metrics than the ensemble"),
        (lambda subsets: subsets[4].update(macs=1.0), "has 1 multiply-adds, its members"),
        (lambda subsets: subsets.pop(3), "which have 15"),
        (lambda subsets: subsets[3].update(members=[-1]), "subsets name each"),
        (lambda subsets: subsets[3].update(members=[0, 0]), "subsets name each"),
        (lambda subsets: subsets[3].update(members=[77]), "subsets name each"),
        (lambda subsets: subsets[5]["metrics"].update(accuracy=1.5), "has accuracy 1.5"),
        (lambda subsets: subsets[5]["metrics"].update(nll=1e-9), "has an NLL of 1e-09 cannot be with an accuracy"),
    ],
)
def test_members_and_subsets_that_contradict_each_other_differ(change: Callable[[Any], object], words: str) -> None:
    content = json.loads((FROZEN / "1-members.json").read_text(encoding="utf-8"))
    assert [check.outcome for check in check_record(records.parse(content, "x"), None, None, None)].count(
        "differs"
    ) == 1
    change(content["subsets"])
    (found,) = [c for c in check_record(records.parse(content, "x"), None, None, None) if c.name == "members"]
    assert found.outcome == "differs"
    assert words in found.detail


def test_weights_that_predict_something_else_differ(runs: Path, made: Path) -> None:
    shutil.copy(one_of(runs, "roast", 1) / "model.safetensors", one_of(runs, "roast", 0) / "model.safetensors")
    outcome = invoke(runs, made)
    assert outcome.exit_code == 1
    assert "weights: " in outcome.output
    assert "test examples are predicted otherwise" in outcome.output
    assert ("roast", one_of(runs, "roast", 0).name[-8:]) not in {(k[0], k[1][:8]) for k in read_states(runs)}


def test_bits_that_were_moved_differ_from_what_the_weights_predict(runs: Path, made: Path) -> None:
    folder = one_of(runs, "magnitude")
    packed = np.load(folder / "correct.npy")
    np.save(folder / "correct.npy", np.concatenate([packed[:-1][::-1], packed[-1:]]))
    outcome = invoke(folder, made)
    assert "metrics:" not in outcome.output
    assert "are predicted otherwise" in outcome.output


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 8 + b"{}"])
def test_a_damaged_weight_file_is_a_sentence(runs: Path, made: Path, content: bytes) -> None:
    (one_of(runs, "roast") / "model.safetensors").write_bytes(content)
    outcome = invoke(runs, made)
    assert outcome.exit_code == 1
    assert "model.safetensors does not fit its run" in outcome.output


def test_a_spec_of_another_run_differs(runs: Path, made: Path) -> None:
    shutil.copy(one_of(runs, "roast", 1) / "spec.json", one_of(runs, "roast", 0) / "spec.json")
    assert "spec.json says seed 1, the record 0" in invoke(one_of(runs, "roast"), made).output


def test_an_unreadable_record_and_a_contradiction_are_problems(runs: Path, made: Path, tmp_path: Path) -> None:
    publish(runs, runs, trial=True)
    assert invoke(runs, made).exit_code == 0
    rewrite(one_of(runs, "dense"), reason="Another.", state="skipped")
    (one_of(runs, "narrow") / "result.json").write_text("{")
    outcome = invoke(runs, made)
    assert outcome.exit_code == 1
    assert "hold different results of one run (dense" in outcome.output
    assert "result.json cannot be read" in outcome.output


# What a record names is not run


def test_plugins_of_a_record_are_not_imported_and_its_label_is_no_path(runs: Path, made: Path, tmp_path: Path) -> None:
    folder = one_of(runs, "roast")
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    (folder / "spec.json").write_text(json.dumps({**spec, "plugins": [str(evil)]}), encoding="utf-8")
    outcome = invoke(folder, made, "--retrain", "1", "--json")
    assert outcome.exit_code == 0, outcome.output
    assert states(outcome) == {"re-run": 1}
    assert not (tmp_path / "ran").exists()
    rewrite(folder, label=str(tmp_path / "escaped"))
    assert "is no label" in invoke(folder, made, "--retrain", "1").output
    assert not (tmp_path / "escaped").exists()


def test_a_method_or_task_that_is_not_here_is_not_checked_and_says_how_it_could_be(runs: Path, made: Path) -> None:
    folder = one_of(runs, "roast")
    outcome = CliRunner().invoke(command, [str(folder), "--retrain", "1", "--device", "cpu"])
    assert outcome.exit_code == 0, outcome.output
    assert "another version of the task" in outcome.output
    assert "1 submitted" in outcome.output
    assert "1 run fewer trained again than wished" in outcome.output


@pytest.mark.parametrize("words", [["nowhere"], ["pyproject.toml"]])
def test_what_is_no_result_is_a_sentence(words: list[str]) -> None:
    from npasbench.errors import UsageError

    outcome = CliRunner().invoke(command, words)
    assert isinstance(outcome.exception, UsageError)


# Tolerance


def test_elsewhere_numbers_may_lie_a_little_apart_and_here_not_at_all() -> None:
    one = records.read(FROZEN / "1-first-done.json")
    near = one.model_copy(update={"metrics": {**one.metrics, "nll": one.metrics["nll"] * 1.001}})
    far = one.model_copy(update={"metrics": {**one.metrics, "nll": one.metrics["nll"] * 2}})
    elsewhere = {"provenance": {**one.provenance, "device": "another"}}
    assert compared("x", one, one, None, None, EVALUATED).outcome == "agrees"
    assert compared("x", one, near, None, None, EVALUATED).outcome == "differs"
    told = compared("x", one, near.model_copy(update=elsewhere), None, None, EVALUATED)
    assert (told.outcome, "another device or version: accuracy within 0.005" in told.detail) == ("agrees", True)
    assert compared("x", one, far.model_copy(update=elsewhere), None, None, TRAINED).outcome == "differs"
    counted = one.model_copy(update={**elsewhere, "parameters": {"total": 1}})
    assert "parameters is" in compared("x", one, counted, None, None, TRAINED).detail


def test_kinds_may_be_called_otherwise_by_another_version_of_npasbench() -> None:
    one = records.read(FROZEN / "1-first-done.json")
    kinds = {"parameters": {"all": one.parameters["total"], "total": one.parameters["total"]}}
    told = compared("x", one, one.model_copy(update=kinds), None, None, EVALUATED)
    assert "parameters is" in told.detail
    later = {**kinds, "provenance": {**one.provenance, "commit": "another"}}
    assert compared("x", one, one.model_copy(update=later), None, None, EVALUATED).outcome == "agrees"
    fewer = {**later, "parameters": {"total": 1}}
    assert "parameters is" in compared("x", one, one.model_copy(update=fewer), None, None, EVALUATED).detail


# verification.json


def test_the_strongest_state_of_one_record_stays_and_another_record_begins_anew(tmp_path: Path) -> None:
    key = ("l", "f")
    for state in ("submitted", "re-evaluated", "re-run", "submitted"):
        write_states(tmp_path, {key: Verified(state, "a")})
    assert read_states(tmp_path) == {key: Verified("re-run", "a")}
    write_states(tmp_path, {key: Verified("submitted", "b"), ("m", "f"): Verified("submitted", "c")})
    assert read_states(tmp_path)[key] == Verified("submitted", "b")
    write_states(tmp_path, {}, [key])
    assert set(read_states(tmp_path)) == {("m", "f")}


def test_a_state_holds_for_no_changed_record_and_tampering_is_passed_over(runs: Path, made: Path) -> None:
    invoke(runs, made)
    content = json.loads((runs / FILE).read_text(encoding="utf-8"))
    rewrite(one_of(runs, "roast"), reason="changed")
    assert {run.verified for run in collect(runs).runs if run.identity.label == "roast" and run.identity.seed == 0} == {
        STATES[0]
    }
    for bad in (
        b"{",
        b"[]",
        b'{"schema": 1, "runs": []}',
        b'{"schema": 2, "runs": {}}',
        json.dumps({**content, "runs": {k: {"roast": {"state": "re-run"}} for k in content["runs"]}}).encode(),
        json.dumps({**content, "runs": {k: {"roast": "re-run"} for k in content["runs"]}}).encode(),
        json.dumps({"schema": 1, "runs": {"x" * 64: {"y": {"state": "best", "record": "z"}}}}).encode(),
        json.dumps(
            {
                "schema": 1,
                "runs": {k: {n: {**e, "state": ["re-run"]} for n, e in v.items()} for k, v in content["runs"].items()},
            }
        ).encode(),
    ):
        (runs / FILE).write_bytes(bad)
        assert {run.verified for run in collect(runs).runs} == {STATES[0]}
