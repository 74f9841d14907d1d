"""Who shares: how clusters split by gradients, how other members join them, and what a search refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compositions import layers_in
from stacks import asked
from torch import Tensor, nn

from npasbench.api import Architecture, BudgetTooSmall, Findings, LayerSpec, Method, Problem, SharedNetwork
from npasbench.baselines.superweight import Superweight
from npasbench.brief_training import BriefSearch
from npasbench.budget import resolve
from npasbench.building import build
from npasbench.card import Data, Recipe
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import UsageError
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.registry import create
from npasbench.sharing.clusters import by_member, clusters_of, coarse_map
from npasbench.sharing.splitting import Evidence
from npasbench.training.loop import Training

RULES = ("average", "published")


def method(**knobs: Any) -> Superweight:
    return create(Superweight, knobs, "superweight")


# Clusters

THREE = (3, 3, 3, 3)


def evidence(members: Sequence[Sequence[LayerSpec]], gradients: dict[str, Tensor], depths: Sequence[Any]) -> Evidence:
    return Evidence(members, gradients, [[0] * len(own) for own in members], depths)


def directions(layers: Sequence[LayerSpec], *angles: float) -> dict[str, Tensor]:
    """For each layer a gradient that points in a direction of the plane, given in degrees."""
    found = {}
    for layer, angle in zip(layers, angles, strict=True):
        gradient, radians = torch.zeros(layer.shape), torch.tensor(angle).deg2rad()
        gradient.view(-1)[0], gradient.view(-1)[1] = radians.cos(), radians.sin()
        found[layer.name] = gradient
    return found


def test_layers_whose_gradients_point_the_same_way_stay_together():
    layers = layers_in([THREE] * 4)
    split = evidence([layers], directions(layers, 0, 90, 5, 95), [0]).split(0.5, "average")
    assert split.clusters == [[0, 1, 0, 1]]
    assert split.links == [[None] * 4]


def test_a_member_of_the_same_depth_joins_by_name_whatever_its_gradients():
    layers = layers_in([THREE] * 3, [(2, 2, 3, 3)] * 3)
    split = evidence(by_member(layers), directions(layers, 0, 90, 0, 90, 0, 90), [16, 16]).split(0.5, "average")
    assert split.clusters == [[0, 1, 0]] * 2
    assert split.links[1] == [(0, 0), (0, 1), (0, 2)]


def test_a_member_of_another_depth_joins_the_layer_that_its_gradient_agrees_with():
    layers = layers_in([THREE] * 3, [(2, 2, 3, 3)] * 2)
    split = evidence(by_member(layers), directions(layers, 0, 90, 180, 100, 170), [16, 10]).split(0.5, "average")
    assert split.clusters == [[0, 1, 2], [1, 2]]
    assert split.links[1] == [(0, 1), (0, 2)]


def test_a_second_member_of_another_depth_follows_the_first_by_name():
    layers = layers_in([THREE] * 2, [THREE], [(2, 2, 3, 3)])
    split = evidence(by_member(layers), directions(layers, 0, 90, 80, 0), [16, 10, 10]).split(0.5, "average")
    assert split.clusters == [[0, 1], [1], [1]]
    assert split.links[2] == [(1, 0)]


def test_a_link_is_made_only_above_its_threshold_and_the_cluster_is_joined_all_the_same():
    layers = layers_in([THREE] * 2, [(2, 2, 3, 3)] * 2)
    found = evidence(by_member(layers), directions(layers, 0, 90, 10, 0), [16, 16])
    split = found.split(0.5, "average", link_threshold=0.3)
    assert split.clusters == [[0, 1], [0, 1]]
    assert split.links[1] == [(0, 0), None]


def test_layers_of_a_kernel_that_the_deepest_member_lacks_have_their_own_cluster():
    layers = layers_in([THREE] * 3, [THREE, (4, 4, 1, 1)], [(5, 5, 1, 1)])
    members = by_member(layers)
    found = Evidence(members, directions(layers, 0, 0, 90, 90, 0, 0), coarse_map(members, 1), [3, 2, 1])
    split = found.split(0.5, "average")
    clusters_of(members, split.clusters)
    assert split.clusters == [[0, 0, 1], [1, 2], [2]]
    assert split.links[1:] == [[(0, 2), None], [None]]


def test_the_deepest_member_decides_even_if_it_is_not_the_first():
    layers = layers_in([THREE], [THREE] * 2)
    split = evidence(by_member(layers), directions(layers, 90, 0, 90), [10, 16]).split(0.5, "average")
    assert split.clusters == [[1], [0, 1]]
    assert split.links == [[(1, 1)], [None, None]]


# The threshold


@pytest.mark.parametrize("rule", RULES)
def test_the_threshold_falls_until_the_clusters_fit_and_stops_where_all_bins_are_whole(rule: Any):
    layers = layers_in([THREE] * 3)
    found = evidence([layers], directions(layers, 0, 90, 120), [0])
    size = layers[0].size
    one = method(linkage=rule, threshold=0.5, decrement=0.3)
    assert one.affordable(found, [layers], 10 * size, True)[1] == 0.5
    fitting, threshold = one.affordable(found, [layers], size, True)
    assert fitting.clusters == [[0, 0, 0]]
    assert -1.01 < threshold < 0
    assert one.affordable(found, [layers], 1, True) == (fitting, None)


@pytest.mark.parametrize("rule", RULES)
def test_at_the_lowest_threshold_even_opposite_gradients_stay_together(rule: Any):
    layers = layers_in([THREE] * 3)
    gradients = {
        layer.name: torch.full(layer.shape, sign) for layer, sign in zip(layers, (1.0, -1.0, 1.0), strict=True)
    }
    split, _ = method(linkage=rule).affordable(evidence([layers], gradients, [0]), [layers], layers[0].size, True)
    assert split.clusters == [[0, 0, 0]]


def deep(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(5)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        *convolutions,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, outputs),
    )


class Surroundings:
    """A search's surroundings that train nothing, and accumulate the gradients of noise."""

    seed = 5

    def __init__(self) -> None:
        self.trained: list[SharedNetwork] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def train(self, name: str, network: SharedNetwork, **wishes: Any) -> SharedNetwork:
        self.trained.append(network)
        self.calls.append((name, wishes))
        return network

    def accumulate(self, network: SharedNetwork, *, batches: int) -> None:
        self.calls.append(("accumulate", {"batches": batches}))
        rng = torch.Generator().manual_seed(0)
        for _ in range(batches):
            logits = network.eval()(torch.randn(4, 3, 8, 8, generator=rng)).view(-1, 10)
            nn.functional.cross_entropy(logits, torch.arange(4).repeat(len(logits) // 4)).backward()


def test_the_search_trains_one_tied_network_and_hears_as_many_batches_as_asked():
    context = Surroundings()
    found = method(search_epochs=3, batches=2, bins=2).search(asked(deep(), 20_000), context)
    assert context.calls == [("clusters", {"epochs": 3}), ("accumulate", {"batches": 2})]
    (network,) = context.trained
    assert {max(numbers) for numbers in network.generator.classes.values()} == {0}
    assert set(network.generator.weight_gradients) == {layer.name for layer in network.layers}
    assert len(found.facts["clusters"][0]) == 6
    assert found.facts["threshold"] == 0.1


def test_what_a_search_found_is_built_and_comes_again_with_the_seed():
    one, problem = method(bins=2, threshold=0.9), asked(deep(), 20_000)
    findings = [one.search(problem, Surroundings()) for _ in range(2)]
    assert findings[0] == findings[1]
    shared = build(one, problem, findings[0], 0)
    found = {layer["name"]: c["cluster"] for c in one.allocation(shared)["clusters"] for layer in c["layers"]}
    assert [found[layer.name] for layer in shared.layers] == findings[0].facts["clusters"][0]


@pytest.mark.parametrize("linked", [True, False])
def test_linked_layers_start_with_the_coefficients_of_their_counterparts(linked: bool):
    twins = tuple(Architecture.of(deep()) for _ in range(2))
    one, problem = method(bins=1, threshold=-1, linked=linked), Problem(twins, resolve(20_000, 6372), 10, (3, 8, 8))
    shared = build(one, problem, one.search(problem, Surroundings()), 0)
    for numbers in shared.generator.classes.values():
        half = len(numbers) // 2
        assert len(set(numbers)) == (half if linked else 2 * half)
        if linked:
            assert numbers[:half] == numbers[half:]


class Untouchable:
    """A search's surroundings in which nothing may be trained."""

    seed = 0

    def train(self, *_: Any, **__: Any) -> nn.Module:
        raise AssertionError("trained though the budget is too small")


@pytest.mark.parametrize("accounting", ["total", "bank"])
def test_a_budget_below_the_coarse_clusters_is_refused_before_anything_is_trained(accounting: Any):
    one = method(bins=1)
    with pytest.raises(BudgetTooSmall) as refused:
        one.search(asked(deep(), 500, accounting), Untouchable())
    smallest = refused.value.smallest
    assert smallest == {"total": 8 * 10 + 10 + 8 * 8 * 9 + 6 + 5, "bank": 8 * 8 * 9}[accounting]
    found = one.search(asked(deep(), smallest, accounting), Surroundings())
    shared = build(one, asked(deep(), smallest, accounting), found, 0)
    assert found.facts["clusters"] == [[0] * 6]
    assert accounting == "bank" or one.final_count(shared) == smallest


DIGITS = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in ("wrn-10-1", "wrn-16-1"))


def test_a_brief_search_of_the_digits_ensemble_splits_and_is_built_within_budget(small_training: Any):
    one = method(bins=2, threshold=0.3)
    problem, context = small_training(one, DIGITS)
    found = one.search(problem, context)
    shared = build(one, problem, found, 0)
    assert one.final_count(shared) <= problem.budget.parameters
    assert [len(own) for own in found.facts["clusters"]] == [9, 15]


def test_the_searchs_network_stays_tied_though_training_would_unshare(small_training: Any):
    """Section 3.2: coefficients separate during the real training, after the clusters are found."""
    one = method(bins=2, unshare_epoch=1, unshare_gap=1, unshare_threshold=1)
    problem, context = small_training(one, DIGITS)
    networks, begin = [], context.begin
    context.begin = lambda network: networks.append(network) or begin(network)
    one.search(problem, context)
    assert {max(numbers) for network in networks for numbers in network.generator.classes.values()} == {0}


@pytest.fixture
def small_training() -> Any:
    """A problem at half the budget of digits' networks, and a search whose stages are two epochs."""

    def make(one: Method, members: tuple[Any, ...]) -> tuple[Problem, BriefSearch]:
        data = Data(set="digits", train_per_class=15, protocol="full-last")
        batches = Batches(load(data, seed=0), data, 50, 0, torch.device("cpu"))
        recipe = Recipe(
            epochs=2, batch_size=50, threads=1, optimizer={"name": "sgd", "lr": 0.1}, schedule={"name": "constant"}
        )
        dense = sum(count(member.create()).total for member in members)
        problem = Problem(members, resolve(0.5, dense), 10, (1, 8, 8))
        return problem, BriefSearch(0, lambda network: Training(one, network, recipe, batches, torch.device("cpu")))

    return make


def test_findings_without_a_search_get_a_sentence():
    with pytest.raises(UsageError, match="phase = search needs the search of a run"):
        build(method(), asked(deep(), 20_000), Findings(), 0)
