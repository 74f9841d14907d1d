"""The published release's clusters, templates, counts and composed weights, record by record (the source is in the file)."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from npasbench.api import BudgetTooSmall, Findings, LayerSpec
from npasbench.baselines.superweight import Superweight
from npasbench.budget import resolve
from npasbench.building import audited
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.networks.members import Members
from npasbench.problem import Problem
from npasbench.registry import create
from npasbench.sharing.agreement import agreeing
from npasbench.sharing.clusters import by_member, clusters_of, coarse_map
from npasbench.sharing.composed import Classes, ComposedWeights
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import unshared_parameters
from npasbench.sharing.splitting import Link, Split, linked_classes
from npasbench.sharing.superweights import Cluster

RELEASE = json.loads((Path(__file__).parent / "data" / "swn_parity.json").read_text(encoding="utf-8"))
TABLES: dict[str, dict[str, Any]] = RELEASE["tables"]
A_SPLIT = TABLES["A-split"]
ENSEMBLE = ("wrn-16-2", "wrn-16-1", "wrn-10-2", "wrn-10-1")
WRN_16_4 = ("16-4",)


@cache
def dense(members: tuple[str, ...]) -> nn.Module:
    with torch.device("meta"):
        networks = [architecture(f"wrn-{one}", classes=100, input_shape=(3, 32, 32)).create() for one in members]
    return Members(networks)


@cache
def layers_of(members: tuple[str, ...]) -> list[LayerSpec]:
    return [layer for layer in shareable_layers(dense(members)) if layer.kind == "convolution"]


def published(**knobs: Any) -> Superweight:
    return create(Superweight, {"phase": "untied", "allocation": "published", **knobs}, "superweight")


def shared_by(
    members: tuple[str, ...], found: Any = None, links: Any = (), *, tied: bool = False
) -> tuple[list[Cluster], Classes]:
    own = by_member(layers_of(members))
    clusters = clusters_of(own, coarse_map(own, 4) if found is None else found)
    return clusters, linked_classes(clusters, own, links, tied)


def templates(clusters: list[Cluster], classes: Classes, budget: int) -> dict[str, int]:
    flat = (n for row in published().counts(clusters, classes, budget, exact=True) for n in row)
    return dict(zip(classes, flat, strict=True))


def coefficients(classes: Classes, n: dict[str, int]) -> int:
    return sum((1 + max(numbers)) * n[key] for key, numbers in classes.items())


def tabled(record: dict[str, Any], *, tied: bool = False) -> tuple[dict[str, Any], Classes, dict[str, int]]:
    members = tuple(record["members"])
    clusters, classes = shared_by(members, record.get("layer2group"), tied=tied)
    n = templates(clusters, classes, record["max_params"])
    number = {layer.name: k for own in by_member(layers_of(members)) for k, layer in enumerate(own)}
    table: dict[str, Any] = {}
    for place, cluster in enumerate(clusters):
        for index, size in enumerate(cluster.sizes):
            users: dict[str, list[int]] = {}
            for position in cluster.users(index):
                layer = cluster.layers[position]
                users.setdefault(f"net{layer.member}", []).append(number[layer.name])
            key = f"{place}_width_{index}"
            table[key] = {"size": size, "templates": n[f"{place}_{index}"], "layers": users}
    return table, classes, n


# Tables


@pytest.mark.parametrize("name", TABLES)
def test_every_superweights_size_templates_and_layers_are_the_releases(name: str):
    assert tabled(TABLES[name])[0] == TABLES[name]["banks"]


def test_the_coarse_bins_are_the_releases():
    record = TABLES["A-coarse"]
    assert coarse_map(by_member(layers_of(tuple(record["members"]))), 4) == record["layer2group"]


@pytest.mark.parametrize("name", [name for name in TABLES if name != "A-split"])
def test_counts_by_category_are_the_releases(name: str):
    record = TABLES[name]
    _, classes, n = tabled(record, tied=name == "A-coarse")
    holds(tuple(record["members"]), record, classes, n)


def holds(members: tuple[str, ...], record: dict[str, Any], classes: Classes, n: dict[str, int]) -> None:
    """Templates, coefficients, norms and classifiers, all together and of each member with what it shares."""
    counted = count(dense(members)).as_dict()
    sizes = sizes_of(members, record)
    ours = {
        "templates": sum(n[key] * sizes[key] for key in n),
        "coefficients": coefficients(classes, n),
        "bn": counted["norm"],
        "classifier": counted["classifier"],
    }
    assert ours == {key: record["by_category"][key] for key in ours}
    assert sum(ours.values()) == record["unique_trainable"]
    own = [of_member(members, record, member, classes, n) for member in range(len(members))]
    assert own == record["per_member_trainable"]


def sizes_of(members: tuple[str, ...], record: dict[str, Any]) -> dict[str, int]:
    clusters, _ = shared_by(members, record.get("layer2group"))
    return {f"{place}_{index}": size for place, one in enumerate(clusters) for index, size in enumerate(one.sizes)}


def of_member(
    members: tuple[str, ...], record: dict[str, Any], member: int, classes: Classes, n: dict[str, int]
) -> int:
    """What a member has alone, and every template and coefficient that it uses."""
    clusters, _ = shared_by(members, record.get("layer2group"))
    sizes = sizes_of(members, record)
    total = unshared_parameters(dense((members[member],)), layers_of((members[member],)))
    for key, numbers in classes.items():
        cluster, index = map(int, key.split("_"))
        users = [clusters[cluster].layers[position].member for position in clusters[cluster].users(index)]
        used = {number for number, user in zip(numbers, users, strict=True) if user == member}
        total += n[key] * (sizes[key] + len(used)) if used else 0
    return total


def test_after_a_split_with_the_releases_links_the_counts_are_its_own():
    """Its links of another depth point to the wrong layer of the right cluster: as input they are as good as any.

    They were recorded in reverse order of layers, and are used in ascending order; which layers they meant cannot be a
    test, since here links name the layer that the gradients agree with.
    """
    members = tuple(A_SPLIT["members"])
    clusters, classes = shared_by(members, A_SPLIT["layer2group"], recorded_links())
    holds(members, A_SPLIT, classes, templates(clusters, classes, A_SPLIT["max_params"]))


def recorded_links() -> list[list[Link]]:
    found = A_SPLIT["layer2group"]
    links: list[list[Link]] = [[None] * len(own) for own in found]
    for member, own in A_SPLIT["links"].items():
        for k, link in own.items():
            mates = [at for at, cluster in enumerate(found[link["net"]]) if cluster == found[int(member)][int(k)]]
            links[int(member)][int(k)] = (link["net"], mates[link["layer"]])
    return links


def test_the_multi_width_ensemble_has_the_releases_templates_and_counts():
    record = RELEASE["B-coarse"]
    members = tuple(record["members"])
    clusters, classes = shared_by(members, tied=True)
    assert published().counts(clusters, classes, record["max_params"], exact=True) == record["templates"]
    holds(members, record, classes, templates(clusters, classes, record["max_params"]))


# Budgets


@pytest.mark.parametrize("budget", [int(one) for one in RELEASE["sweep"] if int(one) >= 806_912])
def test_templates_follow_the_budget_as_the_releases_do(budget: int):
    record = RELEASE["sweep"][str(budget)]
    clusters, classes = shared_by(WRN_16_4)
    n = templates(clusters, classes, budget)
    assert {key.replace("_", "_width_"): value for key, value in n.items()} == {
        key: value for key, value in record.items() if key not in ("sum", "coefs")
    }
    sizes = sizes_of(WRN_16_4, {})
    assert sum(n[key] * sizes[key] for key in n) == record["sum"]
    assert coefficients(classes, n) == record["coefs"]


@pytest.mark.parametrize("budget", [int(one) for one in RELEASE["sweep"] if int(one) < 806_912])
def test_where_the_release_silently_exceeds_its_budget_the_minimum_is_named(budget: int):
    """It builds one template each, 806,912 scalars."""
    assert RELEASE["sweep"][str(budget)]["sum"] == RELEASE["allocation"]["min_base_wrn16_4_bins4"] == 806_912
    with pytest.raises(BudgetTooSmall) as refused:
        templates(*shared_by(WRN_16_4), budget)
    assert refused.value.smallest == 806_912


def test_the_published_allocation_saturates_at_eight_templates():
    clusters, classes = shared_by(WRN_16_4)
    n = templates(clusters, classes, 10**8)
    assert set(n.values()) == {RELEASE["allocation"]["cap"]}
    sizes = sizes_of(WRN_16_4, {})
    assert sum(n[key] * sizes[key] for key in n) == RELEASE["allocation"]["wrn16_4_saturation"]


def test_the_smallest_stores_are_the_releases():
    base = sum(sum(cluster.sizes) for cluster in shared_by(("28-10",))[0])
    assert base == RELEASE["allocation"]["wrn28_10_budget_1e6_actual_templates"]
    largest = sum(math.prod(cluster.shapes[-1]) for cluster in shared_by(("28-7",))[0])
    assert largest == RELEASE["allocation"]["min_base_sum_of_largest_wrn28_7_bins4"]


@pytest.mark.parametrize(
    ("members", "share"),
    [(("wrn-16-2",), 0.296), (("wrn-10-1",), 0.665), (ENSEMBLE, 0.168)],
    ids=["wrn-16-2", "wrn-10-1", "digits15-ensemble"],
)
def test_the_smallest_composition_of_the_digits_networks_is_named(members: tuple[str, ...], share: float):
    """The shares are of the layers' scalars and what is not shared; what coefficients add is within the last digit."""
    networks = tuple(architecture(one, classes=10, input_shape=(1, 8, 8)) for one in members)
    whole = sum(count(one.create()).total for one in networks)
    method = create(Superweight, {"phase": "untied"}, "superweight")
    with pytest.raises(BudgetTooSmall) as refused:
        audited(method, Problem(networks, resolve(0.05, whole), 10, (1, 8, 8)), Findings(), 0)
    smallest = refused.value.smallest
    assert round(smallest / whole, 3) == share
    shared = audited(method, Problem(networks, resolve(smallest, whole), 10, (1, 8, 8)), Findings(), 0)
    assert method.final_count(shared) == smallest


