"""SuperWeight Networks on any architecture: within any budget from the smallest composition up, or refused with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CARDS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stacks import asked, built, images, stacks
from test_superweight_search import deep, method
from torch import nn

import npasbench
from npasbench.api import BudgetTooSmall, Findings, Members, Problem, SharedNetwork
from npasbench.baselines.superweight import Superweight, SuperweightKnobs
from npasbench.budget import Accounting, resolve
from npasbench.building import audited, build
from npasbench.card import read_card
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import NpasbenchError, UsageError
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import unshared_parameters
from npasbench.sharing.superweights import CAP, Piece, full_templates
from npasbench.training.evaluate import predict
from npasbench.training.loop import Training

CPU = torch.device("cpu")


@st.composite
def drawn_pieces(draw: st.DrawFn) -> list[Piece]:
    uses = st.integers(1, 20)
    return [
        Piece(draw(st.integers(1, 500)), n, draw(st.integers(1, n)))
        for n in draw(st.lists(uses, min_size=1, max_size=6))
    ]


@given(drawn_pieces(), st.integers(0, 60_000))
@settings(max_examples=200, deadline=None)
def test_more_than_eight_templates_are_given_only_for_what_nobody_else_can_use(pieces: list[Piece], more: int):
    budget = sum(piece.cost for piece in pieces) + more
    templates = full_templates(pieces, budget)
    left = budget - sum(n * piece.cost for n, piece in zip(templates, pieces, strict=True))
    assert 0 <= left < min(piece.cost for piece in pieces)
    beyond = sum((n - CAP) * piece.cost for n, piece in zip(templates, pieces, strict=True) if n > CAP)
    if beyond:
        assert all(piece.cost > left + beyond for n, piece in zip(templates, pieces, strict=True) if n < CAP)


@st.composite
def drawn_knobs(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "phase": draw(st.sampled_from(["untied", "coarse"])),
        "bins": draw(st.integers(1, 5)),
        "linear": draw(st.booleans()),
        "allocation": draw(st.sampled_from(["full", "published"])),
        "unshare_epoch": draw(st.sampled_from([0, 1])),
        "initial": draw(st.sampled_from(["he", "published"])),
    }


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """One to three members of any layers."""
    members = draw(st.lists(stacks(), min_size=1, max_size=3))
    return members[0] if len(members) == 1 else Members(members)


def composable(one: Superweight, network: nn.Module) -> bool:
    return any(one.composes(layer) for layer in shareable_layers(network))


# Budgets


@given(networks(), drawn_knobs(), st.floats(0.02, 4))
@settings(max_examples=60, deadline=None)
def test_a_network_is_within_its_budget_to_the_end_or_refused_with_the_smallest_that_is_enough(
    network: nn.Module, knobs: dict[str, Any], fraction: float
):
    one = method(**knobs)
    assume(composable(one, network))
    budget = max(1, int(fraction * count(network).total))
    smallest = refused(one, network, budget)
    enough = smallest or budget
    shared = audited(one, asked(network, enough), Findings(), 0)
    if smallest is not None:
        assert one.final_count(shared) == smallest > budget
        assert refused(one, network, smallest - 1) == smallest
    assert count(shared).total <= one.final_count(shared) <= enough


def refused(one: Superweight, network: nn.Module, parameters: int, accounting: Accounting = "total") -> int | None:
    """The smallest budget that would be enough, where this one is not."""
    try:
        audited(one, asked(network, parameters, accounting), Findings(), 0)
    except BudgetTooSmall as error:
        return error.smallest
    return None


@given(networks(), drawn_knobs(), st.floats(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_full_allocation_leaves_less_than_one_more_template_would_cost(
    network: nn.Module, knobs: dict[str, Any], fraction: float
):
    one = method(**{**knobs, "allocation": "full"})
    assume(composable(one, network))
    budget = 100 + int(fraction * count(network).total)
    assume(refused(one, network, budget) is None)
    shared = built(one, network, budget)
    weights = shared.generator
    rows = {key: one._most_rows(numbers) for key, numbers in weights.classes.items()}
    cheapest = min(store.size + rows[key] for key, store in weights.stores.items())
    assert 0 <= budget - one.final_count(shared) < cheapest


@given(networks(), drawn_knobs(), st.floats(1, 10))
@settings(max_examples=30, deadline=None)
def test_under_the_papers_count_templates_alone_are_within_the_budget(
    network: nn.Module, knobs: dict[str, Any], fraction: float
):
    one = method(**{**knobs, "allocation": None})
    assume(composable(one, network))
    budget = int(fraction * count(network).total)
    smallest = refused(one, network, budget, "bank")
    assert smallest is None or smallest > budget
    enough = smallest or budget
    weights = built(one, network, enough, accounting="bank").generator
    assert weights.templates.numel() <= enough
    assert max(store.templates for store in weights.stores.values()) <= 8


def test_by_default_the_budget_is_used_whole_and_as_published_where_a_task_counts_as_the_papers_do():
    network = deep()
    whole = method(phase="untied")
    assert max(s.templates for s in built(whole, network, 90_000).generator.stores.values()) > 8
    assert max(s.templates for s in built(whole, network, 90_000, accounting="bank").generator.stores.values()) == 8


def test_a_budget_is_refused_with_the_minimum_in_a_sentence():
    with pytest.raises(BudgetTooSmall, match=r"needs at least [\d,]+ parameters.*the budget is 300"):
        audited(method(phase="untied"), asked(deep(), 300), Findings(), 0)


def test_everything_that_is_trained_is_counted():
    network = Members([deep(), deep(outputs=7)])
    shared = built(method(phase="untied"), network, 30_000)
    weights = shared.generator
    coefficients = sum(len(numbers) * weights.stores[key].templates for key, numbers in weights.classes.items())
    layers = [layer for layer in shareable_layers(network) if layer.kind == "convolution"]
    rest = unshared_parameters(network, layers)
    assert rest == 8 * 17 + 17
    assert count(shared).total == weights.templates.numel() + coefficients + rest
    assert count(shared).total == sum(p.numel() for p in shared.parameters())


# What is wrong


@pytest.mark.parametrize(
    "knobs",
    [
        {"bins": 0},
        {"phase": "later"},
        {"allocation": "all"},
        {"threshold": 2},
        {"decrement": 0},
        {"batches": 0},
        {"search_epochs": 0},
        {"linkage": "single"},
        {"clusters": [[0, -1]]},
        {"unshare_epoch": -1},
        {"initial": "zeros"},
        {"nonsense": 1},
    ],
)
def test_an_impossible_knob_is_refused_by_name(knobs: dict[str, Any]):
    with pytest.raises(ValidationError):
        SuperweightKnobs(**knobs)
    with pytest.raises(NpasbenchError, match=next(iter(knobs))):
        method(**knobs)


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ([[0, 0]], r"clusters holds \[2\] numbers for its members; these networks have \[3\] layers"),
        ([[0, 0, 0], [0]], r"clusters holds \[3, 1\]"),
        ([[0, 2, 2]], "No layer is in cluster 1"),
        ([[0, 0, 0]], "Cluster 0 mixes kernels"),
    ],
)
def test_a_map_that_does_not_fit_gets_a_sentence(clusters: list[list[int]], said: str):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    with pytest.raises(UsageError, match=said):
        built(method(clusters=clusters), network, 2000)
    shared = built(method(clusters=[[0, 0, 1]]), network, 2000)
    assert [len(cluster.layers) for cluster in shared.generator.clusters] == [2, 1]


def test_a_network_without_convolutions_is_skipped_with_the_knob_that_helps():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert "linear=true" in method().skip(asked(network, 100))
    assert method(linear=True).skip(asked(network, 100)) is None


# Seeds, training, export


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    one = method(phase="untied")
    first, again, other = (built(one, deep(), 9000, seed) for seed in (7, 7, 8))
    states = [network.generator.state_dict() for network in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["templates"], states[2]["templates"])


def test_a_model_is_shared_by_the_python_call():
    shared = npasbench.share(deep(), "superweight", budget=1.0, phase="untied")
    assert isinstance(shared, SharedNetwork)
    assert shared(images()).shape == (2, 10)


@pytest.mark.parametrize("members", [("wrn-10-1",), ("wrn-10-1", "wrn-16-1")], ids=["alone", "ensemble"])
@pytest.mark.parametrize("phase", ["untied", "coarse"])
def test_training_evaluation_and_export_agree(members: tuple[str, ...], phase: str):
    """Two epochs of the digits with unsharing after the first: what predicts is what was trained, whichever way it is run."""
    card = read_card(CARDS / "digits15-wrn-10-1.toml")
    recipe = card.recipe.model_copy(update={"epochs": 2})
    networks = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in members)
    dense = sum(count(network.create()).total for network in networks)
    one = method(phase=phase, unshare_epoch=1, unshare_threshold=0.5)
    shared = build(one, Problem(networks, resolve(1, dense), 10, (1, 8, 8)), Findings(), 0)
    data = load(card.data, seed=0)
    training = Training(one, shared, recipe, Batches(data, card.data, 50, 0, CPU), CPU)
    training.run(Silent())
    assert count(shared).total <= one.final_count(shared) <= dense
    with torch.no_grad():
        inputs = data.test_inputs[:40].float()
        generated = shared.weights()
        kept = shared.eval()(inputs)
        slots = {slot: generated[layer.name] for layer in shared.layers for slot in layer.slots}
        direct = torch.func.functional_call(shared.architecture, slots, (inputs,))
        plain = npasbench.export(shared).eval()
        torch.testing.assert_close(direct, kept)
        torch.testing.assert_close(plain(inputs), kept)
    one_way, other = (predict(network, [inputs], recipe, CPU) for network in (shared, plain))
    torch.testing.assert_close(one_way, other)


class Silent:
    """An observer that sees nothing."""

    def after_step(self, training: Training) -> None:
        """Nothing."""

    def after_epoch(self, training: Training, row: Any) -> None:
        """Nothing."""
