"""Pruning: scores against hand-computed cases, masks with exact budgets, searches before training, layer collapse."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import npasbench
from npasbench import streams
from npasbench.api import Findings, Problem
from npasbench.baselines.lottery import Lottery, LotteryKnobs, remaining
from npasbench.baselines.synflow import SynFlow, synflow
from npasbench.baselines.synflow import remaining as exponential
from npasbench.brief_training import BriefSearch, Quiet
from npasbench.budget import Accounting, Budget, resolve
from npasbench.building import audited, build
from npasbench.card import Entry
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, LayerCollapse, MethodError, RunError, UsageError
from npasbench.measuring.count import count
from npasbench.method import Method
from npasbench.networks import architecture
from npasbench.plan import RunSpec, plan_entry
from npasbench.problem import Architecture
from npasbench.pruning.flow import SynapticFlow, positive
from npasbench.pruning.gains import gains_at_one
from npasbench.pruning.masks import CannotRank, among, largest, ranked
from npasbench.pruning.method import initial, masks_of
from npasbench.pruning.network import MaskedNetwork
from npasbench.pruning.schedule import reached
from npasbench.pruning.schedule import remaining as remaining_at
from npasbench.pruning.scores import grasp, magnitude, random, snip, synflow_round
from npasbench.registry import Registry, create
from npasbench.running.certify import certify
from npasbench.running.findings import found_before, read_findings, write_findings
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.training.first_losses import first_losses
from npasbench.training.loop import Training

SHAPE = (1, 8, 8)
AT_START = ("snip", "grasp", "synflow")


def problem(budget: str, *names: str, shape: tuple[int, ...] = SHAPE) -> Problem:
    members = tuple(architecture(name, classes=10, input_shape=shape) for name in names or ("wrn-10-1",))
    dense = sum(count(one.create()).total for one in members)
    return Problem(members, resolve(budget, dense), 10, shape)


def asking(network: nn.Module, budget: str, accounting: Accounting = "total") -> Problem:
    return Problem((Architecture.of(network),), resolve(budget, count(network).total, accounting), 10, SHAPE)


def method(name: str, **knobs: Any) -> Method:
    return create(Registry().method(name), knobs, name)


def quick(name: str) -> Method:
    """The method with few rounds."""
    return method(name, **{"synflow": {"rounds": 12}, "lottery": {"rate": 0.6}}.get(name, {}))


def training(which: Method, network: nn.Module, epochs: int = 1) -> Training:
    card = Registry().card("digits15-wrn-10-1")
    recipe = card.recipe.model_copy(update={"epochs": epochs})
    batches = Batches(load(card.data, seed=0), card.data, recipe.batch_size, 0, torch.device("cpu"))
    return Training(which, network, recipe, batches, torch.device("cpu"))


def searched(which: Method, asked: Problem, epochs: int = 1, seed: int = 5) -> Findings:
    return which.search(asked, BriefSearch(seed, lambda network: training(which, network, epochs)))


# Masks


def test_exactly_as_many_weights_are_kept_as_asked_and_of_equal_scores_the_first():
    scores = {"a": torch.tensor([[1.0, 2.0], [2.0, 0.0]]), "b": torch.tensor([2.0, 3.0, 2.0])}
    masks = largest(scores, 4)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [True, True, False]
    assert all(sum(int(mask.sum()) for mask in largest(scores, keep).values()) == keep for keep in range(3, 8))


def test_a_tensor_with_nothing_left_is_layer_collapse_and_is_named():
    scores = {"architecture.stem.weight": torch.zeros(3), "head.weight": torch.ones(4)}
    with pytest.raises(
        LayerCollapse, match=r"keeping the 4 largest scores leaves nothing of stem\.weight\. Take"
    ) as caught:
        largest(scores, 4)
    assert caught.value.layers == ("stem.weight",)
    assert not isinstance(caught.value, MethodError)


@pytest.mark.parametrize(
    ("scores", "keep", "said"),
    [([1.0, float("nan")], 1, "1 of 2 pruning scores are NaN"), ([1.0, 2.0], 3, "3 of 2 weights cannot be kept")],
)
def test_scores_that_cannot_be_ranked_get_a_sentence(scores: list[float], keep: int, said: str):
    with pytest.raises(MethodError, match=said):
        largest({"a": torch.tensor(scores)}, keep)


def test_what_is_removed_stays_removed_whatever_its_score():
    scores = {"a": torch.tensor([9.0, -5.0, -7.0])}
    kept = largest(among(scores, {"a": torch.tensor([False, True, True])}), 2)
    assert kept["a"].tolist() == [False, True, True]


# Scores that are zero


def test_a_layer_whose_scores_are_all_zero_cannot_be_ranked_and_one_with_some_can():
    scores = {"architecture.a.weight": torch.zeros(2), "architecture.b.weight": torch.ones(4)}
    with pytest.raises(
        CannotRank, match=r"snip cannot rank the weights of a\.weight: 1 of 2 layers get no grad"
    ) as caught:
        ranked(scores, "snip")
    assert caught.value.layers == ("a.weight",)
    some = {"a": torch.tensor([0.0, -1.0])}
    assert ranked(some, "grasp") is some


class ZeroGain(nn.Module):
    """A residual branch that begins at nothing, as in networks of timm: its norm's gain is zero."""

    def __init__(self, gain: float = 0.0) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(256, 10)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stem(inputs)
        logits: Tensor = self.head((maps + self.norm(self.branch(maps)).relu()).flatten(1))
        return logits


