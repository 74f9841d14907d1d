"""Our own reference architectures: wide residual networks and the row transformer."""

import copy
import itertools

import pytest
import torch
from torch import nn

from npasbench.errors import UnknownName, UsageError
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.problem import Architecture
from npasbench.sharing.layers import shareable_layers

CIFAR = (3, 32, 32)
DIGITS = (1, 8, 8)


def on_meta(name: str, classes: int, shape: tuple[int, ...] = CIFAR, **settings: float) -> nn.Module:
    with torch.device("meta"):
        return architecture(name, classes=classes, input_shape=shape).create(**settings)  # type: ignore[arg-type]


def transformer() -> Architecture:
    return architecture("row-transformer", classes=10, input_shape=DIGITS)


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("wrn-28-10", 100, 36_536_884),
        ("wrn-28-10", 10, 36_479_194),
        ("wrn-28-7", 100, 17_925_940),
        ("wrn-28-4", 100, 5_872_180),
        ("wrn-28-3", 100, 3_311_412),
        ("wrn-16-7", 100, 8_436_404),
        ("wrn-16-4", 100, 2_772_020),
        ("wrn-16-2", 100, 703_284),
        ("wrn-40-2", 100, 2_255_156),
    ],
)
def test_a_wide_resnet_has_the_documented_number_of_parameters(name, classes, parameters):
    assert count(on_meta(name, classes)).total == parameters


@pytest.mark.parametrize(("name", "layers"), [("wrn-28-10", 29), ("wrn-16-4", 17), ("wrn-40-2", 41)])
def test_a_wide_resnet_has_6n_plus_5_shareable_layers(name, layers):
    assert len(shareable_layers(on_meta(name, 100))) == layers


def test_a_wide_resnet_registers_stem_then_blocks_with_their_shortcut_last_then_classifier():
    names = [layer.name for layer in shareable_layers(on_meta("wrn-10-2", 10))]
    assert names[:4] == ["stem.weight", *(f"stages.0.0.{part}.weight" for part in ("conv1", "conv2", "shortcut"))]
    assert names[-1] == "classifier.weight"


def test_a_wide_resnet_is_initialised_kaiming_normal_with_zero_biases():
    torch.manual_seed(0)
    network = architecture("wrn-10-4", classes=10, input_shape=DIGITS).create()
    layers = [layer for layer in shareable_layers(network) if layer.size > 10_000]
    ratios = [layer.std / (2 / layer.fan_in) ** 0.5 for layer in layers]
    assert ratios == pytest.approx([1] * len(layers), rel=0.03)
    assert not network.get_submodule("classifier").bias.any()


@pytest.mark.parametrize("shape", [DIGITS, (1, 9, 5), CIFAR, (2, 1, 1)])
def test_a_wide_resnet_takes_images_of_any_size(shape):
    network = architecture("wrn-10-1", classes=7, input_shape=shape).create()
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_width_scales_every_channel_count_of_a_wide_resnet():
    half = on_meta("wrn-10-2", 10, width=0.5)
    assert half.get_submodule("stem").weight.shape[0] == 8
    assert half.get_submodule("classifier").weight.shape == (10, 64)


def test_a_wider_wide_resnet_never_has_fewer_parameters():
    totals = [count(on_meta("wrn-10-1", 10, DIGITS, width=w / 50)).total for w in range(1, 101)]
    assert all(one <= other for one, other in itertools.pairwise(totals))


def test_a_wide_resnet_of_one_channel_still_runs():
    narrow = architecture("wrn-10-1", classes=10, input_shape=DIGITS).create(width=0.01)
    assert narrow(torch.zeros(2, *DIGITS)).shape == (2, 10)


def test_depth_changes_the_number_of_blocks_of_a_wide_resnet():
    given = architecture("wrn-28-4", classes=100, input_shape=CIFAR)
    assert given.depths[:3] == (10, 16, 22)
    assert count(on_meta("wrn-28-4", 100, depth=16)).total == 2_772_020


