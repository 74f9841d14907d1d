"""Paired tests against scipy and against their definitions, and test examples pair by pair."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import put, result, scored, spec
from scipy import stats

from npasbench.leaderboard import comparing
from npasbench.leaderboard.comparing import (
    against,
    correct_bits,
    example_pairs,
    flip_test,
    flip_tests,
    joint_tests,
    least_p,
)
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.store import Run, collect


def draws(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.2, 1, shape)


def seeds(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


@pytest.mark.parametrize("n", [2, 5, 6, 9, 12])
def test_a_flip_test_is_scipys_exact_permutation_test_of_paired_samples(n: int) -> None:
    found = draws(n, n)
    exact = stats.permutation_test((found,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert flip_test(found) == pytest.approx(exact.pvalue, abs=1e-12)


def test_a_flip_test_of_equal_steps_counts_ties_and_not_rounding() -> None:
    steps = np.array([3, 1, -1, 2, 0, 3, 1, -2]) / 1647
    exact = [abs(sum(s * v for s, v in zip(signs, (3, 1, -1, 2, 0, 3, 1, -2), strict=True)))
             for signs in itertools.product((1, -1), repeat=8)]  # fmt: skip
    assert flip_test(steps) == sum(one >= 7 for one in exact) / 256
    assert flip_test(0.9 + steps - 0.9) == flip_test(steps)


def test_more_seeds_than_can_be_counted_are_drawn_and_give_the_same_each_time() -> None:
    found = draws(3, 20)
    exact = stats.ttest_1samp(found, 0).pvalue
    first = flip_test(found)
    comparing._signs.cache_clear()
    assert flip_test(found) == first
    assert first == pytest.approx(exact, abs=0.02)
    assert flip_test([1.0] * 20) == pytest.approx(least_p(20), abs=1e-12)


def test_seeds_that_a_pair_does_not_share_do_not_count() -> None:
    table = draws(4, 9, 2)
    table[[1, 5], 1] = np.nan
    assert flip_tests(table) == pytest.approx([flip_test(table[:, 0]), flip_test(np.delete(table[:, 1], [1, 5]))])


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_the_least_p_is_that_of_differences_of_one_sign(n: int, p: float) -> None:
    assert least_p(n) == p == flip_test([0.01] * n)


def test_no_difference_tells_nothing() -> None:
    assert flip_test([0.0] * 10) == 1
    assert joint_tests(np.zeros((10, 3))).tolist() == [1, 1, 1]
    assert joint_tests(np.empty((10, 0))).size == 0


def test_joint_tests_are_the_step_down_maximum_written_out() -> None:
    found = draws(5, 7, 4) + np.array([0, 0.3, 1.5, 0])

    def sizes(signs: tuple[int, ...]) -> np.ndarray:
        flipped = np.array(signs)[:, None] * found
        return abs(flipped.sum(axis=0)) / np.sqrt((found**2).sum(axis=0))

    flips = [sizes(signs) for signs in itertools.product((1, -1), repeat=7)]
    observed = sizes((1,) * 7)
    order = sorted(range(4), key=lambda pair: -observed[pair])
    expected, least = {}, 0.0
    for number, pair in enumerate(order):
        least = max(least, np.mean([flip[order[number:]].max() >= observed[pair] - 1e-9 for flip in flips]))
        expected[pair] = least
    assert joint_tests(found) == pytest.approx([expected[pair] for pair in range(4)])


def test_joint_tests_do_not_depend_on_how_pairs_are_put_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = draws(6, 8, 50)
    whole = joint_tests(found)
    monkeypatch.setattr(comparing, "_BLOCK", 7)
    assert joint_tests(found).tolist() == whole.tolist()
    assert (whole >= flip_tests(found) - 1e-12).all()


def test_against_the_control_each_is_tested_alone_and_corrected_for_all() -> None:
    control = seeds(draws(7, 10))
    others = [{seed: value + shift + 0.1 * math.sin(seed + shift) for seed, value in control.items()}
              for shift in (0.0, 0.4, -0.5)]  # fmt: skip
    found = [one for one in against(control, others) if one]
    alone = np.array([flip_test([other[s] - control[s] for s in range(10)]) for other in others])
    assert [one.p for one in found] == pytest.approx(alone)
    assert [one.corrected for one in found] == pytest.approx(
        joint_tests(np.array([[other[s] - control[s] for other in others] for s in range(10)]))
    )
    assert [one.verdict for one in found] == ["tie", "higher", "lower"]
    assert [one.family for one in found] == [3, 3, 3]


def test_too_few_seeds_are_no_verdict_and_no_part_of_the_family() -> None:
    control = dict.fromkeys(range(10), 0.5)
    none, five, nan, ten = against(
        control, [{11: 1.0}, dict.fromkeys(range(5), 1.0), {**control, 3: math.nan}, dict.fromkeys(range(10), 1.0)]
    )
    assert none is None
    assert five
    assert nan
    assert ten
    assert (five.verdict, five.p, five.difference.n) == ("too few", None, 5)
    assert (nan.verdict, nan.p) == ("too few", None)
    assert (ten.verdict, ten.family) == ("higher", 1)


def test_six_seeds_can_tell_however_many_are_compared() -> None:
    noise = draws(8, 6, 40)
    control = dict.fromkeys(range(6), 0.5)
    told = against(control, [seeds(0.9 + 0.01 * column) for column in noise.T])
    assert [(one.verdict, one.corrected, one.family) for one in told if one] == [("higher", 2 / 64, 40)] * 40


def two_runs(root: Path, **changes: object) -> tuple[Run, Run]:
    bits = {"roast": [1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 1], "naive": [1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0]}
    for label, right in bits.items():
        of = spec(label, "0.1", 0)
        metrics = {"accuracy": sum(right) / 11, "nll": 0.2, "ece": 0.02}
        folder = put(root, of, record=result(of, test_examples=11, metrics=metrics))
        np.save(folder / "correct.npy", np.packbits(right))
    first, second = sorted(collect(root).runs, key=lambda run: run.identity.label, reverse=True)
    return first, replace(second, **changes)


def test_example_pairs_are_the_table_of_both_and_mcnemars_exact_test(tmp_path: Path) -> None:
    found = example_pairs(*two_runs(tmp_path))
    assert found
    assert (found.both, found.first_only, found.second_only, found.neither) == (3, 5, 1, 2)
    assert found.p == pytest.approx(stats.binomtest(1, 6).pvalue, rel=1e-12)


def test_example_pairs_of_published_runs_are_those_of_their_directories(tmp_path: Path) -> None:
    here = example_pairs(*two_runs(tmp_path / "runs"))
    publish(tmp_path / "runs", tmp_path / "published")
    first, second = sorted(collect(tmp_path / "published").runs, key=lambda run: run.identity.label, reverse=True)
    assert first.directory is None
    assert example_pairs(first, second) == here


def test_runs_of_other_seeds_or_tasks_have_no_example_pairs(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path)
    for change in ({"seed": 1}, {"task_fingerprint": "f" * 64}):
        assert example_pairs(first, replace(second, identity=second.identity.model_copy(update=change))) is None


def test_bits_that_do_not_fit_are_none(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path)
    assert first.directory
    assert correct_bits(first) is not None
    file = first.directory.correct_file
    head = file.read_bytes()
    for content in (b"", head[:-1], head.replace(b"(2,)", b"(9,)"), head.replace(b"|u1", b"|i1")):
        file.write_bytes(content)
        assert correct_bits(first) is None
    assert example_pairs(first, second) is None
    line = replace(second, directory=None, correct="no base 64!")
    assert correct_bits(line) is None


def test_two_runs_that_never_differ_cannot_be_told(tmp_path: Path) -> None:
    first, _ = two_runs(tmp_path)
    found = example_pairs(first, first)
    assert found
    assert (found.first_only, found.second_only, found.p) == (0, 0, 1.0)


def test_scored_cells_without_bits_have_no_pairs(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {0: 0.9})
    (run,) = collect(tmp_path).runs
    if run.directory:
        run.directory.correct_file.unlink(missing_ok=True)
    assert example_pairs(run, run) is None