class ZeroScale(ZeroGain):
    """Another: its branch is multiplied by a zero that belongs to no norm."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stem(inputs)
        logits: Tensor = self.head((maps + self.scale * self.norm(self.branch(maps)).relu()).flatten(1))
        return logits


@pytest.mark.parametrize("budget", ["0.1", "0.99"])
@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_residual_branch_that_begins_at_nothing_is_scored_as_if_its_norms_gain_were_one(name: str, budget: str):
    found = []
    for gain in (0.0, 1.0):
        torch.manual_seed(2)
        asked = asking(ZeroGain(gain), budget)
        found.append(masks_of(searched(method(name), asked)))
        network = build(method(name), asked, Findings({}, found[-1]), 5)
        assert network.get_parameter("architecture.norm.weight").tolist() == [gain] * 4
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0].keys() | found[1].keys())


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_behind_a_zero_that_is_no_norms_gain_rules_that_look_at_gradients_refuse(name: str):
    with pytest.raises(
        LayerCollapse, match=rf"{name} cannot rank .*branch.*1 of 3 layers.*gain .* no norm's"
    ) as caught:
        searched(method(name), asking(ZeroScale(), "0.5"))
    assert caught.value.layers == ("branch.weight",)
    assert "larger budget" not in str(caught.value)


def test_only_gains_that_are_zero_throughout_are_one_for_a_while_and_zero_again_after_an_error():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    for index, values in ((0, [0.0] * 3), (1, [0.0, 0.5, 0.0]), (2, [0.0] * 3), (3, [0.0] * 3)):
        network[index].weight.data.copy_(torch.tensor(values))
    before = copy.deepcopy(network.state_dict())
    within = []

    def fail() -> None:
        within.extend([module.weight.flatten()[:3].tolist() for module in network])
        assert not any(module.bias.any() for module in network[:3])
        raise KeyError

    with pytest.raises(KeyError), gains_at_one(network):
        fail()
    assert within == [[1.0] * 3, [0.0, 0.5, 0.0], [1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_network_of_timm_whose_residual_branches_begin_at_nothing_is_pruned(name: str):
    which, asked = method(name), problem("0.5", "timm:resnet18")
    network = audited(which, asked, searched(which, asked), 5)
    assert count(network).total == asked.budget.parameters
    assert not bool(network.get_parameter("architecture.layer4.1.bn2.weight").any())


# The schedule


def test_the_cubic_schedule_by_hand():
    assert [reached(step, 10, begin=0.2, end=0.8, every=3) for step in range(1, 11)] == [
        None, 0.0, None, None, 0.5, None, None, 1.0, None, None,
    ]  # fmt: skip
    assert remaining_at(1000, 200, 0.5) == 1000 - 700  # 7/8 of 800
    assert (remaining_at(1000, 200, 0.0), remaining_at(1000, 200, 1.0)) == (1000, 200)


shares = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_min=True)).map(sorted)


@given(shares, st.integers(1, 400), st.integers(1, 50), st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)))
def test_whenever_it_begins_and_ends_the_schedule_ends_at_the_budget(
    share: list[float], steps: int, every: int, numbers: tuple[int, int]
):
    (begin, end), (keep, total) = share, sorted(numbers)
    if end == 0 or begin == 1:
        return
    given_ts = [reached(step, steps, begin=begin, end=end, every=every) for step in range(1, steps + 1)]
    left = [remaining_at(total, keep, t) for t in given_ts if t is not None]
    assert left[-1] == keep
    assert left == sorted(left, reverse=True)
    assert left[0] <= total


@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.01), (0.5, 0.5), (0.99, 1.0), (0.0, 1.0)])
def test_magnitude_ends_within_its_budget_however_short_the_pruning_is(begin: float, end: float):
    which, asked = method("magnitude", begin=begin, end=end), problem("0.1")
    network = build(which, asked, Findings(), 0)
    training(which, network).run(Quiet())
    assert count(network, masks=which.structure(network).masks).total == asked.budget.parameters


# Scores by hand


def two_layers() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """y = v * (w1 x1 + w2 x2) with w = (2, -1) and v = 3."""
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[2.0, -1.0]]))
        network[1].weight.copy_(torch.tensor([[3.0]]))
    return network, dict(network.named_parameters())


def test_magnitude_is_the_absolute_value_and_random_comes_from_its_stream():
    _, weights = two_layers()
    assert magnitude(weights)["0.weight"].tolist() == [[2.0, 1.0]]
    one, again = (random(weights, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in weights)
    assert one["0.weight"].shape == (1, 2)


def test_snip_by_hand_on_a_linear_network():
    network, weights = two_layers()
    # L = y at x = (1, 4): dL/dw = v x = (3, 12), dL/dv = 2 - 4 = -2; times the weights (2, -1) and 3
    scores = snip(weights, [network(torch.tensor([[1.0, 4.0]])).sum()])
    assert scores["0.weight"].tolist() == [[6.0, 12.0]]
    assert scores["1.weight"].tolist() == [[6.0]]


def test_snip_adds_gradients_before_it_takes_their_magnitude():
    network, weights = two_layers()
    inputs = torch.tensor([[1.0, 4.0]])
    scores = snip(weights, (sign * network(inputs).sum() for sign in (1.0, -0.5)))
    assert scores["0.weight"].tolist() == [[3.0, 6.0]]
    assert weights["0.weight"].grad is None


def test_grasp_by_hand_on_a_linear_network():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(2.0)
        network[1].weight.fill_(3.0)
    # L = (v w)^2 / 2 with w = 2, v = 3: g = (v^2 w, v w^2) = (18, 12), H = [[v^2, 2 v w], [2 v w, w^2]] = [[9, 12], [12, 4]]
    scores = grasp(dict(network.named_parameters()), [network(torch.ones(1, 1)).square().sum() / 2])
    assert scores["0.weight"].item() == 2 * (9 * 18 + 12 * 12)
    assert scores["1.weight"].item() == 3 * (12 * 18 + 4 * 12)


def test_grasp_needs_a_second_derivative():
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(MethodError, match="second derivative"):
        grasp({"w": weight}, [weight.sum()])


@pytest.mark.parametrize("level", [False, True])
def test_synflow_by_hand_on_a_linear_network(level: bool):
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        network[1].weight.copy_(torch.tensor([[-1.0, 2.0]]))
    flowing = positive(network)
    scores = synflow_round(flowing, dict(flowing.named_parameters()), (2,), level=level)
    first, second = torch.tensor([[1.0, 2.0], [6.0, 1.0]]), torch.tensor([[3.0, 7.0]])  # R = 1 * 3 + 2 * 3.5 = 10
    factor = 1.0 if not level else float(scores["1.weight"].sum()) / 10
    torch.testing.assert_close(scores["0.weight"], (first * factor).double())
    torch.testing.assert_close(scores["1.weight"], (second * factor).double())
    assert network[0].weight.min() == -2


# Scores against finite differences


def double(name: str = "wrn-10-1") -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = architecture(name, classes=10, input_shape=SHAPE).create().double().train()
    return network, torch.randn(12, *SHAPE, dtype=torch.float64), torch.arange(12) % 10


def loss_of(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(inputs), labels)


@pytest.mark.parametrize("name", ["wrn-10-1", "row-transformer"])
def test_snips_scores_are_the_derivative_with_respect_to_a_mask_at_one(name: str):
    network, inputs, labels = double(name)
    weights = {key: value for key, value in network.named_parameters() if value.dim() > 1}
    scores = snip(weights, [loss_of(network, inputs, labels)])
    for key, weight in list(weights.items())[::3]:
        index = int(scores[key].argmax())
        flat, value = weight.data.view(-1), float(weight.data.view(-1)[index])
        losses = []
        for mask in (1 + 1e-5, 1 - 1e-5):
            flat[index] = value * mask
            losses.append(float(loss_of(network, inputs, labels).detach()))
        flat[index] = value
        assert float(scores[key].view(-1)[index]) == pytest.approx(abs(losses[0] - losses[1]) / 2e-5, rel=1e-5)


def gradients(network: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss_of(network, inputs, labels), list(network.parameters())))


@pytest.mark.parametrize("name", ["wrn-10-1", "row-transformer"])
def test_grasps_hessian_product_is_that_of_finite_differences(name: str):
    network, inputs, labels = double(name)
    weights = dict(network.named_parameters())
    scores = grasp(weights, (loss_of(network, inputs, labels) for _ in range(1)))
    direction, moved = gradients(network, inputs, labels), []
    for sign in (1, -1):
        other = copy.deepcopy(network)
        with torch.no_grad():
            for parameter, g in zip(other.parameters(), direction, strict=True):
                parameter.add_(g, alpha=sign * 1e-6)
        moved.append(gradients(other, inputs, labels))
    for (key, weight), up, down in zip(weights.items(), *moved, strict=True):
        torch.testing.assert_close(scores[key], weight.detach() * (up - down) / 2e-6, rtol=1e-4, atol=1e-6)


def test_grasp_keeps_the_weights_without_which_the_gradient_shrinks():
    network, inputs, labels = double()
    scores = grasp(dict(network.named_parameters()), [loss_of(network, inputs, labels)])
    before = sum(float(g.square().sum()) for g in gradients(network, inputs, labels))
    for key in ("stem.weight", "stages.1.0.conv2.weight"):
        for index in (int(scores[key].argmax()), int(scores[key].argmin())):
            other = copy.deepcopy(network)
            other.get_parameter(key).data.view(-1)[index] *= 1 - 1e-5
            after = sum(float(g.square().sum()) for g in gradients(other, inputs, labels))
            # the paper's S(-w) is half of the change: shrinking w by t changes the squared norm by -2 t w (H g)
            assert after - before == pytest.approx(-2e-5 * float(scores[key].view(-1)[index]), rel=1e-3)


# SynFlow


def straight(*, bent: bool) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6() if bent else nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 16, bias=False), nn.Sigmoid() if bent else nn.ReLU(), nn.Linear(16, 10, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("level", [False, True])
def test_synaptic_flow_is_conserved_from_layer_to_layer(level: bool):
    flowing = positive(straight(bent=True))
    weights = {name: weight for name, weight in flowing.named_parameters() if weight.dim() > 1}
    flows = [float(score.sum()) for score in synflow_round(flowing, weights, SHAPE, level=level).values()]
    with SynapticFlow(level=level):
        total = float(flowing(torch.ones(1, *SHAPE, dtype=torch.float64)).sum().detach())
    assert flows == pytest.approx([total] * 4)


def test_without_shortcuts_levelling_changes_no_mask():
    network = straight(bent=False)
    weights = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1}
    plain, level = (synflow(network, weights, SHAPE, keep=200, rounds=20, level=on) for on in (False, True))
    assert all(torch.equal(plain[name], level[name]) for name in weights)


def kept(name: str, budget: str, shape: tuple[int, ...] = SHAPE, **knobs: Any) -> dict[str, Tensor]:
    network = initial(problem(budget, name, shape=shape), 0)
    masks = synflow(network, network.weights, shape, keep=network.keep, **knobs)
    assert sum(int(mask.sum()) for mask in masks.values()) == network.keep
    return masks


@pytest.mark.parametrize(("name", "budget"), [("wrn-10-1", "1260"), ("row-transformer", "4800")])
def test_synflow_keeps_every_layer_alive_at_one_per_cent(name: str, budget: str):
    masks = kept(name, budget)
    density = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    assert density == pytest.approx(0.01, abs=0.0005)
    assert min(int(mask.sum()) for mask in masks.values()) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:resnet18", "timm:efficientnet_b0"])
def test_synflow_keeps_every_layer_of_other_libraries_networks_alive(name: str):
    kept(name, "0.05", (3, 32, 32), rounds=5)


def test_in_the_papers_own_network_a_residual_branch_can_lose_its_flow():
    with pytest.raises(LayerCollapse, match=r"layers\.3\.linear"):
        kept("row-transformer", "0.1", level=False, rounds=30)
    kept("row-transformer", "0.1", rounds=30)


def test_in_one_shot_synflow_loses_a_layer_that_it_keeps_little_by_little():
    with pytest.raises(LayerCollapse):
        kept("wrn-10-1", "0.05", rounds=1)
    kept("wrn-10-1", "0.05", rounds=20)


def test_synflows_schedule_is_exponential_and_ends_exactly():
    assert exponential(10_000, 100, 4) == [3162, 1000, 316, 100]
    assert exponential(10_000, 77, 1) == [77]


def test_synflow_measures_one_network_whatever_its_running_statistics_and_leaves_it_as_it_is():
    network = initial(problem("0.1"), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one = synflow(network, network.weights, SHAPE, keep=network.keep, rounds=3)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(7.0)
    two = synflow(network, network.weights, SHAPE, keep=network.keep, rounds=3)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_synflow_says_that_it_needs_the_shape_of_an_input():
    asked = Problem((Architecture.of(nn.Linear(40, 40)),), resolve("0.5", 1640), 0, ())
    with pytest.raises(UsageError, match="needs to know the shape of its input"):
        searched(SynFlow(), asked)


# Before training, on any architecture


@pytest.mark.parametrize("name", AT_START)
@pytest.mark.parametrize("names", [("wrn-10-1",), ("row-transformer",), ("wrn-10-1", "row-transformer")], ids="+".join)
def test_masks_found_before_training_meet_the_budget_exactly_on_the_initial_weights(name: str, names: tuple[str, ...]):
    which, asked = quick(name), problem("0.25", *names)
    network = audited(which, asked, searched(which, asked), 5)
    assert isinstance(network, MaskedNetwork)
    assert count(network).total == which.final_count(network) == asked.budget.parameters
    with streams.global_stream(5, "init"):
        dense = dict(asked.create().named_parameters())
    for key, weight in network.weights.items():
        assert torch.equal(weight, dense[key.removeprefix("architecture.")] * network.masks[key])
    assert which.side_information_bits(network) == network.prunable


@pytest.mark.parametrize("name", ["snip", "random-erk", "lottery", "magnitude"])
def test_under_bank_accounting_the_bank_meets_the_budget_and_norms_and_biases_come_on_top(name: str):
    which, dense = quick(name), architecture("wrn-10-1", classes=10, input_shape=SHAPE).create()
    asked = asking(dense, "7000", "bank")
    findings = searched(which, asked) if which.needs_search() else Findings()
    network = audited(which, asked, findings, 5)
    if name == "magnitude":
        training(which, network).run(Quiet())
    beside = count(dense).total - count(dense).bank_params
    assert beside > 0
    assert count(network).bank_params == 7000
    assert count(network).total == which.final_count(network) == 7000 + beside


def test_under_bank_accounting_what_is_excluded_from_pruning_is_held_against_the_budget():
    asked = dataclasses.replace(asking(ZeroGain(), "1000", "bank"), excluded=("stem",))
    network = audited(method("random-erk"), asked, Findings(), 0)
    assert isinstance(network, MaskedNetwork)
    assert network.keep == 1000 - 36
    assert count(network).bank_params == 1000
    with pytest.raises(BudgetTooSmall) as caught:
        initial(dataclasses.replace(asked, budget=Budget("", 37, 3000, "bank")), 0)
    assert caught.value.smallest == 38


class TiedRaw(nn.Module):
    """A weight that stands first as a parameter of its own, then as a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 64))
        self.first, self.head = nn.Linear(64, 64, bias=False), nn.Linear(64, 10)
        self.first.weight = self.table

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.first(inputs.flatten(1)) @ self.table)
        return logits


