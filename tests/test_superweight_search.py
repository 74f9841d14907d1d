"""Who shares: how clusters split by gradients, how other members join them, and what a search refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from npasbench.running.search import find
from npasbench.sharing.clusters import by_member, clusters_of, coarse_map, kernel_class
from npasbench.sharing.splitting import Evidence
from npasbench.training.loop import Training
from npasbench.training.team import Team

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


def test_a_layer_does_not_join_its_namesake_where_only_one_of_them_is_depthwise():
    layers = layers_in([THREE, THREE], [THREE, THREE])
    layers[3] = replace(layers[3], groups=3)
    members = by_member(layers)
    found = Evidence(members, directions(layers, 0, 90, 0, 90), coarse_map(members, 1), [16, 16]).split(0.5, "average")
    assert found.clusters == [[0, 1], [0, 2]]
    assert found.links[1] == [(0, 0), None]


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
    return brief


def brief(
    one: Method, members: tuple[Any, ...], budget: float = 0.5, per_class: int = 15, batch: int = 50, lr: float = 0.1
) -> tuple[Problem, BriefSearch]:
    """A problem on digits, and a search whose stages are two epochs of ``per_class`` images a class."""
    data = Data(set="digits", train_per_class=per_class, protocol="full-last")
    batches = Batches(load(data, seed=0), data, batch, 0, torch.device("cpu"))
    recipe = Recipe(
        epochs=2, batch_size=batch, threads=1, optimizer={"name": "sgd", "lr": lr}, schedule={"name": "constant"}
    )
    with torch.device("meta"):
        dense = sum(count(member.create()).total for member in members)
    problem = Problem(members, resolve(budget, dense), 10, (1, 8, 8))
    return problem, BriefSearch(0, lambda network: Training(one, network, recipe, batches, torch.device("cpu")))


# Families that are mixed, and layers that are no convolutions: the whole search

SEARCHED: dict[str, tuple[tuple[str, ...], float, dict[str, Any]]] = {
    "resnet18-resnet34": (("torchvision:resnet18", "torchvision:resnet34"), 0.5, {"threshold": 0.3}),
    "transformer": (("row-transformer",), 1, {"threshold": 0.3, "linear": True}),
}


class Searched(NamedTuple):
    """A search on real digits: what was asked, and what it found."""

    method: Superweight
    problem: Problem
    findings: Findings
    begin: Callable[..., tuple[Problem, BriefSearch]]

    @property
    def members(self) -> list[list[LayerSpec]]:
        """The layers that are composed."""
        return by_member(build(self.method, self.problem, self.findings, 0).layers)


@pytest.fixture(scope="module", params=SEARCHED)
def searched(request: pytest.FixtureRequest) -> Searched:
    names, budget, knobs = SEARCHED[request.param]
    one, members = method(**knobs), tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in names)

    def begin(asked_for: float | int = budget) -> tuple[Problem, BriefSearch]:
        return brief(one, members, asked_for, per_class=1, batch=5, lr=0.01)

    problem, context = begin(budget)
    torch.manual_seed(1)
    return Searched(one, problem, one.search(problem, context), begin)


def test_every_layer_is_in_one_cluster_of_its_own_bin_and_kernel(searched: Searched):
    members, found = searched.members, searched.findings.facts["clusters"]
    clusters = clusters_of(members, found)
    assert sorted(layer.name for cluster in clusters for layer in cluster.layers) == sorted(
        layer.name for own in members for layer in own
    )
    coarse = coarse_map(members, 4)
    bins = {layer.name: coarse[member][k] for member, own in enumerate(members) for k, layer in enumerate(own)}
    for cluster in clusters:
        assert len({kernel_class(layer) for layer in cluster.layers}) == 1
        assert len({bins[layer.name] for layer in cluster.layers}) == 1
    # gradients have split bins, and have left layers together
    assert len(set(bins.values())) < len(clusters) < len(bins)


def test_links_lead_to_layers_of_the_same_cluster(searched: Searched):
    found, links = searched.findings.facts["clusters"], searched.findings.facts["links"]
    ends = [(found[member][k], link) for member, own in enumerate(links) for k, link in enumerate(own) if link]
    assert all(found[link[0]][link[1]] == cluster for cluster, link in ends)
    assert bool(ends) == (len(found) > 1)


def test_what_a_search_found_leaves_less_than_a_superweight_of_the_budget_unused(searched: Searched):
    one, problem = searched.method, searched.problem
    shared = build(one, problem, searched.findings, 0)
    unused = problem.budget.parameters - one.final_count(shared)
    assert 0 <= unused < min(piece.cost for piece in one.pieces(shared.generator.clusters, shared.generator.classes))


def test_a_search_is_refused_with_the_smallest_budget_which_is_then_met_exactly(searched: Searched):
    with pytest.raises(BudgetTooSmall) as refused:
        searched.method.search(searched.begin(0.01)[0], Untouchable())
    with pytest.raises(BudgetTooSmall):
        searched.method.search(searched.begin(refused.value.smallest - 1)[0], Untouchable())
    problem, context = searched.begin(refused.value.smallest)
    found = searched.method.search(problem, context)
    shared = build(searched.method, problem, found, 0)
    assert found.facts["clusters"] == coarse_map(by_member(shared.layers), 4)
    assert searched.method.final_count(shared) == refused.value.smallest


class Kept(BriefSearch):
    """A search whose costs are kept with what it finds."""

    team = Team()

    def took(self, seconds: float) -> None:
        self.seconds = seconds

    def costs(self) -> dict[str, float | None]:
        return {"search_epochs": 2.0}

    def restore_costs(self, costs: dict[str, float | None]) -> None:
        self.restored = costs


def test_a_search_comes_again_with_the_seed_and_its_findings_alone_build_the_same_network(
    searched: Searched, tmp_path: Path
):
    one, (problem, context) = searched.method, searched.begin()
    torch.manual_seed(2)  # whatever happened before in this process
    found = find(one, problem, Kept(context.seed, context.begin), tmp_path / "findings.pt")
    assert found == searched.findings

    def untouched(network: nn.Module) -> Training:
        raise AssertionError("trained though it was found before")

    later = Kept(context.seed, untouched)
    again = find(one, problem, later, tmp_path / "findings.pt")
    assert later.restored == {"search_epochs": 2.0}
    first, second = (build(one, problem, findings, 3).state_dict() for findings in (found, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_findings_without_a_search_get_a_sentence():
    with pytest.raises(UsageError, match="phase = search needs the search of a run"):
        build(method(), asked(deep(), 20_000), Findings(), 0)
