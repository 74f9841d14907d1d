"""Who shares a bank with whom: the groupings of Shapeshifter Networks, and the search that learns one."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import CARDS
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stacks import METHODS, asked, built, method, specs, stacks
from test_resume import finish, only_run, outcome, start
from torch import nn

from npasbench.api import Findings, LayerSpec
from npasbench.baselines.ssn import SsnKnobs
from npasbench.building import build
from npasbench.errors import NpasbenchError, UsageError
from npasbench.networks import architecture
from npasbench.sharing import grouping
from npasbench.sharing.layers import shareable_layers

NOBODY = torch.Generator().manual_seed(0)


def layers_of(name: str, classes: int = 100) -> list[LayerSpec]:
    with torch.device("meta"):
        return shareable_layers(architecture(name, classes=classes, input_shape=(3, 64, 64)).create())


def members(groups: list[int]) -> list[list[int]]:
    """The layers of each group."""
    return [[i for i, group in enumerate(groups) if group == number] for number in range(max(groups) + 1)]


# By rule


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_random_groups_are_never_empty_and_come_again_with_the_seed(layers: int, count: int, seed: int):
    drawn = [grouping.at_random(layers, count, torch.Generator().manual_seed(seed)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == layers
    assert set(drawn[0]) == set(range(min(count, layers)))


def test_another_seed_draws_other_random_groups():
    drawn = {tuple(grouping.at_random(29, 4, torch.Generator().manual_seed(seed))) for seed in range(10)}
    assert len(drawn) == 10


def test_every_layer_can_be_in_every_random_group():
    drawn = [grouping.at_random(6, 3, torch.Generator().manual_seed(seed)) for seed in range(100)]
    assert all({one[layer] for one in drawn} == {0, 1, 2} for layer in range(6))


def test_random_groups_are_drawn_from_the_runs_seed():
    network = nn.Sequential(*(nn.Linear(9, 9) for _ in range(12)))
    one = method("ssn", groups="random", group_count=3)
    banks = [[group.bank for group in built(one, network, 900, seed).generator.groups] for seed in (1, 1, 2)]
    assert banks[0] == banks[1] != banks[2]


@given(stacks())
@settings(max_examples=30, deadline=None)
def test_groups_by_class_and_by_shape_hold_one_class_and_one_shape(network: nn.Module):
    layers = shareable_layers(network)
    for group in members(grouping.by_class(layers)):
        assert len({grouping._class(layers[i]) for i in group}) == 1
    by_shape = members(grouping.by_class_and_shape(layers))
    for group in by_shape:
        assert len({(grouping._class(layers[i]), layers[i].shape) for i in group}) == 1
    assert len(by_shape) == len({(grouping._class(layer), layer.shape) for layer in layers})


def test_attention_is_in_the_class_of_linear_layers_and_embeddings_are_their_own():
    network = nn.ModuleList([nn.Embedding(5, 4), nn.MultiheadAttention(4, 1), nn.Linear(4, 4), nn.Conv1d(4, 4, 1)])
    assert grouping.by_class(shareable_layers(network)) == [0, 1, 1, 1, 2]


def test_a_list_is_taken_as_it_is():
    layers = specs(*[(3, 3)] * 4)
    assert method("ssn", groups=[0, 1, 1, 0]).grouped(layers, Findings(), NOBODY) == [0, 1, 1, 0]


# The published tables


def test_the_table_of_wrn_28_10_has_14_groups_of_which_three_are_shared():
    groups = members(method("ssn", groups="manual-wrn-28-10").grouped(layers_of("wrn-28-10"), Findings(), NOBODY))
    assert len(groups) == 14
    assert [group for group in groups if len(group) > 1] == [
        list(range(4, 10)),
        list(range(13, 19)),
        list(range(22, 28)),
    ]


@pytest.mark.parametrize(
    ("name", "count"),
    [("torchvision:resnet50", 30), ("timm:resnet50", 30), ("timm:resnet50d", 32)],
    ids=["torchvision", "timm", "the-releases-stem-of-three-convolutions"],
)
def test_the_table_of_resnet_50_shares_by_position_in_each_module(name: str, count: int):
    layers = layers_of(name)
    groups = members(method("ssn", groups="manual-resnet-50").grouped(layers, Findings(), NOBODY))
    assert len(groups) == count
    shared = [[layers[i].name for i in group] for group in groups if len(group) > 1]
    assert len(shared) == 12
    for names in shared:
        module, position = names[0].split(".")[0], names[0].split(".")[2]
        blocks = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}[module]
        assert names == [f"{module}.{block}.{position}.weight" for block in range(1, blocks)]


OTHERS = (
    "wrn-16-4",
    "wrn-28-2",
    "wrn-28-4",
    "torchvision:resnet18",
    "torchvision:resnet101",
    "torchvision:wide_resnet50_2",
    "torchvision:resnext50_32x4d",
    "timm:seresnet50",
)


@pytest.mark.parametrize("table", grouping.TABLES)
@pytest.mark.parametrize("name", OTHERS)
def test_a_table_for_another_network_is_refused_with_what_to_do(table: str, name: str):
    with pytest.raises(
        UsageError, match=rf"manual-{table} is for the layers of {table}.*number or shapes. Give a list"
    ):
        method("ssn", groups=f"manual-{table}").grouped(layers_of(name), Findings(), NOBODY)


@pytest.mark.parametrize(("table", "name"), [("wrn-28-10", "torchvision:resnet50"), ("resnet-50", "wrn-28-10")])
def test_one_table_is_not_for_the_others_network(table: str, name: str):
    with pytest.raises(UsageError, match="Give a list"):
        method("ssn", groups=f"manual-{table}").grouped(layers_of(name), Findings(), NOBODY)


# What is wrong


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("singel", "Did you mean 'single'"),
        ("manual-wrn-28-1", "manual-wrn-28-10"),
        (4, "the release's 0 is type here"),
        ([0.5], "a list with a whole number for each layer"),
        ([0, 2], "numbers them 0, 1, 2 and so on, without a gap"),
        ([1, 2], "numbers them 0, 1, 2 and so on, without a gap"),
        ([-1, 0], "numbers them 0, 1, 2 and so on, without a gap"),
    ],
)
def test_an_impossible_grouping_gets_a_sentence(groups: Any, said: str):
    with pytest.raises(ValidationError, match=said):
        SsnKnobs(groups=groups)
    with pytest.raises(NpasbenchError, match=said):
        method("ssn", groups=groups)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"groups": "learning", "share": "avg"}, "share is wavg or emb, not avg"),
        ({"groups": "learning", "upsample": "mask"}, "upsample is inter, not mask"),
        ({"search_epochs": 5}, r"\[8, 13\] lower the rate at epoch 8, .* 5 epochs does not reach; set both"),
        ({"search_epochs": 13}, "at epoch 13, .* 13 epochs does not reach; set both"),
        ({"search_milestones": (3, 20)}, "at epoch 20, .* 15 epochs does not reach; set both"),
    ],
)
@pytest.mark.parametrize("which", sorted(METHODS))
def test_knobs_that_would_do_nothing_get_a_sentence(which: str, knobs: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        method(which, **knobs)


@pytest.mark.parametrize("knobs", [{"search_epochs": 14}, {"search_epochs": 3, "search_milestones": ()}])
def test_a_shorter_search_is_taken_with_milestones_that_it_reaches(knobs: dict[str, Any]):
    assert method("ssn", groups="learned", **knobs).needs_search()


def test_a_searchs_bank_that_is_too_small_gets_a_sentence_before_anything_is_trained():
    context, network = Untrained(), nn.Sequential(nn.Embedding(400, 4), nn.Linear(4, 4))
    with pytest.raises(
        UsageError, match=r"its bank of 399 is too small for this network, which needs 400. Set search_bank"
    ):
        method("ssn", groups="learned", search_bank=399).search(asked(network, 1000), context)
    assert context.calls == []
    method("ssn", groups="learned", search_bank=400).search(asked(network, 1000), context)


@pytest.mark.parametrize("groups", [(0,), (0, 0, 1), ()])
def test_a_list_of_another_length_gets_a_sentence(groups: tuple[int, ...]):
    with pytest.raises(UsageError, match=f"groups holds {len(groups)} numbers; this network has 2 shareable layers"):
        built(method("ssn", groups=groups), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), 20)


def test_learned_groups_without_a_search_get_a_sentence():
    with pytest.raises(UsageError, match="needs the search of a run"):
        built(method("ssn", groups="learned"), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), 20)


def test_findings_of_another_network_get_a_sentence():
    with pytest.raises(UsageError, match="found groups for 3 layers; this network has 2"):
        method("ssn", groups="learned").grouped(specs((3, 3), (3, 3)), Findings({"groups": [0, 0, 1]}), NOBODY)


# K-means


def points(layers: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(layers, 24, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(1, 6), st.booleans(), st.integers(0, 2**62))
@settings(max_examples=20, deadline=None)
def test_learned_groups_are_numbered_without_a_gap_and_come_again(
    layers: int, count: int, standardised: bool, seed: int
):
    vectors = points(layers, seed % 1000)
    found = [grouping.by_similarity(vectors, count, seed, standardised=standardised) for _ in range(2)]
    assert found[0] == found[1]
    assert set(found[0]) == set(range(min(count, layers)))
    assert grouping.numbered(found[0]) == found[0]


def test_layers_that_learned_alike_are_in_one_group():
    vectors = points(12) * 0.01 + torch.tensor([0.0, 5.0, -5.0]).repeat(4)[:, None]
    assert grouping.by_similarity(vectors, 3, 0) == [0, 1, 2] * 4


def test_without_more_layers_than_groups_each_is_alone():
    assert grouping.by_similarity(points(4), 4, 0) == [0, 1, 2, 3]
    assert grouping.by_similarity(points(2), 4, 0) == [0, 1]


@pytest.mark.parametrize("standardised", [False, True])
def test_identical_vectors_are_one_group_and_few_distinct_ones_as_many(standardised: bool):
    same = points(1).repeat(6, 1)
    assert grouping.by_similarity(same, 4, 0, standardised=standardised) == [0] * 6
    two = points(2).repeat(3, 1)
    assert grouping.by_similarity(two, 4, 0, standardised=standardised) == [0, 1] * 3


def test_standardised_vectors_are_not_grouped_by_the_dimension_with_the_largest_scale():
    vectors = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(2, 1) * torch.tensor([1.0, 1000.0])
    vectors = torch.cat([vectors, vectors[:, :1] * 1000], dim=1)  # two dimensions agree on the first column
    assert grouping.by_similarity(vectors[:, :2], 2, 0) == [0, 1] * 4
    assert (
        grouping.by_similarity(vectors * torch.tensor([1.0, 1.0, 0.001]), 2, 0, standardised=True) == [0, 0, 1, 1] * 2
    )


# The search


MORTAL = '''
import os, signal
from pathlib import Path
from npasbench.baselines.ssn import Ssn, SsnKnobs
from npasbench.sharing.learning import LearningWeights

class LearnedKnobs(SsnKnobs):
    groups: str | tuple[int, ...] = "learned"

class Mortal(Ssn):
    """Learned groups; kills its run at step 20 of the search, once."""
    knobs = LearnedKnobs
    def after_step(self, network, progress):
        kill = Path(__file__).with_name("kill")
        if isinstance(network.generator, LearningWeights) and progress.step == 20 and kill.exists():
            kill.unlink()
            os.kill(-os.getpgrp(), signal.SIGKILL)
'''


class Runs(NamedTuple):
    """Where one run ended that was never interrupted, and one that was killed in its search and started again."""

    whole: Path
    killed: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("learned")
    plugin, card = folder / "mortal.py", folder / "digits15-wrn-10-1.toml"
    plugin.write_text(MORTAL)
    card.write_text((CARDS / card.name).read_text(encoding="utf-8").replace("epochs = 60", "epochs = 4"))
    finish(start(card, folder / "whole", "mortal", "0.25", plugin))
    (folder / "kill").write_text("in the search")
    process = start(card, folder / "killed", "mortal", "0.25", plugin)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert (only_run(folder / "killed") / "stage-groups.pt").exists()
    assert not (only_run(folder / "killed") / "findings.pt").exists()
    finish(start(card, folder / "killed", "mortal", "0.25", plugin))
    return Runs(folder / "whole", folder / "killed")


def findings(runs: Path) -> dict[str, Any]:
    return torch.load(only_run(runs) / "findings.pt", weights_only=True)


def result(runs: Path) -> dict[str, Any]:
    return json.loads((only_run(runs) / "result.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_search_killed_in_the_middle_ends_bit_identical(runs: Runs):
    assert outcome(runs.killed) == outcome(runs.whole)


@pytest.mark.slow
def test_a_search_killed_in_the_middle_finds_the_same(runs: Runs):
    whole, killed = findings(runs.whole), findings(runs.killed)
    assert killed["facts"] == whole["facts"]
    assert torch.equal(killed["tensors"]["vectors"], whole["tensors"]["vectors"])


@pytest.mark.slow
def test_the_map_and_the_vectors_it_was_made_from_are_kept_with_the_run(runs: Runs):
    kept, layers = findings(runs.whole), result(runs.whole)["allocation"]["groups"]
    groups, vectors = kept["facts"]["groups"], kept["tensors"]["vectors"]
    assert set(groups) == {0, 1, 2, 3}
    assert tuple(vectors.shape) == (len(groups), 24)
    assert {layer["layer"]: group["group"] for group in layers for layer in group["layers"]} == dict(enumerate(groups))


@pytest.mark.slow
def test_the_cost_of_the_search_is_in_the_record_whether_it_was_killed_or_not(runs: Runs):
    whole, killed = result(runs.whole)["costs"], result(runs.killed)["costs"]
    assert whole["search_epochs"] == killed["search_epochs"] == 15
    assert whole["search_flops"] == killed["search_flops"] > 0
    assert whole["search_seconds"] > 0
    assert killed["search_seconds"] > 0


class Untrained:
    """A search's surroundings that return networks as they are, and keep them."""

    seed = 5

    def __init__(self) -> None:
        self.calls: list[tuple[str, nn.Module, dict[str, Any]]] = []

    def train(self, name: str, network: nn.Module, **schedule: Any) -> nn.Module:
        self.calls.append((name, network, schedule))
        return network