def test_masks_of_a_tied_weight_have_the_name_under_which_it_is_counted():
    asked = asking(TiedRaw(), "0.3")
    network = audited(method("random-erk"), asked, Findings(), 0)
    assert isinstance(network, MaskedNetwork)
    assert set(network.masks) == {"architecture.table", "architecture.head.weight"} == set(network.weights)
    assert network.masks.keys() <= dict(network.named_parameters()).keys()
    assert count(network).total == asked.budget.parameters
    assert int(network.weights["architecture.table"].count_nonzero()) == int(network.masks["architecture.table"].sum())


@pytest.mark.parametrize("name", AT_START)
@pytest.mark.slow
def test_a_network_of_timm_is_pruned_too(name: str):
    asked = problem("0.5", "timm:mobilenetv3_small_050", shape=SHAPE)
    which = quick(name)
    network = audited(which, asked, searched(which, asked), 5)
    assert count(network).total == asked.budget.parameters


@pytest.mark.parametrize("name", [*AT_START, "lottery"])
def test_masks_hold_while_a_network_trains_and_export_gives_the_same_output(name: str):
    which, asked = quick(name), problem("0.1")
    network = build(which, asked, searched(which, asked), 5)
    masks = {key: mask.clone() for key, mask in network.masks.items()}
    training(which, network, 2).run(Quiet())
    assert count(network).total == asked.budget.parameters
    for key, weight in network.weights.items():
        assert torch.equal(network.masks[key], masks[key])
        assert not bool(weight.detach()[~masks[key]].any())
    plain = npasbench.export(network)
    inputs = torch.randn(8, *SHAPE)
    assert torch.equal(plain.eval()(inputs), network.eval()(inputs))
    assert type(plain).__name__ == "WideResNet"


