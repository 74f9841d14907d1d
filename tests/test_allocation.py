"""Dividing a budget among shapes and layers: never more than there is, and the smallest that is named is the smallest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npasbench.errors import BudgetTooSmall
from npasbench.sharing.allocation import in_proportion, tensors_for_each_shape

shapes = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 9)), min_size=1, max_size=6)
law = settings(max_examples=100, deadline=None)


def mixing(layers: int, tensors: int) -> int:
    return layers * tensors if layers * tensors > 1 else 0


def plain(layers: int, tensors: int) -> int:
    return 0


def cost(sizes: list[int], layers: list[int], tensors: list[int], extra=plain) -> int:
    return sum(size * k + extra(m, k) for size, m, k in zip(sizes, layers, tensors, strict=True))


def split(shapes: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [size for size, _ in shapes], [layers for _, layers in shapes]


@given(shapes, st.integers(1, 20_000), st.sampled_from([plain, mixing]))
@law
def test_the_tensors_cost_no_more_than_the_budget_and_every_shape_has_one(shapes, parameters, extra):
    sizes, layers = split(shapes)
    try:
        tensors = tensors_for_each_shape(sizes, layers, parameters, extra=extra)
    except BudgetTooSmall as error:
        tensors, smallest = None, error.smallest
    if tensors is None:
        assert parameters < smallest
    else:
        assert cost(sizes, layers, tensors, extra) <= parameters
        assert all(1 <= k <= m for k, m in zip(tensors, layers, strict=True))


@given(shapes, st.sampled_from([plain, mixing]))
@law
def test_the_smallest_budget_that_is_named_suffices_and_one_less_does_not(shapes, extra):
    sizes, layers = split(shapes)
    with pytest.raises(BudgetTooSmall) as caught:
        tensors_for_each_shape(sizes, layers, 0, extra=extra)
    smallest = caught.value.smallest
    assert smallest == cost(sizes, layers, [1] * len(sizes), extra)
    assert cost(sizes, layers, tensors_for_each_shape(sizes, layers, smallest, extra=extra), extra) <= smallest
    with pytest.raises(BudgetTooSmall):
        tensors_for_each_shape(sizes, layers, smallest - 1, extra=extra)


@given(shapes, st.integers(1, 20_000))
@law
def test_no_further_tensor_of_the_largest_shape_would_fit(shapes, parameters):
    sizes, layers = split(shapes)
    try:
        tensors = tensors_for_each_shape(sizes, layers, parameters)
    except BudgetTooSmall:
        return
    left = parameters - cost(sizes, layers, tensors)
    largest = max(range(len(sizes)), key=lambda i: sizes[i])
    assert tensors[largest] == layers[largest] or sizes[largest] > left


@given(shapes)
@law
def test_with_room_for_all_every_layer_has_a_tensor_of_its_own(shapes):
    sizes, layers = split(shapes)
    assert tensors_for_each_shape(sizes, layers, cost(sizes, layers, layers)) == layers


def test_shapes_get_alike_shares_of_their_layers():
    assert tensors_for_each_shape([100, 10], [8, 8], 440) == [4, 4]
    assert tensors_for_each_shape([100, 10], [8, 4], 420) == [4, 2]


def test_a_limit_above_the_number_of_layers_is_used_up():
    assert tensors_for_each_shape([10], [2], 100, limit=lambda layers: 10**6) == [10]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(1, 20_000))
@law
def test_shares_in_proportion_add_up_exactly_and_none_is_empty(sizes, parameters):
    if parameters < len(sizes):
        with pytest.raises(BudgetTooSmall) as caught:
            in_proportion(sizes, parameters)
        assert caught.value.smallest == len(sizes)
    else:
        shares = in_proportion(sizes, parameters)
        assert sum(shares) == parameters
        assert min(shares) >= 1


@given(st.data(), st.lists(st.integers(1, 500), min_size=1, max_size=12))
@law
def test_no_share_exceeds_its_size_while_they_do_not_together(data, sizes):
    parameters = data.draw(st.integers(len(sizes), sum(sizes)))
    assert all(share <= size for share, size in zip(in_proportion(sizes, parameters), sizes, strict=True))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12))
@law
def test_shares_of_everything_are_the_sizes_themselves(sizes):
    assert in_proportion(sizes, sum(sizes)) == sizes


@given(st.lists(st.integers(2, 500), min_size=1, max_size=12), st.integers(12, 20_000))
@law
def test_shares_differ_from_exact_proportion_by_rounding_only(sizes, parameters):
    shares = in_proportion(sizes, parameters)
    beyond, spare = sum(sizes) - len(sizes), parameters - len(sizes)
    assert all(abs(share - 1 - spare * (size - 1) / beyond) < 1 for share, size in zip(shares, sizes, strict=True))


def test_equal_single_entries_share_equally():
    assert in_proportion([1, 1, 1], 8) == [3, 3, 2]
