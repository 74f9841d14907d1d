"""ssn-plus: the whole bank read, first weights of the right deviation, and every change a knob that undoes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stacks import SHARES, Case, asked, built, cases, method, specs
from torch import nn

from npasbench.api import BudgetTooSmall, Findings, LayerSpec, SharedNetwork
from npasbench.building import build
from npasbench.errors import UsageError
from npasbench.networks import architecture
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.placement import cover_bank, fewest_templates, unread
from npasbench.sharing.store import Group
from npasbench.sharing.upsample import Stretch, TooSmall, smaller_shape

WRN = {"wrn-10-1": (10, (1, 8, 8)), "wrn-16-4": (100, (3, 32, 32)), "wrn-28-10": (100, (3, 32, 32))}
PUBLISHED = {
    "placement": "published",
    "templates": "published",
    "initial": "published",
    "steps": "published",
    "alone": "published",
    "vectors": "raw",
}


def layers_of(name: str) -> list[LayerSpec]:
    classes, shape = WRN[name]
    with torch.device("meta"):
        return shareable_layers(architecture(name, classes=classes, input_shape=shape).create())


LAYERS = {name: layers_of(name) for name in WRN}


def groups_of(which: str, layers: list[LayerSpec], store: int, **knobs: Any) -> list[Group]:
    one = method(which, **knobs)
    return one.division(layers, one.grouped(layers, Findings(), torch.Generator().manual_seed(0))).at(store)


def dense(layers: list[LayerSpec]) -> int:
    return sum(layer.size for layer in layers)


# Placement


def readable(group: Group, most: int) -> int:
    """How many entries this group's layers can read at most, wherever their blocks lie."""
    return sum(
        min(most, group.bank // layer.size) * layer.size
        if layer.size <= group.bank
        else math.prod(smaller_shape(layer.shape, group.bank))
        for layer in group.layers
    )


@pytest.mark.parametrize("name", WRN)
@pytest.mark.parametrize("groups", ["single", "random", "shape", "type", "list"])
@given(st.floats(0.01, 4), st.sampled_from(["fewest", "published"]), st.sampled_from([1, 2, 8]), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_the_bank_is_read_to_the_last_entry_if_its_layers_can(
    name: str, groups: str, fraction: float, templates: str, most: int, count: int
):
    layers = LAYERS[name]
    wanted: Any = tuple(i % count for i in range(len(layers))) if groups == "list" else groups
    one = method("ssn-plus", groups=wanted, group_count=count, templates=templates, max_templates=most)
    division = one.division(layers, one.grouped(layers, Findings(), torch.Generator().manual_seed(count)))
    try:
        made = one.divided(division, int(fraction * dense(layers)), True)
    except BudgetTooSmall:
        assume(False)
    for group in made:
        if not group.dense:
            assert unread(group.blocks, group.bank) == max(0, group.bank - readable(group, most))


def test_what_a_layer_cannot_read_since_the_bank_does_not_hold_it_twice_is_left_to_others():
    assert fewest_templates([(100, 1), (10, 1)], 130, 8, Stretch()) == [1, 3]
    assert fewest_templates([(10, 10), (1, 10)], 99, 8, Stretch()) == [1, 2]  # the first is resized from 9 x 9


@pytest.mark.parametrize(("most", "fraction", "part"), [(8, 10, 0.2), (1, 2, 0.5)])
def test_more_than_all_layers_most_templates_stays_unread(most: int, fraction: int, part: float):
    layers = LAYERS["wrn-10-1"]
    (group,) = groups_of("ssn-plus", layers, fraction * dense(layers), max_templates=most)
    assert unread(group.blocks, group.bank) == round(part * group.bank)


@pytest.mark.parametrize("name", WRN)
@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 3, 4])
def test_at_the_tasks_budgets_no_entry_of_the_bank_is_unread(name: str, fraction: float):
    store = int(fraction * dense(LAYERS[name]))
    (group,) = groups_of("ssn-plus", LAYERS[name], store)
    assert unread(group.blocks, store) == 0


def test_the_releases_placement_leaves_a_fifth_of_wrn_28_10_unread():
    layers = LAYERS["wrn-28-10"]
    (group,) = groups_of("ssn-plus", layers, dense(layers), placement="published", templates="published")
    assert unread(group.blocks, group.bank) == 7_027_632


@pytest.mark.parametrize("templates", ["fewest", "published"])
@pytest.mark.parametrize("fraction", [1.1, 1.5, 1.9, 2.01, 3.9])
def test_between_whole_multiples_of_the_network_a_bank_is_read_whole(fraction: float, templates: str):
    layers = LAYERS["wrn-16-4"]
    (group,) = groups_of("ssn-plus", layers, int(fraction * dense(layers)), templates=templates)
    assert unread(group.blocks, group.bank) == 0


shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12)