@pytest.mark.parametrize("name", [*AT_START, "lottery"])
def test_at_the_dense_size_and_above_there_is_nothing_to_prune(name: str):
    assert method(name).skip(problem("1")) == "nothing to prune: the dense network fits"
    assert method(name).skip(problem("0.99")) is None


@pytest.mark.parametrize("name", [*AT_START, "lottery"])
def test_a_budget_below_one_weight_a_layer_is_refused_before_anything_is_measured(name: str):
    which, asked = method(name), problem("0.0064")
    with pytest.raises(BudgetTooSmall) as caught:
        searched(which, asked)
    assert caught.value.smallest == 490 + len(initial(problem("0.1"), 0).layers)


@pytest.mark.parametrize(
    ("name", "knob", "values"),
    [("grasp", "temperature", (200.0, 1.0)), ("grasp", "batches", (1, 2)), ("snip", "batches", (1, 2))],
)
def test_the_temperature_and_the_number_of_batches_reach_the_scores(name: str, knob: str, values: tuple[Any, ...]):
    found = [masks_of(searched(method(name, **{knob: value}), problem("0.1"))) for value in values]
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_without_findings_the_count_at_the_end_is_known_all_the_same():
    network = audited(method("snip"), problem("0.1"), Findings(), 0)
    assert method("snip").final_count(network) == problem("0.1").budget.parameters


