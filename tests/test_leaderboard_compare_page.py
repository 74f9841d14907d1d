"""What the compare page says of a pair is what the task's page decides, not what the pair's own interval would."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from records import scored

from npasbench.leaderboard.board import Board
from npasbench.leaderboard.compare_page import compare_page, decisions
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.names import Names
from npasbench.leaderboard.statistics import paired_difference
from npasbench.leaderboard.store import collect

LABELS = ("hashed", "naive", "narrow", "roast", "shallow", "ssn")
CLOSE = {"hashed": 0.0, "naive": 0.004, "narrow": -0.06, "roast": 0.002, "shallow": -0.05, "ssn": 0.001}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Six entries of ten seeds, of which four lie close together, and one that does not rank."""
    for place, label in enumerate(LABELS):
        noise = {seed: ((seed * (place + 3) * 7919) % 11 - 5) / 1500 for seed in range(10)}
        scored(tmp_path, label, "0.1", {seed: 0.9 + CLOSE[label] + noise[seed] for seed in range(10)})
    scored(tmp_path, "template-bank", "0.1", dict.fromkeys(range(2), 0.9))
    (board,) = boards(collect(tmp_path).runs)
    return board


def test_every_ranked_pair_has_the_decision_of_the_ranking(board: Board) -> None:
    pairs, ranking = decisions(board, "0.1")["pairs"], board.rankings["0.1"]
    control = board.reference
    seen = set()
    for (place, one), (later, other) in combinations(enumerate(board.entries), 2):
        if control in (one, other) or not (one in ranking.position and other in ranking.position):
            continue
        verdict, _, family = pairs[f"{place} {later}"]
        above = ranking.decided.above[ranking.position[one], ranking.position[other]]
        below = ranking.decided.above[ranking.position[other], ranking.position[one]]
        assert verdict == ("higher" if above else "lower" if below else "tie")
        assert family == 0
        seen.add(verdict)
    assert len(seen) > 1
    assert decisions(board, "0.1")["families"] == ["all 15 pairs", "5 comparisons with narrow"]


def test_a_tie_stays_a_tie_where_the_pairs_own_interval_lies_clear_of_zero(board: Board) -> None:
    pairs = decisions(board, "0.1")["pairs"]
    clear = 0
    for (place, one), (later, other) in combinations(enumerate(board.entries), 2):
        own = paired_difference(one.cell("0.1").scores, other.cell("0.1").scores)
        if own and own.verdict in ("higher", "lower") and pairs.get(f"{place} {later}", [""])[0] == "tie":
            clear += 1
    assert clear > 0


def test_a_pair_with_the_control_has_the_verdict_against_it_from_the_first_ones_side(board: Board) -> None:
    pairs = decisions(board, "0.1")["pairs"]
    titles = [entry.title for entry in board.entries]
    narrow = titles.index("narrow")
    for place, entry in enumerate(board.entries):
        compared = board.comparison(entry, "0.1")
        if compared:
            verdict, p, family = pairs[f"{min(place, narrow)} {max(place, narrow)}"]
            turned = {"higher": "lower", "lower": "higher"}.get(compared.verdict, compared.verdict)
            assert (verdict, family) == (compared.verdict if place < narrow else turned, 1)
            assert (p == "") == (compared.corrected is None)
    assert pairs[f"{titles.index('hashed')} {narrow}"][0] == "higher"
    assert pairs[f"{narrow} {titles.index('roast')}"][0] == "lower"


def test_a_pair_of_which_one_does_not_rank_is_not_decided(board: Board) -> None:
    titles = [entry.title for entry in board.entries]
    place = titles.index("template-bank")
    told = [key for key in decisions(board, "0.1")["pairs"] if str(place) in key.split()]
    assert told == [f"{titles.index('narrow')} {place}"]  # too few seeds to tell, but compared
    assert decisions(board, "0.1")["pairs"][told[0]][0] == "too few"


def test_the_page_holds_the_decisions_of_each_budget(board: Board) -> None:
    page = compare_page(board, Names.of([board]))
    assert [one["decided"] for one in page.data["budgets"]] == [decisions(board, budget) for budget in board.budgets]