@pytest.mark.parametrize("phase", ["untied", "coarse"])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4])
def test_the_full_allocation_uses_wrn_28_10s_budget_to_a_thousandth(fraction: float, phase: str):
    network, layers = dense(("28-10",)), layers_of(("28-10",))
    budget = int(fraction * count(network).total)
    rest = unshared_parameters(network, layers)
    clusters, classes = shared_by(("28-10",), tied=phase == "coarse")
    method = create(Superweight, {"phase": phase}, "superweight")
    counts = method.counts(clusters, classes, budget - rest, exact=False)
    used = rest + sum(
        n * (size + len(cluster.users(index)))
        for cluster, own in zip(clusters, counts, strict=True)
        for index, (n, size) in enumerate(zip(own, cluster.sizes, strict=True))
    )
    assert 0.999 * budget <= used <= budget
    cheapest = min(size + len(cluster.users(index)) for cluster in clusters for index, size in enumerate(cluster.sizes))
    assert budget - used < cheapest


# Composed weights


def golden() -> dict[str, torch.Tensor]:
    """The records' recipe in float64: templates that count up to 1009, coefficients that count layers and templates."""
    record, layers = RELEASE["golden"], layers_of(WRN_16_4)
    clusters, classes = shared_by(WRN_16_4)
    budget = int(record["config"].rsplit(" ", 1)[1])
    n = templates(clusters, classes, budget)
    assert {key.replace("_", "_width_"): value for key, value in n.items()} == record["templates"]
    split = Split(coarse_map([layers], 4), [])
    rng = torch.Generator().manual_seed(0)
    weights: ComposedWeights = published().composed(layers, split, budget, True, tied=False, rng=rng).double()
    with torch.no_grad():
        for key, store in weights.stores.items():
            length = store.templates * store.size
            positions = torch.arange(length, dtype=torch.float64)
            weights.templates[store.start : store.start + length] = positions % 1009 / 1009
            rows = torch.arange(len(classes[key]), dtype=torch.float64)
            columns = torch.arange(store.templates, dtype=torch.float64)
            weights.coefficients[key].copy_(columns + 1 + 0.1 * rows[:, None])
        return weights()