def test_sharing_a_model_by_call_says_that_masks_need_the_loop():
    with pytest.raises(UsageError, match=r"random-erk prunes, and its masks hold only in the loop of 'npasbench run'"):
        npasbench.share(nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50)), "random-erk", budget=0.5)


# The losses that a search is given


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.head = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.norm(inputs)).flatten(1))
        return logits


def test_losses_are_those_of_training_and_leave_running_statistics_alone():
    network = Noisy().eval()
    one = training(method("dense"), network)
    expected = []
    for batch in one.batches.epoch(0):
        torch.manual_seed(0)
        expected += [float(loss.detach()) for loss in one.losses(copy.deepcopy(network).train(), batch)]
    given: list[Tensor] = []
    for loss in first_losses(one, batches=2):
        given.append(loss)
        torch.manual_seed(0)
    assert float(given[1].detach()) == expected[1]
    assert network.training
    assert int(network.norm.num_batches_tracked) == 0
    assert float(network.norm.running_mean) == 0
    assert network.norm.track_running_stats
    sum(given).backward()  # the graphs are whole, even after the last
    assert network.head.weight.grad is not None


def test_more_batches_than_an_epoch_has_go_on_with_the_next():
    assert len(list(first_losses(training(method("dense"), Noisy()), batches=7))) == 7


