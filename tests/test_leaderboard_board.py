"""What is averaged, what is ranked, and what is only shown."""

from __future__ import annotations

import math
import random
from pathlib import Path

from records import put, realistic, result, scored, spec

from npasbench.leaderboard.board import Board
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.statistics import paired_difference
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.ties import Place

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


def test_fewer_than_three_seeds_are_not_ranked_and_fewer_than_six_tie(tmp_path: Path) -> None:
    scored(tmp_path, "dense", "0.1", {0: 0.99, 1: 0.99})
    scored(tmp_path, "roast", "0.1", {0: 0.95, 1: 0.951, 2: 0.952})
    scored(tmp_path, "naive", "0.1", {0: 0.5, 1: 0.501, 2: 0.502})
    board = board_of(tmp_path)
    assert not cell(board, "dense").rankable
    assert board.leaders["0.1"].entry.label == "roast"
    assert [entry.label for entry in board.leaders["0.1"].tied] == ["naive"]
    assert not board.leaders["0.1"].told


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
    scored(tmp_path, "naive", "0.1", TEN, certificate=bad)
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


def test_what_is_not_ranked_has_no_place(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", TEN)
    scored(tmp_path, "naive", "0.1", TEN)
    scored(tmp_path, "hashed", "0.1", {0: 0.99})
    board = board_of(tmp_path)
    hashed = next(entry for entry in board.entries if entry.label == "hashed")
    assert board.place(hashed, "0.1") is None
    assert board.rankings["0.1"].p(hashed, board.leaders["0.1"].entry) is None
    assert board.place(hashed, "0.25") is None