@given(shapes, st.integers(1, 900), st.integers(1, 8), st.sampled_from(["inter", "repeat", "mask", "wavg"]))
@settings(max_examples=200, deadline=None)
def test_any_layers_cover_a_bank_that_is_no_longer_than_all_their_blocks(
    layers: list[tuple[int, int]], bank: int, most: int, upsample: Any
):
    try:
        blocks = cover_bank(layers, bank, [most] * len(layers), Stretch(upsample))
    except TooSmall:
        assume(False)
    assert all(0 <= block.start < block.end <= bank for block in blocks)
    assert unread(blocks, bank) == max(0, bank - sum(block.end - block.start for block in blocks))


@given(shapes, st.integers(1, 900), st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_the_fewest_templates_of_any_layers_read_all_that_can_be_read(
    layers: list[tuple[int, int]], bank: int, most: int
):
    try:
        counts = fewest_templates(layers, bank, most, Stretch())
    except TooSmall:
        assume(False)
    group = Group(tuple(specs(*layers)), bank, tuple(cover_bank(layers, bank, counts, Stretch())))
    assert [block.templates for block in group.blocks] == counts
    assert unread(group.blocks, bank) == max(0, bank - readable(group, most))


def test_a_layer_has_as_many_templates_as_the_bank_could_hold_networks_and_a_few_one_more():
    layers = LAYERS["wrn-10-1"]
    for fraction, base, more in ((0.5, 1, 0), (1, 1, 0), (1.01, 1, 1), (1.9, 1, 5), (2, 2, 0), (3.5, 3, 2), (20, 8, 0)):
        (group,) = groups_of("ssn-plus", layers, int(fraction * dense(layers)))
        counts = [block.templates for block in group.blocks]
        assert (min(counts), counts.count(base + 1)) == (base, more), fraction


# Initial weights


def deviates(shared: nn.Module) -> dict[str, float]:
    """By how much of itself each layer's deviation differs from its own initialisation's.

    Of a weight that is nearly one value everywhere, as a bank of two like numbers makes it, the root mean square counts.
    """
    weights = {name: weight.detach() for name, weight in shared.weights().items()}
    spread = {name: float(weight.std(correction=0)) for name, weight in weights.items()}
    size = {name: float(weight.square().mean().sqrt()) for name, weight in weights.items()}
    found = {name: spread[name] if spread[name] > size[name] / 10 else size[name] for name in weights}
    return {layer.name: abs(found[layer.name] / layer.std - 1) for layer in shared.layers if layer.size >= 2}


@given(cases())
@settings(max_examples=40, deadline=None)
def test_a_layer_larger_than_its_bank_or_not_starts_with_its_own_deviation(case: Case):
    shared = case._replace(name="ssn-plus").built()
    read = shared.generator.allocation()
    drawn = {name for name, block in read.items() if "start" not in block}
    several = {name for name, block in read.items() if name in drawn or block["end"] - block["start"] > 1}
    large = {layer.name for layer in shared.layers if layer.size >= 40}
    off = {name: one for name, one in deviates(shared).items() if name in large & several}
    assert all(one < (0.6 if name in drawn else 0.01) for name, one in off.items())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("upsample", ["inter", "mask", "repeat", "wavg"])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 1.0, 2.5])
def test_every_layer_of_a_network_starts_with_its_own_deviation(share: str, upsample: str, fraction: float):
    torch.manual_seed(0)
    network = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    parameters = int(fraction * sum(parameter.numel() for parameter in network.parameters()))
    shared = built(method("ssn-plus", share=share, upsample=upsample), network, parameters)
    assert max(deviates(shared).values()) < 0.02


def test_published_initial_values_deviate():
    network = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    published = built(method("ssn-plus", initial="published", templates="published"), network, 77_000)
    assert max(deviates(published).values()) > 0.3


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(1, 1, bias=False)), 401),
        (nn.Sequential(nn.Linear(1, 20, bias=False), nn.Linear(1, 20, bias=False)), 1),
    ],
    ids=["one-number", "upsampled-from-one-number"],
)
def test_a_weight_that_is_constant_starts_no_larger_than_others(network: nn.Module, parameters: int):
    shared = built(method("ssn-plus"), network, parameters)
    assert max(float(weight.detach().abs().max()) for weight in shared.weights().values()) < 20


@given(cases())
@settings(max_examples=30, deadline=None)
def test_slow_coefficients_leave_the_first_weights_unchanged(case: Case):
    slow, fast = (
        case._replace(name="ssn-plus", knobs=case.knobs | {"steps": steps}).built()
        for steps in ("weights", "published")
    )
    ours, theirs = slow.double().weights(), fast.double().weights()
    for name in ours:
        scale = float(theirs[name].detach().abs().max()) + 1e-30
        torch.testing.assert_close(ours[name] / scale, theirs[name] / scale, rtol=1e-4, atol=1e-5)


