"""Which gradients agree: cosines of what they have in common, average linkage and the release's rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from npasbench.sharing.agreement import agreeing, cosine, cosines

RULES = ("average", "published")


def similar(n: int, **pairs: float) -> Tensor:
    """Similarities of a, b, c, ...; 0 where nothing is said."""
    found = torch.eye(n, dtype=torch.float64)
    for (one, other), value in pairs.items():
        i, j = "abcdef".index(one), "abcdef".index(other)
        found[i, j] = found[j, i] = value
    return found


def test_a_cosine_is_of_what_two_gradients_have_in_common():
    one, other = torch.randn(4, 2, 3, 3), torch.randn(3, 5, 3, 3)
    a, b = one[:3, :2].flatten(), other[:3, :2].flatten()
    assert cosine(one, other) == pytest.approx(float(a @ b / a.norm() / b.norm()), rel=1e-5)
    assert cosine(one, one) == pytest.approx(1)
    assert cosine(one, -1e-20 * one.double()) == pytest.approx(-1)


def test_beside_a_gradient_of_zeros_the_cosine_is_zero():
    assert cosine(torch.zeros(2, 2), torch.ones(2, 2)) == 0
    assert torch.equal(cosines([torch.zeros(2), torch.zeros(2)]), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(1, 7), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_groups_are_numbered_as_they_appear_and_split_further_as_the_threshold_rises(rule: Any, n: int, seed: int):
    similarities = cosines(list(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))))
    for threshold in (-1.0, -0.5, 0.0, 0.5, 1.0):
        groups = agreeing(similarities, threshold, rule)
        assert [groups.index(number) for number in range(1 + max(groups))] == sorted({groups.index(g) for g in groups})
    assert agreeing(similarities, 1.0, rule) == list(range(n))
    if rule == "average":
        counts = [1 + max(agreeing(similarities, threshold, rule)) for threshold in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        assert counts == sorted(counts)
        assert counts[0] == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_pair_is_together_above_the_threshold_and_apart_at_it(rule: Any):
    assert agreeing(similar(2, ab=0.5), 0.4999, rule) == [0, 0]
    assert agreeing(similar(2, ab=0.5), 0.5, rule) == [0, 1]


def test_where_the_releases_rule_tears_a_layer_from_its_best_match_average_linkage_does_not():
    similarities = similar(4, ab=0.9, cd=0.8, ac=0.7)
    assert agreeing(similarities, 0.5, "published") == [0, 1, 0, 0]
    assert agreeing(similarities, 0.5, "average") == [0, 0, 1, 1]


@given(st.permutations(range(6)), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_average_linkage_does_not_depend_on_the_order_of_layers(order: list[int], seed: int):
    similarities = cosines(list(torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))))
    groups = agreeing(similarities, 0.1, "average")
    moved = agreeing(similarities[order][:, order], 0.1, "average")
    assert all((groups[order[i]] == groups[order[j]]) == (moved[i] == moved[j]) for i in range(6) for j in range(6))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_agrees_with_none(rule: Any, bad: float):
    vectors = [torch.ones(3), torch.ones(3), torch.tensor([bad, 1.0, 1.0])]
    assert agreeing(cosines(vectors), 0.5, rule) == [0, 0, 1]


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_below_the_lowest_cosine_all_are_one_group(rule: Any, n: int, seed: int):
    similarities = cosines(list(torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))))
    assert agreeing(similarities, -1.01, rule) == [0] * n