# Lottery tickets


def test_each_round_keeps_the_share_and_the_last_exactly_the_budget():
    assert remaining(1000, 500, 0.2) == [800, 640, 512, 500]
    assert remaining(1000, 800, 0.2) == [800]
    assert remaining(1000, 640, 0.2) == [800, 640]
    assert remaining(1000, 999, 0.2) == [999]
    assert (len(remaining(77_072, 7266, 0.2)), remaining(77_072, 7266, 0.2)[-1]) == (11, 7266)


class Rounds(BriefSearch):
    """Notes what each stage began with and ended with."""

    def __init__(self, which: Method, epochs: int) -> None:
        super().__init__(5, lambda network: training(which, network, epochs))
        self.stages: dict[str, tuple[dict[str, Tensor], MaskedNetwork]] = {}

    def train(self, name: str, network: nn.Module, **wishes: Any) -> nn.Module:
        assert isinstance(network, MaskedNetwork)
        assert not wishes
        before = {key: weight.detach().clone() for key, weight in network.weights.items()}
        super().train(name, network)
        self.stages[name] = before, network
        return network


def early_weights(asked: Problem, epochs: int, steps: int) -> nn.Module:
    """The dense network after so many steps of its training."""

    class Enough(Exception):
        pass

    class Until(Quiet):
        def after_step(self, training: Training) -> None:
            if training.step == steps:
                raise Enough

    with streams.global_stream(5, "init"):
        dense = asked.create()
    with pytest.raises(Enough):
        training(method("dense"), dense, epochs).run(Until())
    return dense


def test_tickets_are_rewound_to_the_early_weights_of_the_first_training():
    which, asked = Lottery(LotteryKnobs(rate=0.4, rewind=0.35)), problem("0.3")
    context = Rounds(which, 4)
    findings = which.search(asked, context)
    early = early_weights(asked, 4, 4)  # 12 steps, 0.35 of which are 4
    ticket = build(which, asked, findings, 5)
    assert list(context.stages) == ["round-1", "round-2", "round-3"]
    for key, weight in ticket.weights.items():
        assert torch.equal(weight, early.get_parameter(key.removeprefix("architecture.")) * ticket.masks[key])
    for key, value in early.state_dict().items():
        if "norm" in key:
            assert torch.equal(ticket.architecture.state_dict()[key], value)
    begun = context.stages["round-3"][0]
    assert all(torch.equal(begun[key][ticket.masks[key]], ticket.weights[key][ticket.masks[key]]) for key in begun)


def test_each_round_removes_the_smallest_of_what_remained_of_the_round_before():
    which, asked = Lottery(LotteryKnobs(rate=0.4)), problem("0.3")
    context = Rounds(which, 2)
    findings = which.search(asked, context)
    trained = [network for _, network in context.stages.values()]
    number = [sum(int(mask.sum()) for mask in network.masks.values()) for network in trained]
    assert number == [trained[0].prunable, *findings.facts["remaining"][:-1]]
    for one, after in zip(trained, [network.masks for network in trained[1:]] + [masks_of(findings)], strict=True):
        gone, stayed = [], []
        for key, weight in one.weights.items():
            assert not bool((after[key] & ~one.masks[key]).any())
            assert not bool(weight.detach()[~one.masks[key]].any())
            gone.append(weight.detach()[one.masks[key] & ~after[key]].abs())
            stayed.append(weight.detach()[after[key]].abs())
        assert torch.cat(gone).max() <= torch.cat(stayed).min()


def test_rewound_to_the_very_start_a_ticket_has_the_initial_weights():
    which, asked = Lottery(LotteryKnobs(rewind=0.0)), problem("0.5")
    ticket = build(which, asked, searched(which, asked), 5)
    first = initial(asked, 5)
    assert all(torch.equal(ticket.weights[key], first.weights[key] * ticket.masks[key]) for key in first.weights)


