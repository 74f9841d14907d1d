"""Which weights of a network can be shared, and what is known of each."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import npasbench
from npasbench.errors import UnknownName, UsageError
from npasbench.sharing.layers import LayerSpec, shareable_layers

CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3), (6, 4, 3), 12),
    (nn.Conv2d(4, 6, (3, 5)), (6, 4, 3, 5), 60),
    (nn.Conv3d(4, 6, 2), (6, 4, 2, 2, 2), 32),
    (nn.Conv2d(4, 6, 3, groups=2), (6, 2, 3, 3), 18),
    (nn.Conv2d(4, 4, 3, groups=4), (4, 1, 3, 3), 9),
    (nn.ConvTranspose1d(4, 6, 3), (4, 6, 3), 12),
    (nn.ConvTranspose2d(4, 6, 3), (4, 6, 3, 3), 36),
    (nn.ConvTranspose3d(4, 6, 2), (4, 6, 2, 2, 2), 32),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 3, 3, 3), 18),
]


def names(layers: list[LayerSpec]) -> list[str]:
    return [layer.name for layer in layers]


def only(network: nn.Module) -> LayerSpec:
    (layer,) = shareable_layers(network)
    return layer


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(tokens)))


class OneModuleUnderTwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.other = nn.Linear(8, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.other(self.again(self.first(inputs)))


@pytest.mark.parametrize(("convolution", "shape", "fan_in"), CONVOLUTIONS, ids=lambda value: str(value)[:40])
def test_convolutions_of_any_dimension_and_grouping_are_shareable(
    convolution: nn.Module, shape: tuple[int, ...], fan_in: int
):
    layer = only(convolution)
    assert (layer.name, layer.kind, layer.shape, layer.fan_in) == ("weight", "convolution", shape, fan_in)


def test_linear_layers_and_embeddings_are_shareable():
    linear, embedding = only(nn.Linear(5, 7)), only(nn.Embedding(9, 4))
    assert (linear.kind, linear.shape, linear.fan_in, linear.size) == ("linear", (7, 5), 5, 35)
    assert (embedding.kind, embedding.shape, embedding.fan_in) == ("embedding", (9, 4), 1)


def test_attentions_packed_projection_is_one_layer():
    layers = shareable_layers(nn.MultiheadAttention(8, 2))
    assert [(layer.name, layer.kind, layer.shape) for layer in layers] == [
        ("in_proj_weight", "attention", (24, 8)),
        ("out_proj.weight", "linear", (8, 8)),
    ]


def test_attentions_separate_projections_are_three_layers():
    layers = shareable_layers(nn.MultiheadAttention(8, 2, kdim=6, vdim=4))
    assert [(layer.name, layer.kind, layer.shape) for layer in layers] == [
        ("q_proj_weight", "attention", (8, 8)),
        ("k_proj_weight", "attention", (8, 6)),
        ("v_proj_weight", "attention", (8, 4)),
        ("out_proj.weight", "linear", (8, 8)),
    ]


def test_norms_biases_and_recurrent_weights_are_not_shareable():
    network = nn.ModuleList([nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.LSTM(4, 4), nn.PReLU()])
    assert shareable_layers(network) == []


def test_layers_stand_in_the_order_in_which_the_network_registers_them():
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    network.add_module("aaa", nn.Linear(2, 2))
    assert names(shareable_layers(network)) == ["0.weight", "1.0.weight", "2.weight", "aaa.weight"]


def test_a_tied_weight_is_one_layer_with_all_its_slots():
    layers = shareable_layers(TiedLanguageModel())
    assert names(layers) == ["embedding.weight", "body.weight"]
    assert layers[0].slots == ("embedding.weight", "head.weight")
    assert layers[1].slots == ("body.weight",)


def test_a_module_under_two_names_holds_its_weight_once():
    layers = shareable_layers(OneModuleUnderTwoNames())
    assert [layer.slots for layer in layers] == [("first.weight",), ("other.weight",)]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("body", ["embedding.weight"]),
        ("body.weight", ["embedding.weight"]),
        ("b*", ["embedding.weight"]),
        ("body.*", ["embedding.weight"]),
        ("embedding", ["body.weight"]),
        ("*.weight", []),
    ],
)
def test_what_is_excluded_by_name_or_pattern_is_left_out(pattern: str, left: list[str]):
    assert names(shareable_layers(TiedLanguageModel(), [pattern])) == left


@pytest.mark.parametrize("pattern", ["head", "head.weight", "head.*", "hea?"])
def test_excluding_any_slot_of_a_tied_weight_excludes_it(pattern: str):
    assert names(shareable_layers(TiedLanguageModel(), [pattern])) == ["body.weight"]


@pytest.mark.parametrize("pattern", ["again", "again.weight", "first"])
def test_a_module_under_two_names_is_excluded_by_either(pattern: str):
    assert names(shareable_layers(OneModuleUnderTwoNames(), [pattern])) == ["other.weight"]


def test_excluding_a_module_excludes_everything_within_it():
    network = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 2)})
    assert names(shareable_layers(network, ["body"])) == ["head.weight"]


def test_an_exclusion_that_matches_nothing_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownName, match=r"Unknown module or parameter to exclude 'haed'\. Did you mean 'head'"):
        shareable_layers(TiedLanguageModel(), ["haed"])


def test_frozen_weights_stay_as_they_are():
    network = TiedLanguageModel()
    network.body.weight.requires_grad_(False)
    assert names(shareable_layers(network)) == ["embedding.weight"]


def test_parametrised_and_pruned_weights_are_left_alone():
    network = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
        nn.Linear(4, 4),
    )
    assert names(shareable_layers(network)) == ["4.weight"]


def test_lazy_modules_are_refused_until_they_are_initialised():
    network = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(5))
    with pytest.raises(UsageError, match="'1' is a lazy module: run one batch"):
        shareable_layers(network)
    network(torch.zeros(2, 3))
    assert names(shareable_layers(network)) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("call", [npasbench.count, lambda model: npasbench.share(model, "roast", budget=0.5)])
def test_the_python_calls_refuse_lazy_modules_in_a_sentence(call):
    with pytest.raises(UsageError, match="lazy module: run one batch"):
        call(nn.Sequential(nn.LazyLinear(5)))


def test_a_layer_knows_the_deviation_of_its_initial_weight():
    linear = nn.Linear(400, 400)
    nn.init.normal_(linear.weight, std=0.03)
    assert only(linear).std == pytest.approx(float(linear.weight.detach().std()), rel=1e-5)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_weight_without_spread_is_taken_to_be_initialised_as_he_does(device: str):
    with torch.device(device):
        linear = nn.Linear(8, 4)
    if device == "cpu":
        nn.init.zeros_(linear.weight)
    assert only(linear).std == pytest.approx(0.5)


def test_layers_of_an_ensemble_know_their_member():
    from npasbench.networks.members import Members

    layers = shareable_layers(Members([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))]))
    assert [layer.member for layer in layers] == [0, 1, 1]