@pytest.mark.parametrize(
    ("name", "nearest"), [("wrn-12-1", "10 and 16"), ("wrn-3-1", "nearest: 10."), ("wrn-29-10", "28 and 34")]
)
def test_an_impossible_depth_is_answered_with_the_nearest_ones(name, nearest):
    with pytest.raises(UsageError, match=nearest):
        architecture(name, classes=10, input_shape=CIFAR)


@pytest.mark.parametrize("name", ["wrn-16", "wrn-16-x", "wrn-16-0"])
def test_a_malformed_wide_resnet_is_a_usage_error(name):
    with pytest.raises(UsageError, match=r"width|form"):
        architecture(name, classes=10, input_shape=CIFAR)


@pytest.mark.parametrize(("classes", "shape"), [(0, CIFAR), (10, (8, 8)), (10, (0, 8, 8))])
def test_an_impossible_problem_is_a_usage_error(classes, shape):
    with pytest.raises(UsageError):
        architecture("wrn-10-1", classes=classes, input_shape=shape)


def test_the_row_transformer_has_the_parameters_of_its_description():
    embedding, positions = 8 * 64 + 64, 8 * 64
    attention, feed_forward, norms = 4 * (64 * 64 + 64), 2 * 64 * 128 + 128 + 64, 2 * 2 * 64
    head = 2 * 64 + 64 * 10 + 10
    total = embedding + positions + 4 * (attention + feed_forward + norms) + head
    assert count(transformer().create()).total == total


def test_the_row_transformer_gives_the_same_bits_in_every_mode():
    network, inputs = transformer().create(), torch.rand(50, *DIGITS)
    training = network(inputs)
    with torch.no_grad():
        assert torch.equal(network.eval()(inputs), training)


def test_the_row_transformer_computes_what_torchs_encoder_layer_computes():
    layer = transformer().create().layers[0]
    reference = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
    state = {name.replace("attention.", "self_attn."): value for name, value in layer.state_dict().items()}
    reference.load_state_dict(state)
    tokens = torch.randn(5, 8, 64)
    torch.testing.assert_close(layer(tokens), reference(tokens))


@pytest.mark.parametrize("training", [True, False])
def test_the_row_transformer_runs_with_weights_handed_in(training):
    network, inputs = transformer().create().train(training), torch.rand(4, *DIGITS)
    expected = network(inputs)
    weights = {layer.name: network.get_parameter(layer.name).detach().clone() for layer in shareable_layers(network)}
    bare = copy.deepcopy(network)
    for name in weights:
        owner, _, local = name.rpartition(".")
        bare.get_submodule(owner)._parameters[local] = None
    with torch.set_grad_enabled(training):
        assert torch.equal(torch.func.functional_call(bare, weights, (inputs,)), expected)


def test_the_row_transformer_shares_its_packed_attention_projection():
    kinds = [layer.kind for layer in shareable_layers(transformer().create())]
    assert kinds.count("attention") == 4
    assert kinds.count("linear") == 1 + 4 * 3 + 1


def test_the_row_transformers_width_stays_a_multiple_of_its_heads():
    network = transformer().create(width=0.3)
    assert network.get_submodule("embedding").weight.shape == (20, 8)
    assert network.get_submodule("layers.0.linear1").weight.shape == (38, 20)


@pytest.mark.parametrize("width", [0.001, 1.7])
def test_the_row_transformer_runs_at_any_width(width):
    assert transformer().create(width=width)(torch.zeros(2, *DIGITS)).shape == (2, 10)


def test_the_row_transformer_has_as_many_layers_as_its_depth():
    given = transformer()
    assert (given.depth, given.depths) == (4, tuple(range(1, 25)))
    assert len(given.create(depth=2).layers) == 2


def test_the_row_transformer_reads_colour_images_of_other_sizes():
    network = architecture("row-transformer", classes=5, input_shape=(3, 6, 10)).create()
    assert network(torch.zeros(2, 3, 6, 10)).shape == (2, 5)


def test_the_same_global_seed_gives_the_same_network():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(architecture("wrn-10-1", classes=10, input_shape=DIGITS).create().state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_misspelled_own_name_is_answered_with_ours():
    with pytest.raises(UnknownName) as raised:
        architecture("row-transfomer", classes=10, input_shape=DIGITS)
    assert "row-transformer" in raised.value.near
