"""What is averaged, what is ranked, and what is only shown."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from records import card, put, realistic, result, scored, spec

from npasbench.leaderboard.board import Board
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.standings import reason
from npasbench.leaderboard.statistics import paired_difference
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.ties import Place
from npasbench.registry import Registry

TEN = {seed: 0.90 + 0.001 * (seed % 3) for seed in range(10)}


def board_of(root: Path) -> Board:
    (found,) = boards(collect(root).runs)
    return found


def cell(board: Board, label: str, budget: str = "0.1"):
    return next(entry for entry in board.entries if entry.label == label).cell(budget)


def test_a_cell_of_ten_clean_runs_is_ranked_and_knows_them(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    found = cell(board_of(tmp_path), "roast")
    assert found.kind == "measured"
    assert found.rankable
    assert [run.identity.seed for run in found.counted] == list(range(10))


def test_the_leader_is_tied_with_whom_it_cannot_be_told_from(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    scored(tmp_path, "hashed", "0.1", {seed: score - (0.001 if seed % 2 else -0.0009) for seed, score in TEN.items()})
    scored(tmp_path, "naive", "0.1", {seed: score - 0.05 - 0.001 * (seed % 2) for seed, score in TEN.items()})
    leader = board_of(tmp_path).leaders["0.1"]
    assert leader.entry.label == "roast"
    assert [entry.label for entry in leader.tied] == ["hashed"]


def test_where_nobody_has_seeds_enough_three_make_a_ranking_that_tells_nothing(tmp_path: Path) -> None:
    scored(tmp_path, "dense", "0.1", {0: 0.99, 1: 0.99})
    scored(tmp_path, "roast", "0.1", {0: 0.95, 1: 0.951, 2: 0.952})
    scored(tmp_path, "naive", "0.1", {0: 0.5, 1: 0.501, 2: 0.502})
    board = board_of(tmp_path)
    assert not cell(board, "dense").rankable
    assert board.leaders["0.1"].entry.label == "roast"
    assert [entry.label for entry in board.leaders["0.1"].tied] == ["naive"]
    assert not board.leaders["0.1"].told
    assert board.provisional


def test_seeds_that_the_card_does_not_name_neither_count_nor_rank(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    scored(tmp_path, "naive", "0.1", {**dict.fromkeys(range(6), 0.8), **dict.fromkeys(range(90, 99), 0.99)})
    scored(tmp_path, "hashed", "0.1", dict.fromkeys(range(90, 99), 0.99))
    board = board_of(tmp_path)
    assert board.leaders["0.1"].entry.label == "roast"
    assert cell(board, "naive").scores == dict.fromkeys(range(6), 0.8)
    assert cell(board, "naive").rankable
    assert cell(board, "naive").unasked == 9
    assert cell(board, "hashed").lacks == "0 of 10 seeds"
    assert cell(board, "hashed").accuracy is not None


@pytest.mark.parametrize(("asked", "ran", "ranked"), [(4, 4, True), (4, 3, False), (10, 6, True), (10, 5, False)])
def test_all_seeds_of_a_card_rank_or_six_where_it_names_more(
    tmp_path: Path, asked: int, ran: int, ranked: bool
) -> None:
    task = card(seeds=list(range(asked)))
    for label, number in (("roast", asked), ("naive", ran)):
        for seed in range(number):
            of = spec(label, "0.1", seed, task=task)
            put(tmp_path, of, record=result(of))
    board = board_of(tmp_path)
    assert cell(board, "roast").rankable
    assert cell(board, "naive").rankable == ranked
    assert cell(board, "naive").lacks == ("" if ranked else f"{ran} of {asked} seeds")


def test_where_the_card_is_not_known_any_six_seeds_rank(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", dict.fromkeys(range(20, 26), 0.9), task_fingerprint="f" * 64)
    scored(tmp_path, "naive", "0.1", dict.fromkeys(range(20, 25), 0.9), task_fingerprint="f" * 64)
    board = board_of(tmp_path)
    assert cell(board, "roast").rankable
    assert cell(board, "naive").lacks == "5 seeds of 6 needed"


def test_the_installed_card_says_which_seeds_count_and_a_spec_cannot_choose_others(tmp_path: Path) -> None:
    installed = Registry().card("digits15-wrn-10-1").model_dump(mode="json", by_alias=True)
    for label in ("roast", "naive"):
        for seed in (3, 5, 8):
            of = spec(label, "0.1", seed, task={**installed, "seeds": [3, 5, 8]})
            put(tmp_path, of, record=result(of))
    board = board_of(tmp_path)
    assert board.seeds == 10
    assert board.provisional
    assert not board.leaders["0.1"].told


def test_a_card_of_another_fingerprint_is_not_the_boards(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0, task=card(title="Not so", seeds=[0, 1, 2]), task_fingerprint="f" * 64)
    put(tmp_path, of, record=result(of))
    board = board_of(tmp_path)
    assert (board.card, board.seeds, board.title) == ({}, 0, board.task)


@pytest.mark.parametrize("ended", ["failed", "refused", "corrupt"])
def test_survivors_of_lost_seeds_are_shown_and_not_ranked(tmp_path: Path, ended: str) -> None:
    scored(tmp_path, "naive", "0.1", TEN)
    scored(tmp_path, "roast", "0.1", {seed: TEN[seed] + 0.05 for seed in range(8)})
    for seed in (8, 9):
        of = spec("roast", "0.1", seed)
        nothing: dict[str, Any] = {"metrics": {}, "parameters": {}, "certificate": None, "reason": "It fell over."}
        if ended == "failed":
            put(tmp_path, of, failure={"error": "It fell over."})
        else:
            folder = put(tmp_path, of, record=result(of, state="refused", **nothing))
            if ended == "corrupt":
                (folder / "result.json").write_text("{")
    found = cell(board_of(tmp_path), "roast")
    assert found.kind == "measured"
    assert len(found.scores) == 8
    assert not found.rankable
    assert found.lacks == f"2 of 10 seeds {'unreadable' if ended == 'corrupt' else ended}"
    assert ended == "corrupt" or reason(found) == f"{found.lacks}: It fell over."


def test_a_seed_that_the_card_does_not_name_may_fail(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    put(tmp_path, spec("roast", "0.1", 77), failure={"error": "x"})
    assert cell(board_of(tmp_path), "roast").rankable


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "bits": ({"metrics": {"accuracy": 0.99, "nll": 0.2, "ece": 0.02}}, "correctness bits are set"),
    "share": ({"metrics": {"accuracy": 1.2, "nll": 0.2, "ece": 0.02}}, "not between 0 and 1"),
    "nll": ({"metrics": {"accuracy": 0.9, "nll": -1.0, "ece": 0.02}}, "nll is negative"),
    "missing": ({"metrics": {"accuracy": 0.9}}, "nll is missing"),
    "counts": ({"parameters": {"bank": 7_000, "total": 10}}, "the kinds sum to 7,000"),
    "over": ({"budget_parameters": 100}, "0.1 of 77,850 is 7,785 parameters, not 100"),
    "knobs": ({"knobs": {"chunk": 1}}, "fingerprint: "),
    "certificate": ({"certificate": None}, "certificate: there is none"),
    "card": ({"task_version": 9}, "the card has version 1, the record says 9"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_record_that_contradicts_itself_counts_nowhere_and_says_why(tmp_path: Path, name: str) -> None:
    change, words = CONTRADICTIONS[name]
    scored(tmp_path, "naive", "0.1", {seed: score - 0.05 for seed, score in TEN.items()})
    scored(tmp_path, "roast", "0.1", TEN)
    file = next(tmp_path.rglob("roast/0.1/seed3-*/result.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    store = collect(tmp_path)
    (problem,) = store.problems
    assert "seed3-" in problem
    assert "contradicts itself and is not counted" in problem
    assert words in problem
    boarded = [cell(board, "roast") for board in boards(store.runs) if any(e.label == "roast" for e in board.entries)]
    assert all(3 not in one.scores and not (one.rankable and len(one.runs) == 10) for one in boarded)
    if name not in ("knobs", "card"):
        (found,) = boarded
        assert found.lacks == "1 of 10 seeds contradictory"
        assert words in reason(found)


def test_bits_that_are_missing_are_a_contradiction_and_nan_and_a_failed_certificate_are_none(tmp_path: Path) -> None:
    bad = {"passed": False, "floats": 1, "differing_predictions": 3, "dead": 0, "detail": ""}
    scored(tmp_path, "naive", "0.1", {0: math.nan})
    scored(tmp_path, "hashed", "0.1", {0: 0.9}, certificate=bad, effective_parameters=None)
    assert collect(tmp_path).problems == ()
    scored(tmp_path, "roast", "0.1", {0: 0.9})
    next(tmp_path.rglob("roast/0.1/seed0-*/correct.npy")).unlink()
    (problem,) = collect(tmp_path).problems
    assert "there are no correctness bits" in problem
    found = cell(board_of(tmp_path), "roast")
    assert (found.kind, found.accuracy) == ("contradictory", None)


def test_many_contradictions_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", dict.fromkeys(range(12), 0.9))
    for file in tmp_path.rglob("correct.npy"):
        file.unlink()
    first, *named = collect(tmp_path).problems
    assert first == ("12 of 12 records contradict themselves and are not counted (metrics 12). The first 10 are:")
    assert len(named) == 10


@pytest.mark.parametrize(
    "label", ["n\u0430rrow", "narrow\u202e", "narrow\u200b", "Narrow", "na rrow", "../x", "", "x" * 81]
)
def test_a_label_that_is_none_is_refused_by_name(tmp_path: Path, label: str) -> None:
    scored(tmp_path, "narrow", "0.1", {0: 0.9, 1: 0.9})
    file = next(tmp_path.rglob("seed1-*/result.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "label": label}))
    store = collect(tmp_path)
    assert [run.identity.label for run in store.runs] == ["narrow", "narrow"]
    (problem,) = store.problems
    assert problem.isascii()
    assert f"key 'label': {ascii(label)[:60]}" in problem
    (file.parent / "spec.json").unlink()
    assert [run.identity.seed for run in collect(tmp_path).runs] == [0]


def test_long_knobs_are_cut_in_what_is_said_of_them(tmp_path: Path) -> None:
    for number in range(8):
        scored(tmp_path, "roast", "0.1", {number: 0.9}, knobs={"k" * 5000: "v" * 5000, "n": number})
    (notice,) = board_of(tmp_path).notices
    assert "n 0" in notice
    assert "; and 3 more" in notice
    assert len(notice) < 500


def test_trial_runs_stand_alone_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", dict.fromkeys(range(4), 0.9))
    for seed in (4, 5):
        of = spec("roast", "0.1", seed)
        put(tmp_path, of, record=result(of, metrics={"accuracy": 0.1}, provenance={"dirty": True}))
    of = spec("naive", "0.1", 0)
    put(tmp_path, of, record=result(of, provenance={"dirty": True}))
    board = board_of(tmp_path)
    assert cell(board, "roast").scores == dict.fromkeys(range(4), 0.9)
    assert cell(board, "naive").kind == "trial"
    assert not cell(board, "naive").rankable


def test_over_budget_and_failed_certificates_are_shown_but_not_ranked(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN, state="over-budget", reason="too many")
    bad = {"passed": False, "floats": 1, "differing_predictions": 3, "dead": 0, "detail": ""}
    scored(tmp_path, "naive", "0.1", TEN, certificate=bad, effective_parameters=None)
    board = board_of(tmp_path)
    assert cell(board, "roast").kind == "over-budget"
    assert cell(board, "roast").accuracy is not None
    assert not cell(board, "roast").rankable
    assert cell(board, "naive").breaches == 10
    assert not cell(board, "naive").rankable


def test_nan_is_kept_and_not_ranked(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {**TEN, 3: math.nan})
    found = cell(board_of(tmp_path), "roast")
    assert found.accuracy is not None
    assert math.isnan(found.accuracy.mean)
    assert not found.rankable


def test_two_definitions_of_a_label_are_not_averaged_and_the_conflict_is_named(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {0: 0.9, 1: 0.9, 2: 0.9}, knobs={"chunk": 32})
    scored(tmp_path, "roast", "0.1", {0: 0.1, 1: 0.1, 2: 0.1}, knobs={"chunk": 64})
    board = board_of(tmp_path)
    assert [entry.title for entry in board.entries] == ["roast (definition 1)", "roast (definition 2)"]
    assert sorted(max(entry.cell("0.1").scores.values()) for entry in board.entries) == [0.1, 0.9]
    assert not any(entry.ranked_at("0.1") for entry in board.entries)
    assert "chunk 32" in board.notices[0]
    assert "chunk 64" in board.notices[0]


def test_two_fingerprints_of_a_task_make_two_boards(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {0: 0.9})
    scored(tmp_path, "naive", "0.1", {0: 0.8}, task_fingerprint="f" * 64)
    found = boards(collect(tmp_path).runs)
    assert [[entry.label for entry in board.entries] for board in found] == [["roast"], ["naive"]]


def test_the_difference_to_narrow_is_paired_and_absent_for_narrow(tmp_path: Path) -> None:
    scored(tmp_path, "narrow", "0.1", TEN)
    scored(tmp_path, "roast", "0.1", {seed: score + 0.01 for seed, score in TEN.items()})
    board = board_of(tmp_path)
    by_label = {entry.label: entry for entry in board.entries}
    difference = board.difference(by_label["roast"], "0.1")
    assert difference is not None
    assert abs(difference.mean - 0.01) < 1e-12
    assert difference.verdict == "higher"
    assert board.difference(by_label["narrow"], "0.1") is None


def test_clean_results_are_not_compared_with_a_trial_control(tmp_path: Path) -> None:
    scored(tmp_path, "narrow", "0.1", TEN, provenance={"dirty": True})
    scored(tmp_path, "roast", "0.1", TEN)
    board = board_of(tmp_path)
    assert all(board.difference(entry, "0.1") is None for entry in board.entries)


def test_every_state_of_a_realistic_folder_is_told(tmp_path: Path) -> None:
    realistic(tmp_path, seeds=3)
    board = board_of(tmp_path)
    told = {(label, budget): cell(board, label, budget).kind for label, budget in [
        ("template-bank", "0.05"), ("magnitude", "0.05"), ("magnitude", "1"), ("hashed", "1"), ("shallow", "1"), ("roast", "0.1"),
    ]}  # fmt: skip
    assert [*told.values()] == ["refused", "over-budget", "skipped", "trial", "missing", "measured"]


def noisy(root: Path, labels: int, lead: float = 0.0) -> Board:
    draw = random.Random(2)
    for number in range(labels):
        ahead = lead if number == 0 else 0.0
        scores = {seed: 0.9 + ahead + 0.01 * math.sin(seed) + draw.gauss(0, 0.004) for seed in range(10)}
        scored(root, f"m{number:02}", "0.1", scores)
    return board_of(root)


def test_a_tie_is_decided_by_the_corrected_test_and_not_by_an_interval(tmp_path: Path) -> None:
    board = noisy(tmp_path, 12)
    leader = board.leaders["0.1"]
    intervals = [paired_difference(leader.entry.cell("0.1").scores, one.cell("0.1").scores) for one in leader.tied]
    assert len(leader.tied) == 11
    assert any(interval and interval.verdict == "higher" for interval in intervals)
    assert all(board.place(entry, "0.1") == Place("A", 1, 12) for entry in board.entries)


def test_a_leader_that_can_be_told_stands_alone(tmp_path: Path) -> None:
    board = noisy(tmp_path, 12, lead=0.03)
    leader, ranking = board.leaders["0.1"], board.rankings["0.1"]
    assert (leader.entry.label, leader.tied) == ("m00", ())
    assert board.place(leader.entry, "0.1") == Place("A", 1, 1)
    last = ranking.entries[-1]
    assert ranking.p(leader.entry, last) == ranking.p(last, leader.entry) == 2 / 1024
    assert board.standing(last, "0.1") == ""


def test_comparisons_with_narrow_are_corrected_for_all_of_the_budget(tmp_path: Path) -> None:
    noisy(tmp_path, 11)
    scored(tmp_path, "narrow", "0.1", {seed: score - 0.02 for seed, score in TEN.items()})
    scored(tmp_path, "narrow", "0.25", TEN)
    scored(tmp_path, "m00", "0.25", {seed: score + 0.02 for seed, score in TEN.items()})
    board = board_of(tmp_path)
    by_label = {entry.label: entry for entry in board.entries}
    one, alone = (board.comparison(by_label["m00"], budget) for budget in ("0.1", "0.25"))
    assert one
    assert alone
    assert (one.family, alone.family) == (11, 1)
    assert one.p is not None
    assert one.corrected is not None
    assert one.corrected > one.p
    assert alone.corrected == alone.p
    assert board.comparison(by_label["narrow"], "0.1") is None


def test_what_is_not_ranked_changes_nothing_that_is_said_of_others(tmp_path: Path) -> None:
    noisy(tmp_path, 3)
    scored(tmp_path, "narrow", "0.1", {seed: score - 0.001 for seed, score in TEN.items()})
    (before,) = (board_of(tmp_path),)
    scored(
        tmp_path, "trial", "0.1", {seed: score + 0.01 * seed for seed, score in TEN.items()}, provenance={"dirty": True}
    )
    after = board_of(tmp_path)
    said = [{entry.label: board.comparison(entry, "0.1") for entry in board.entries} for board in (before, after)]
    trial = said[1].pop("trial")
    assert said[0] == said[1]
    assert trial
    assert (trial.verdict, trial.family) == ("higher", 4)


def test_what_is_not_ranked_has_no_place(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    scored(tmp_path, "naive", "0.1", TEN)
    scored(tmp_path, "hashed", "0.1", {0: 0.99})
    board = board_of(tmp_path)
    hashed = next(entry for entry in board.entries if entry.label == "hashed")
    assert board.place(hashed, "0.1") is None
    assert board.rankings["0.1"].p(hashed, board.leaders["0.1"].entry) is None
    assert board.place(hashed, "0.25") is None