def test_slow_coefficients_move_a_weight_no_further_than_a_step_on_the_weight():
    network = nn.Sequential(*(nn.Linear(30, 30, bias=False) for _ in range(4)))
    shared = built(method("ssn-plus"), network, 7400)
    name, before = shared.layers[0].name, {k: v.detach() for k, v in shared.weights().items()}
    (shared.weights()[name] * before[name]).sum().backward()
    with torch.no_grad():
        for coefficients in shared.generator.coefficients.values():
            coefficients -= 0.01 * coefficients.grad
    moved = float((shared.weights()[name] - before[name]).detach().norm() / (0.01 * before[name].norm()))
    assert 0.3 < moved < 1.5


# Checkpoints


def shared_at(fraction: float, seed: int, **knobs: str) -> SharedNetwork:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))
    parameters = int(fraction * sum(parameter.numel() for parameter in network.parameters()))
    return built(method("ssn-plus", **knobs), network, parameters, seed)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("share", SHARES)
def test_a_state_of_another_seed_is_refused_since_its_scales_differ(fraction: float, share: str):
    saved = shared_at(fraction, 0, share=share).state_dict()
    shared_at(fraction, 0, share=share).load_state_dict(saved)
    with pytest.raises(UsageError, match="another seed"):
        shared_at(fraction, 1, share=share).load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_state_loads_into_a_network_of_another_precision(dtype: torch.dtype):
    saved = shared_at(2.5, 0).state_dict()
    shared_at(2.5, 0).to(dtype).load_state_dict(saved)
    shared_at(2.5, 0).load_state_dict(shared_at(2.5, 0).to(dtype).state_dict())


def test_without_scales_a_state_of_another_seed_is_whole():
    saved, other = shared_at(2.5, 0, initial="published"), shared_at(2.5, 1, initial="published")
    other.load_state_dict(saved.state_dict())
    ours, theirs = saved.weights(), other.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# Knobs


def bytes_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return dict(network.named_parameters()) | network.weights()


@given(cases())
@settings(max_examples=30, deadline=None)
def test_with_every_knob_published_it_is_ssn(case: Case):
    ours = case._replace(name="ssn-plus", knobs=case.knobs | PUBLISHED).built()
    theirs = case._replace(name="ssn").built()
    assert ours.generator.groups == theirs.generator.groups
    one, other = bytes_of(ours), bytes_of(theirs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("store", [75_000, 100_000, 200_000])
@pytest.mark.parametrize("groups", ["single", "shape"])
def test_each_knob_alone_changes_only_what_it_says(store: int, groups: str):
    layers = LAYERS["wrn-10-1"]
    published = groups_of("ssn", layers, store, groups=groups)
    for knob in ("initial", "steps", "alone", "vectors"):
        others = {**PUBLISHED, knob: "standardised" if knob == "vectors" else changed(knob), "groups": groups}
        assert groups_of("ssn-plus", layers, store, **others) == published
    covered = groups_of("ssn-plus", layers, store, **{**PUBLISHED, "placement": "cover", "groups": groups})
    counts = [[block.templates for block in group.blocks] for group in covered]
    assert counts == [[block.templates for block in group.blocks] for group in published]


def changed(knob: str) -> str:
    return {"initial": "preserving", "steps": "weights", "alone": "upsampled"}[knob]


def test_the_fewest_templates_may_be_placed_as_published():
    layers = LAYERS["wrn-10-1"]
    (group,) = groups_of("ssn-plus", layers, 2 * dense(layers), placement="published")
    (published,) = groups_of("ssn", layers, 2 * dense(layers), max_templates=2)
    assert group.blocks == published.blocks


def test_a_layer_alone_is_upsampled_where_the_release_refuses():
    network = nn.Sequential(nn.Linear(40, 50, bias=False), nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    for which, knobs in (("ssn", {}), ("ssn-plus", {"alone": "published"})):
        with pytest.raises(BudgetTooSmall):
            built(method(which, groups=[0, 1, 1], **knobs), network, 1000)
    shared = built(method("ssn-plus", groups=[0, 1, 1]), network, 1000)
    assert not any(group.dense for group in shared.generator.groups)
    assert sum(bank.numel() for bank in shared.generator.bank.values()) <= 1000
    whole = built(method("ssn-plus", groups=[0, 1, 1]), network, 2100)
    assert [group.dense for group in whole.generator.groups] == [True, False]


def test_the_same_map_that_a_search_found_is_built_with_either_method():
    network = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    found = Findings({"groups": [0, 1, 1, 0]})
    for which in ("ssn", "ssn-plus"):
        shared = build(method(which, groups="learned"), asked(network, 120), found, 0)
        groups = [[layer.name for layer in group.layers] for group in shared.generator.groups]
        assert groups == [["0.weight", "3.weight"], ["1.weight", "2.weight"]]
