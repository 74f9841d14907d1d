"""Counting trained scalars: each once, by kind, and the same before and after sharing."""

import pytest
import torch
from torch import nn

import npasbench
from npasbench.budget import Budget
from npasbench.errors import BudgetTooSmall
from npasbench.measuring.count import Count, count, parameter_kinds
from npasbench.method import Findings
from npasbench.networks import architecture
from npasbench.networks.members import Members
from npasbench.problem import Problem
from npasbench.registry import Registry, create

SHARING = ["naive", "template-bank", "hashed", "roast"]


def wrn(name: str = "wrn-16-2") -> nn.Module:
    return architecture(name, classes=10, input_shape=(1, 8, 8)).create()


def shared(method: str, fraction: float = 0.6, name: str = "wrn-16-2") -> nn.Module:
    members = (architecture(name, classes=10, input_shape=(1, 8, 8)),)
    dense = count(wrn(name)).total
    problem = Problem(members, Budget(str(fraction), int(fraction * dense), dense), 10, (1, 8, 8))
    return create(Registry().method(method), {}, method).build(problem, Findings(), torch.Generator().manual_seed(0))


def test_a_wide_resnet_is_counted_by_kind():
    found = count(wrn("wrn-10-1"))
    assert dict(found.by_kind) == {"convolution": 76_432, "norm": 480, "classifier": 650}
    assert found.total == 77_562 == sum(parameter.numel() for parameter in wrn("wrn-10-1").parameters())
    assert list(found.as_dict())[-1] == "total"


def test_every_kind_of_parameter_has_its_name():
    network = nn.ModuleDict(
        {
            "embedding": nn.Embedding(7, 4),
            "convolution": nn.ConvTranspose1d(4, 4, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "separate": nn.MultiheadAttention(4, 2, kdim=3, vdim=3, bias=False),
            "batch": nn.BatchNorm1d(4),
            "layer": nn.LayerNorm(4),
            "group": nn.GroupNorm(2, 4),
            "slope": nn.PReLU(),
            "middle": nn.Linear(4, 4),
            "last": nn.Linear(4, 3),
        }
    )
    assert dict(count(network).by_kind) == {
        "embedding": 28,
        "convolution": 48,
        "bias": 4 + (12 + 4) + 4,
        "attention": 48 + (16 + 12 + 12),
        "linear": 16 + 16 + 16,
        "norm": 8 + 8 + 8,
        "other": 1,
        "classifier": 12 + 3,
    }


def test_the_classifier_is_the_last_linear_layer_of_each_member():
    kinds = parameter_kinds(Members([nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), nn.Linear(3, 2)]))
    classifiers = ["members.0.1.weight", "members.0.1.bias", "members.1.weight", "members.1.bias"]
    assert [name for name, kind in kinds.items() if kind == "classifier"] == classifiers
    assert kinds["members.0.0.weight"] == "linear"


def test_an_ensemble_counts_as_its_members_together():
    assert count(Members([wrn("wrn-10-1"), wrn()])).total == count(wrn("wrn-10-1")).total + count(wrn()).total


def test_a_tied_weight_counts_once():
    network = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    assert count(network).total == 50
    network[1].weight = network[0].weight
    assert count(network).total == 25


def test_a_module_that_is_used_twice_counts_once():
    linear = nn.Linear(5, 5)
    assert count(nn.Sequential(linear, nn.ReLU(), linear)).total == 30


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_parameters_on_one_storage_count_once(device: str):
    with torch.device(device):
        network = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False))
        network[1].weight = nn.Parameter(network[0].weight.detach().t())
    assert network[1].weight is not network[0].weight
    assert count(network).total == 24


def test_views_of_one_storage_count_no_more_than_it_holds():
    whole = torch.zeros(10)
    network = nn.Module()
    network.head, network.tail = nn.Parameter(whole[:8]), nn.Parameter(whole[2:])
    network.more = nn.Parameter(torch.zeros(1).expand(100))
    assert count(network).total == 11


def test_frozen_parameters_and_buffers_are_not_counted():
    network = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    network[0].weight.requires_grad_(False)
    assert dict(count(network).by_kind) == {"classifier": 5, "norm": 10}


def test_a_masked_parameter_counts_what_remains():
    network = nn.Linear(4, 4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    assert count(network, masks={"weight": mask}).total == 4 + 4
    assert count(network).total == 20


def test_a_networks_own_masks_are_used_unless_others_are_given():
    network = nn.Linear(4, 4)
    network.masks = {"weight": torch.eye(4, dtype=torch.bool)}
    assert count(network).total == 8
    assert count(network, masks={}).total == 20


def test_a_networks_own_count_is_one_of_the_three_calls():
    assert npasbench.count(nn.Linear(3, 2)) == Count({"classifier": 8}, bank_params=6)


@pytest.mark.parametrize("method", SHARING)
def test_a_shared_networks_count_is_all_that_an_optimizer_gets(method: str):
    network = shared(method)
    assert count(network).total == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("naive", {"bank", "norm", "bias"}),
        ("template-bank", {"templates", "coefficients", "norm", "bias"}),
        ("hashed", {"bank", "norm", "bias"}),
        ("roast", {"bank", "norm", "bias"}),
    ],
)
def test_a_generators_kinds_are_the_first_parts_of_its_names(method: str, kinds: set[str]):
    assert set(count(shared(method)).by_kind) == kinds


def test_sharing_leaves_norms_and_biases_as_they_were():
    before, after = count(wrn()).by_kind, count(shared("roast")).by_kind
    assert before["norm"] == after["norm"]
    assert before["classifier"] == 10 * 128 + after["bias"]


def test_generators_of_several_shared_networks_in_one_are_told_apart():
    network = Members([shared("roast", name="wrn-10-1"), shared("template-bank", 1, name="wrn-10-1")])
    found = count(network)
    assert set(found.by_kind) == {"bank", "templates", "coefficients", "norm", "bias"}
    assert found.by_kind["bank"] == network.members[0].generator.bank.numel()


def test_bank_parameters_are_what_weights_are_generated_from():
    found = count(shared("template-bank", 1))
    assert found.bank_params == found.by_kind["templates"]
    assert found.total == found.bank_params + sum(found.by_kind[kind] for kind in ("coefficients", "norm", "bias"))


def test_whatever_a_generator_calls_its_parameters_they_are_bank_but_for_those_that_mix():
    network = shared("roast", 0.1, name="wrn-10-1")
    before = count(network).bank_params
    network.generator.values, network.generator.bias = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(5))
    network.generator.scales, network.generator.projections = nn.Parameter(torch.zeros(3)), nn.Linear(2, 2)
    assert count(network).bank_params == before + 7


def test_the_dense_networks_bank_parameters_are_its_shareable_weights():
    assert count(wrn("wrn-10-1")).bank_params == 76_432 + 640


def test_under_bank_accounting_norms_and_biases_are_not_held_against_the_budget():
    from npasbench.building import audited

    roast = create(Registry().method("roast"), {}, "roast")
    members = (architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)),)
    network = audited(roast, Problem(members, Budget("6400", 6400, 77_562, "bank"), 10, (1, 8, 8)), Findings(), 0)
    assert count(network).bank_params == 6400
    assert count(network).total == 6400 + 480 + 10
    dense = create(Registry().method("dense"), {}, "dense")
    with pytest.raises(BudgetTooSmall):
        audited(dense, Problem(members, Budget("77000", 77_000, 77_562, "bank"), 10, (1, 8, 8)), Findings(), 0)