def searched(which: str, network: nn.Module, **knobs: Any) -> tuple[Untrained, Findings]:
    context = Untrained()
    return context, method(which, groups="learned", **knobs).search(asked(network, 10_000), context)


def deep() -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(9)), nn.Flatten(), nn.Linear(8, 10))


def test_the_search_trains_one_network_as_published_and_of_the_smaller_bank():
    context, _ = searched("ssn", deep())
    ((name, network, schedule),) = context.calls
    assert name == "groups"
    assert schedule == {"epochs": 15, "milestones": (8, 13), "factor": 0.1}
    dense = sum(parameter.numel() for parameter in deep().parameters())
    assert network.generator.bank["0"].numel() == 2 * dense


def test_the_searchs_bank_share_and_schedule_are_knobs():
    knobs = {"search_bank": 4321, "search_share": "wavg", "search_epochs": 3, "search_milestones": (2,)}
    context, found = searched("ssn", deep(), **knobs, search_factor=0.5)
    ((_, network, schedule),) = context.calls
    assert schedule == {"epochs": 3, "milestones": (2,), "factor": 0.5}
    assert network.generator.bank["0"].numel() == 4321
    assert tuple(found.tensors["vectors"].shape) == (10, 4)


def test_the_same_seed_searches_the_same_network_and_finds_the_same():
    (one, found), (other, again) = searched("ssn", deep_once := deep()), searched("ssn", deep_once)
    state, twin = one.calls[0][1].state_dict(), other.calls[0][1].state_dict()
    assert all(torch.equal(state[key], twin[key]) for key in state)
    assert found.facts == again.facts