def test_of_what_a_ticket_removes_no_early_weight_is_kept_and_tickets_kept_whole_build_the_same():
    which, asked = Lottery(LotteryKnobs(rate=0.6)), problem("0.1")
    findings = searched(which, asked)
    ticket, masks = build(which, asked, findings, 5), masks_of(findings)
    assert {name for name in findings.tensors if name.startswith("kept.")} == {
        name.replace("architecture.", "kept.") for name in masks
    }
    floats = [value for value in findings.tensors.values() if value.is_floating_point()]
    statistics = sum(buffer.numel() for buffer in ticket.architecture.buffers() if buffer.is_floating_point())
    assert sum(value.numel() for value in floats) == asked.budget.parameters + statistics
    whole = {f"early.{name}": value for name, value in ticket.architecture.state_dict().items()}
    again = build(which, asked, Findings(findings.facts, {**masks, **whole}), 5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ticket.state_dict().items())


class WithSwitch(nn.Sequential):
    """Has a bool buffer in its state."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
        self.register_buffer("switch", torch.tensor([True, False]))


def test_a_bool_buffer_of_the_architecture_is_no_mask():
    which, asked = Lottery(LotteryKnobs(rate=0.6)), asking(WithSwitch(), "0.3")
    findings = searched(which, asked)
    assert findings.tensors["early.switch"].dtype == torch.bool
    ticket = audited(which, asked, findings, 5)
    assert set(masks_of(findings)) == {"architecture.1.weight", "architecture.3.weight"} == set(ticket.masks)
    assert ticket.get_buffer("architecture.switch").tolist() == [True, False]
    assert count(ticket).total == asked.budget.parameters


# Findings as they are kept


MIXED = Findings(
    {"a": 1},
    {
        "first": torch.rand(3, 3) > 0.5, "numbers": torch.rand(2), "none": torch.zeros(0, 4, dtype=torch.bool),
        "single": torch.tensor(True), "long": torch.rand(2, 9, 5) > 0.5, "bytes": torch.tensor([7], dtype=torch.uint8),
    },
)  # fmt: skip


@pytest.mark.parametrize(
    "given_findings", [MIXED, Findings(), Findings({}, {"t": torch.ones(2)})], ids=["mixed", "none", "floats"]
)
def test_findings_are_read_as_they_were_written_bools_as_bits(given_findings: Findings, tmp_path: Path):
    write_findings(tmp_path / "findings.pt", given_findings, {"search_epochs": 2.0})
    before, costs = found_before(tmp_path / "findings.pt")
    assert costs == {"search_epochs": 2.0}
    for found in (before, read_findings(tmp_path / "findings.pt")):
        assert (found.facts, list(found.tensors)) == (given_findings.facts, list(given_findings.tensors))
        for name, tensor in given_findings.tensors.items():
            assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found.tensors[name], tensor)


def test_findings_of_older_versions_are_read(tmp_path: Path):
    old = {"facts": MIXED.facts, "tensors": MIXED.tensors, "costs": {"search_epochs": 1.0}}
    torch.save(old, tmp_path / "findings.pt")
    before, costs = found_before(tmp_path / "findings.pt")
    assert costs == old["costs"]
    for found in (before, read_findings(tmp_path / "findings.pt")):
        assert found.facts == MIXED.facts
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in MIXED.tensors.items())


@pytest.mark.parametrize("shapes", [{"m": [10**12]}, {"m": [9]}, {"m": [-1], "n": [9]}, {"m": "x"}, [3]])
def test_bits_that_do_not_fill_their_masks_are_refused(shapes: Any, tmp_path: Path):
    bits = {"row": torch.zeros(1, dtype=torch.uint8), "shapes": shapes}
    torch.save({"facts": {}, "tensors": {}, "bits": bits, "order": ["m"], "costs": {}}, tmp_path / "findings.pt")
    with pytest.raises(RunError, match="cannot be read"):
        read_findings(tmp_path / "findings.pt")


# Runs


@pytest.fixture
def plan(small_card: Callable[..., Path]) -> Callable[..., RunSpec]:
    def make(name: str, budget: str, plugins: tuple[str, ...] = (), epochs: int = 2, **knobs: Any) -> RunSpec:
        entry = Entry(label=name, method=name, set=knobs)
        card = str(small_card(epochs))
        return plan_entry(card, entry, Registry(plugins), budgets=[budget], seeds=(3,))[0]

    return make


def do(spec: RunSpec, root: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    with_certificate = lambda directory: certify(directory, torch.device("cpu"))  # noqa: E731
    work([spec], root, Options(checkpoint_seconds=0), Ways(lambda _: None, should_stop, with_certificate))
    path = RunDirectory.of(root, spec).result_file
    return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.mark.parametrize(("name", "epochs"), [("snip", 1 / 3), ("grasp", 1 / 3), ("synflow", None)])
def test_a_run_is_certified_and_its_search_costs_are_in_the_record(
    name: str, epochs: float | None, plan: Callable[..., RunSpec], tmp_path: Path
):
    spec = plan(name, "0.25", **({"rounds": 10} if name == "synflow" else {}))
    result = do(spec, tmp_path)
    assert result["state"] == "done"
    assert RunDirectory.of(tmp_path, spec).findings_file.stat().st_size < 77_072 / 8 + 4_000
    assert result["certificate"]["passed"]
    assert result["certificate"]["floats"] == result["parameters"]["total"] == result["budget_parameters"]
    assert result["side_information_bits"] == 77_562 - 490
    assert result["costs"].get("search_epochs") == epochs
    assert result["costs"]["search_seconds"] > 0
    assert (result["costs"].get("search_flops", 0) > 0) == (epochs is not None)


def at_calls(*numbers: int) -> Callable[[], Callable[[], bool]]:
    """Makers of a wish to stop at that many questions, each for one attempt."""
    left = iter(numbers)

    def attempt() -> Callable[[], bool]:
        asked, limit = iter(range(1, 10**6)), next(left, None)
        return lambda: limit is not None and next(asked) >= limit

    return attempt


def outcome(root: Path, spec: RunSpec) -> tuple[Any, ...]:
    directory = RunDirectory.of(root, spec)
    rows = [json.loads(line) for line in directory.metrics_file.read_text().splitlines()]
    found = read_findings(directory.findings_file)
    tensors = {name: value.tolist() for name, value in found.tensors.items()}
    losses = [(row["step"], row["loss"]) for row in rows]
    return losses, directory.model_file.read_bytes(), directory.correct_file.read_bytes(), tensors, found.facts


def test_a_lottery_stopped_in_its_rounds_and_in_the_last_training_ends_bit_identical(
    plan: Callable[..., RunSpec], tmp_path: Path
):
    spec = plan("lottery", "0.25", rate=0.55, rewind=0.2)  # two rounds of 6 steps, and the last training
    whole = do(spec, tmp_path / "whole")
    assert whole["state"] == "done"
    assert whole["certificate"]["passed"]
    assert whole["costs"]["search_epochs"] == 4
    stopping = at_calls(4, 9, 6)
    stages = []
    for _ in range(3):
        assert do(spec, tmp_path / "stopped", stopping()) == {}
        folder = RunDirectory.of(tmp_path / "stopped", spec).path
        stages.append(sorted(path.name for path in folder.glob("*.pt") if "previous" not in path.name))
    assert stages[0] == ["stage-round-1.pt"]
    assert stages[1][:2] == ["stage-round-1.pt", "stage-round-2.pt"]
    assert "checkpoint.pt" in stages[2]
    stopped = do(spec, tmp_path / "stopped")
    assert stopped["metrics"] == whole["metrics"]
    assert stopped["costs"]["search_flops"] == whole["costs"]["search_flops"] > 0
    assert outcome(tmp_path / "stopped", spec) == outcome(tmp_path / "whole", spec)


def test_snip_stopped_in_training_ends_bit_identical(plan: Callable[..., RunSpec], tmp_path: Path):
    spec = plan("snip", "0.1")
    do(spec, tmp_path / "whole")
    assert do(spec, tmp_path / "stopped", at_calls(4)()) == {}
    do(spec, tmp_path / "stopped")
    assert outcome(tmp_path / "stopped", spec) == outcome(tmp_path / "whole", spec)


def test_layer_collapse_in_a_search_is_refused_with_the_layers_name(plan: Callable[..., RunSpec], tmp_path: Path):
    result = do(plan("synflow", "0.05", rounds=1), tmp_path)
    assert result["state"] == "refused"
    assert "Layer collapse: keeping the" in result["reason"]
    assert result["smallest"] is None


@pytest.mark.parametrize("name", ["lottery", "synflow"])
def test_a_budget_that_a_search_refuses_is_refused_in_the_words_of_the_audit(
    name: str, plan: Callable[..., RunSpec], tmp_path: Path
):
    result = do(plan(name, "0.005"), tmp_path)
    assert (result["state"], result["smallest"]) == ("refused", 500)
    said = f"{name} needs at least 500 parameters (0.00645 of the dense network's 77,562); the budget is 387."
    assert result["reason"] == said


COLLAPSING = """
from npasbench.baselines.magnitude import Magnitude

class Collapsing(Magnitude):
    def after_step(self, network, progress):
        network.architecture.stem.weight.data.mul_(1e-9)
        super().after_step(network, progress)
"""


def test_layer_collapse_in_training_is_refused_too_and_leaves_no_model(plan: Callable[..., RunSpec], tmp_path: Path):
    plugin = tmp_path / "collapsing.py"
    plugin.write_text(COLLAPSING)
    spec = plan("collapsing", "0.1", plugins=(str(plugin),))
    result = do(spec, tmp_path / "runs")
    assert result["state"] == "refused"
    assert "leaves nothing of stem.weight" in result["reason"]
    left = {path.name for path in RunDirectory.of(tmp_path / "runs", spec).path.iterdir()}
    assert not {"model.safetensors", "checkpoint.pt", "checkpoint.previous.pt", "failure.json"} & left
