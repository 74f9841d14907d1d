"""Composed weights: what the chain of SuperWeights gives when it is put together plainly, and the same gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compositions import Shape, composed, compositions, layers_in, plainly
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from npasbench.errors import UsageError
from npasbench.sharing.composed import PUBLISHED_STD, ComposedWeights

CHAINS: dict[str, Sequence[Shape]] = {
    "growing": [(2, 1, 3, 3), (4, 1, 3, 3), (4, 3, 3, 3), (6, 5, 3, 3)],
    "shrinking rows": [(4, 3, 3, 3), (7, 3, 3, 3), (5, 5, 3, 3), (7, 7, 3, 3)],
    "shrinking columns": [(2, 6), (5, 4), (9, 3), (3, 10)],
    "equal counts": [(2, 6, 1, 1), (6, 2, 1, 1), (3, 4, 1, 1), (4, 3, 1, 1), (12, 1, 1, 1)],
    "repeated": [(3, 3), (2, 2), (3, 3), (2, 2), (3, 3)],
    "release's first bin": [(16, 3, 3, 3), (64, 16, 3, 3), (112, 16, 3, 3), (64, 64, 3, 3), (112, 112, 3, 3)],
}
chains = pytest.mark.parametrize("shapes", CHAINS.values(), ids=CHAINS)


def gradients(weights: ComposedWeights, made: dict[str, Tensor], used: Sequence[bool]) -> list[Tensor]:
    """Of a sum in which every scalar of the layers in use has a factor of its own."""
    loss = torch.zeros((), dtype=torch.float64)
    for number, (weight, wanted) in enumerate(zip(made.values(), used, strict=True)):
        factors = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        loss = loss + (weight * factors).sum() + weight.square().sum() if wanted else loss
    given_ = torch.autograd.grad(loss, list(weights.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(weights.parameters(), given_, strict=True)]


def same(weights: ComposedWeights, used: Sequence[bool]) -> None:
    weights = weights.double()
    ours, expected = weights(), plainly(weights)
    assert list(ours) == list(expected)
    torch.testing.assert_close(list(ours.values()), list(expected.values()), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(weights, ours, used), gradients(weights, expected, used), rtol=1e-9, atol=1e-9)


@given(compositions(), st.data())
@settings(max_examples=80, deadline=None)
def test_weights_and_gradients_are_those_of_a_plain_chain(weights: ComposedWeights, data: st.DataObject):
    number = len(weights.layers)
    same(weights, [True] * number)
    some = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    same(weights, [True, *some[1:]])


@chains
@pytest.mark.parametrize("rows", [None, 1, 2])
def test_every_kind_of_chain_is_that_of_the_paper(shapes: Sequence[Shape], rows: int | None):
    same(composed(layers_in(shapes, shapes[:3]), rows=rows), [True] * (len(shapes) + 3))


@chains
def test_a_chain_is_as_large_as_its_largest_shape_where_none_shrinks_and_no_smaller(shapes: Sequence[Shape]):
    (cluster,) = composed(layers_in(shapes)).clusters
    grows = all(
        a <= b
        for one, other in zip(cluster.shapes, cluster.shapes[1:], strict=False)
        for a, b in zip(one, other, strict=True)
    )
    largest = math.prod(cluster.shapes[-1])
    assert sum(cluster.sizes) == largest if grows else sum(cluster.sizes) > largest


def test_a_superweight_of_which_a_layer_keeps_nothing_is_no_matter():
    """The third shape is as narrow as the first: what widened the second is cut off whole."""
    same(composed(layers_in([(1, 1, 3, 3), (1, 2, 3, 3), (3, 1, 3, 3)])), [True] * 3)


def test_the_gradient_is_that_of_the_values():
    weights = composed(layers_in([(2, 3), (3, 2)], [(2, 3), (4, 4)]), rows=2).double()
    names, values = zip(*weights.named_parameters(), strict=True)

    def generated(*given_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.functional_call(weights, dict(zip(names, given_, strict=True)), ()).values())

    assert torch.autograd.gradcheck(generated, values)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def test_there_is_one_product_for_each_superweight_whoever_uses_it():
    weights = composed(layers_in(CHAINS["repeated"], CHAINS["repeated"], [(3, 2), (3, 3)]))
    with Products() as products, torch.no_grad():
        weights()
    assert products.number == len(weights.stores) == 3


@given(compositions())
@settings(max_examples=30, deadline=None)
def test_every_layers_weight_has_its_shape_and_the_parameters_type(weights: ComposedWeights):
    shapes = {layer.name: layer.shape for layer in weights.layers}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        made = weights.to(dtype)()
        assert {name: tuple(weight.shape) for name, weight in made.items()} == shapes
        assert {weight.dtype for weight in made.values()} == {dtype}
        assert all(torch.isfinite(weight).all() for weight in made.values())


def test_under_autocast_weights_are_the_same_float32():
    weights = composed(layers_in([(4, 3), (6, 6)]))
    plain = weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = weights()
    assert all(made[name].dtype == torch.float32 and torch.equal(made[name], plain[name]) for name in plain)


def test_layers_that_mix_alike_have_equal_weights_that_are_not_the_same_memory():
    made = composed(layers_in([(3, 3), (3, 3)]), rows=1)()
    one, other = made.values()
    assert torch.equal(one, other)
    assert one.data_ptr() != other.data_ptr()


def test_a_layer_of_a_narrow_member_is_the_leading_part_of_a_wide_ones_where_they_mix_alike():
    narrow, wide = composed(layers_in([(6, 5, 3, 3)], [(4, 2, 3, 3)]), rows=1)().values()
    narrow, wide = wide, narrow
    torch.testing.assert_close(wide[:4, :2], narrow)


# Initial values


@pytest.mark.parametrize("rows", [None, 1])
def test_a_layer_starts_with_its_architectures_own_deviation(rows: int | None):
    weights = composed(layers_in([(30, 20, 3, 3), (60, 40, 3, 3), (60, 60, 3, 3)], std=0.05), templates=5, rows=rows)
    for weight in weights().values():
        assert float(weight.detach().std()) == pytest.approx(0.05, rel=0.08)


def test_published_initial_values_are_the_releases():
    weights = composed(layers_in([(30, 20, 3, 3)] * 3, std=0.05), templates=5, he=False)
    assert float(weights.templates.detach().std()) == pytest.approx(PUBLISHED_STD, rel=0.03)
    (alpha,) = weights.coefficients.values()
    torch.testing.assert_close(alpha @ alpha.T, torch.eye(3), atol=1e-5, rtol=0)


def test_with_fewer_templates_than_layers_published_coefficients_have_orthonormal_columns():
    (alpha,) = composed(layers_in([(3, 3)] * 5), templates=2, he=False).coefficients.values()
    torch.testing.assert_close(alpha.T @ alpha, torch.eye(2), atol=1e-5, rtol=0)


# Evidence


def untied(weights: ComposedWeights) -> ComposedWeights:
    """A copy in which every user has coefficients of its own, with the same values."""
    twin = copy.deepcopy(weights)
    rows = {key: weights.coefficients[key].detach()[numbers] for key, numbers in weights.classes.items()}
    twin.set_classes({key: list(range(len(numbers))) for key, numbers in weights.classes.items()})
    with torch.no_grad():
        for key, own in rows.items():
            twin.coefficients[key].copy_(own)
    return twin


@given(compositions())
@settings(max_examples=40, deadline=None)
def test_what_is_heard_is_the_gradient_of_each_users_own_coefficients(weights: ComposedWeights):
    weights = weights.double()
    twin, deaf = untied(weights), copy.deepcopy(weights)
    weights.listening = True
    for factor in (1.0, 2.0):
        for one in (weights, twin, deaf):
            sum((factor * weight).sin().sum() for weight in one().values()).backward()
    for key in weights.stores:
        if f"evidence{key}" in dict(weights.named_buffers()):
            torch.testing.assert_close(weights.evidence(key), twin.coefficients[key].grad)
        else:
            assert len(set(weights.classes[key])) == len(weights.classes[key])
    for one, other in zip(weights.parameters(), deaf.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_nothing_is_heard_in_evaluation_without_gradients():
    weights = composed(layers_in([(3, 3), (3, 3)]), rows=1)
    weights.listening = True
    with torch.no_grad():
        weights()
    assert not weights.evidence("0_0").any()


@given(compositions())
@settings(max_examples=20, deadline=None)
def test_what_is_watched_is_the_gradient_of_every_composed_weight(weights: ComposedWeights):
    weights.weight_gradients = {}
    for _ in range(2):
        made = weights()
        sum((number + 1) * weight.sum() for number, weight in enumerate(made.values())).backward()
    for number, layer in enumerate(weights.layers):
        assert torch.equal(weights.weight_gradients[layer.name], torch.full(layer.shape, 2.0 * (number + 1)))


def test_classes_of_another_number_of_users_are_refused():
    weights = composed(layers_in([(3, 3), (3, 3)]), rows=1)
    with pytest.raises(UsageError, match="SuperWeight 0_0 has 2 users, not 3"):
        weights.set_classes({"0_0": [0, 1, 1]})