@pytest.mark.parametrize("groups", ["single", "random", "type", "shape", "learning", "manual-wrn-28-10", [0, 0]])
def test_only_learned_groups_are_searched_for(groups: Any):
    assert not method("ssn", groups=groups).needs_search()
    assert method("ssn", groups="learned").needs_search()


@pytest.mark.parametrize("which", sorted(METHODS))
def test_the_real_run_starts_from_scratch_with_nothing_but_the_map(which: str):
    network = deep()
    _, found = searched(which, network)
    after = build(method(which, groups="learned"), asked(network, 2000), found, 3)
    anew = built(method(which, groups=found.facts["groups"]), network, 2000, 3)
    assert after.state_dict().keys() == anew.state_dict().keys()
    assert all(torch.equal(value, anew.state_dict()[key]) for key, value in after.state_dict().items())


def test_ssn_plus_clusters_standardised_vectors_and_ssn_raw_ones(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def recorded(*given_: Any, standardised: bool) -> list[int]:
        seen.append(standardised)
        return [0] * 10

    monkeypatch.setattr(grouping, "by_similarity", recorded)
    for which, knobs in (("ssn", {}), ("ssn-plus", {}), ("ssn-plus", {"vectors": "raw"})):
        searched(which, deep(), **knobs)
    assert seen == [False, True, False]
