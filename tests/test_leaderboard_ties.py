"""Who can be told from whom: letters, ranks, and by simulation how often an equal entry is told from the best."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from npasbench.leaderboard import ties
from npasbench.leaderboard.comparing import against, flip_test, flip_tests
from npasbench.leaderboard.ties import decide

BOARDS = 2000
Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda draw, shape: draw.normal(0, 1, shape),
    "skewed": lambda draw, shape: -draw.exponential(1, shape),
    "heavy": lambda draw, shape: draw.standard_t(3, shape),
    "counted": lambda draw, shape: draw.binomial(1647, 0.93, shape) / 1647,
    "unequal": lambda draw, shape: draw.normal(0, 1, shape) * np.geomspace(0.2, 5, shape[1]),
}


def margin(boards: int) -> float:
    """Three standard errors of a share of 5 %."""
    return 3 * math.sqrt(0.05 * 0.95 / boards)


def ordered(values: np.ndarray) -> np.ndarray:
    return values[:, np.argsort(-values.mean(axis=0), kind="stable")]


def by_seed(values: np.ndarray) -> list[dict[int, float]]:
    return [dict(enumerate(column)) for column in values.T.tolist()]


@pytest.mark.parametrize("noise", NOISES)
def test_equal_entries_are_told_apart_on_at_most_one_board_in_twenty(noise: str) -> None:
    draw = np.random.default_rng(11)
    from_best = anywhere = 0
    for _ in range(BOARDS):
        above = decide(by_seed(ordered(NOISES[noise](draw, (10, 10))))).above
        from_best += above[0].any()
        anywhere += above.any()
    assert from_best <= anywhere
    assert anywhere / BOARDS <= 0.05 + margin(BOARDS)
    assert anywhere / BOARDS > 0.03  # a test that never tells would pass too


def test_equal_entries_are_not_told_apart_more_often_where_others_differ() -> None:
    draw = np.random.default_rng(12)
    true = np.repeat([0.0, -3.0, -30.0], [4, 4, 2])
    wrong = 0
    for _ in range(BOARDS // 2):
        values = draw.normal(0, 1, (10, 10)) + true
        order = np.argsort(-values.mean(axis=0))
        above = decide(by_seed(values[:, order])).above
        wrong += (above & (true[order][:, None] <= true[order])).any()
    assert wrong / (BOARDS // 2) <= 0.05 + margin(BOARDS // 2)


def test_holm_over_the_comparisons_with_the_best_would_raise_too_many_false_alarms() -> None:
    """Why the family is all pairs: the best is picked from the numbers that are tested."""
    draw = np.random.default_rng(13)
    told = 0
    for _ in range(BOARDS):
        values = ordered(draw.normal(0, 1, (10, 10)))
        told += 9 * flip_tests(values[:, :1] - values[:, 1:]).min() <= 0.05
    assert told / BOARDS > 0.05 + margin(BOARDS)


def test_comparisons_with_a_control_raise_few_enough_false_alarms() -> None:
    draw = np.random.default_rng(14)
    told = 0
    for _ in range(BOARDS):
        control, *others = by_seed(draw.normal(0, 1, (10, 10)))
        told += any(one and one.verdict in ("higher", "lower") for one in against(control, others))
    assert told / BOARDS <= 0.05 + margin(BOARDS)


def test_two_entries_are_decided_by_the_exact_test_alone() -> None:
    draw = np.random.default_rng(15)
    for shift in (0.0, 0.5, 2.0):
        values = ordered(draw.normal(0, 1, (8, 2)) + np.array([shift, 0]))
        found = decide(by_seed(values))
        assert found.p[0, 1] == pytest.approx(flip_test(values[:, 0] - values[:, 1]))
        assert found.above[0, 1] == (found.p[0, 1] <= 0.05)


def test_entries_share_a_letter_exactly_if_they_cannot_be_told_apart() -> None:
    draw = np.random.default_rng(16)
    lengths = set()
    for size in (1, 2, 5, 9, 14):
        values = ordered(draw.normal(0, 1, (10, size)) * draw.uniform(0.3, 2, size) - np.linspace(0, 4, size))
        found = decide(by_seed(values))
        for one, other in itertools.combinations(range(size), 2):
            shared = {*found.places[one].letters} & {*found.places[other].letters}
            assert bool(shared) != found.apart(one, other)
        assert found.places[0].letters[0] == "A"
        assert all(place.letters for place in found.places)
        lengths |= {len(place.letters) for place in found.places}
    assert lengths >= {1, 2}


def test_letters_that_others_make_superfluous_are_left_out() -> None:
    chain = ~(abs(np.subtract.outer(range(5), range(5))) <= 1)
    assert ties._letters(chain) == ["A", "AB", "BC", "CD", "D"]
    assert ties._letters(np.zeros((4, 4), dtype=bool)) == ["A"] * 4
    assert ties._letters(~np.eye(3, dtype=bool)) == ["A", "B", "C"]
    assert len(ties._needed([[0, 1], [1, 2], [0, 1, 2]], 3)) == 1


def test_where_letters_would_not_do_there_are_none() -> None:
    assert ties._letters(~np.eye(ties.MOST_LETTERS, dtype=bool))[-1] == "Z"
    assert ties._letters(~np.eye(ties.MOST_LETTERS + 1, dtype=bool)) == [""] * (ties.MOST_LETTERS + 1)


def test_ranks_are_what_the_told_pairs_leave_open() -> None:
    draw = np.random.default_rng(17)
    values = ordered(draw.normal(0, 0.1, (10, 4)) - [0, 0, 5, 9])
    assert [(place.first, place.last) for place in decide(by_seed(values)).places] == [(1, 2), (1, 2), (3, 3), (4, 4)]


def test_five_seeds_tell_nobody_from_anybody_however_far_apart() -> None:
    found = decide(by_seed(np.outer(np.ones(5), [9.0, 5.0, 1.0])))
    assert [place.letters for place in found.places] == ["A", "A", "A"]
    assert [(place.first, place.last) for place in found.places] == [(1, 3)] * 3


def test_an_entry_with_few_seeds_is_told_from_nobody_and_others_are_told_all_the_same() -> None:
    draw = np.random.default_rng(18)
    best, worst, few = by_seed(draw.normal(0, 0.1, (10, 3)) + np.array([9, 5, 1]))
    found = decide([best, worst, {seed: few[seed] for seed in range(4)}])
    assert found.apart(0, 1)
    assert not found.apart(0, 2)
    assert not found.apart(1, 2)
    assert not decide([{0: 1.0}, {1: 2.0}]).apart(0, 1)


def test_the_order_of_seeds_does_not_matter() -> None:
    scores = by_seed(ordered(np.random.default_rng(19).normal(0, 1, (9, 6)) - np.linspace(0, 3, 6)))
    turned = [dict(reversed(one.items())) for one in scores]
    assert decide(turned).p.tolist() == decide(scores).p.tolist()


def test_ten_thousand_runs_are_decided_in_seconds() -> None:
    draw = np.random.default_rng(20)
    boards = [by_seed(ordered(draw.normal(0, 1, (10, 50)) - np.linspace(0, 5, 50))) for _ in range(20)]
    start = time.process_time()
    for scores in boards:
        decide(scores)
        against(scores[0], scores[1:])
    assert time.process_time() - start < 10