GOLDEN = golden()


@pytest.mark.parametrize("record", RELEASE["golden"]["layers"], ids=lambda record: f"layer-{record['layer']}")
def test_composed_weights_are_the_releases(record: dict[str, Any]):
    """The release mixes in float32: its values are right to 1e-6, its sums of many values to 1e-7."""
    weight = GOLDEN[layers_of(WRN_16_4)[record["layer"]].name]
    assert list(weight.shape) == record["shape"]
    o, i = weight.shape[0] // 2, weight.shape[1] // 2
    ours = [
        weight[0, 0, 0, 0],
        weight[-1, -1, -1, -1],
        weight[0, -1, 0, -1],
        weight[-1, 0, -1, 0],
        weight[o, i, 0, 0],
    ]
    theirs = [record[where] for where in ("first", "last", "top_right", "bottom_left", "mid")]
    assert torch.stack(ours).tolist() == pytest.approx(theirs, rel=1e-6)
    assert float(weight.sum()) == pytest.approx(record["sum"], rel=1e-7)


# The greedy rule


@pytest.mark.parametrize(
    ("name", "both", "expected"), [("both_directions", True, [0, 1, 0, 0]), ("one_direction", False, [0, 0, 0, 1])]
)
def test_labels_are_overwritten_as_in_the_release(name: str, both: bool, expected: list[int]):
    record = RELEASE["pq"]
    similarities = torch.eye(4, dtype=torch.float64)
    for pair, similarity in record["sims"].items():
        one, other = ("abcd".index(letter) for letter in pair)
        similarities[one, other] = similarities[other, one] = similarity
    ours = agreeing(similarities, record["threshold"], "published", both_directions=both)
    theirs = [record[name][letter] for letter in "abcd"]
    assert ours == expected
    assert [ours.index(one) for one in ours] == [theirs.index(one) for one in theirs]
