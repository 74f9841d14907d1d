"""timm's and torchvision's classifiers by name."""

import pytest
import torch

from npasbench.errors import UnknownName, UsageError
from npasbench.measuring.count import count
from npasbench.networks import architecture


def logits(name: str, classes: int, shape: tuple[int, ...]) -> torch.Size:
    network = architecture(name, classes=classes, input_shape=shape).create()
    return network(torch.zeros(2, *shape)).shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm:resnet18", (1, 8, 8)),
        ("timm:efficientnet_b0", (3, 40, 24)),
        ("timm:deit_tiny_patch16_224", (2, 32, 48)),
        ("deit_tiny_patch16_224", (3, 64, 64)),
        ("torchvision:resnet50", (1, 20, 31)),
        ("torchvision:densenet121", (3, 32, 32)),
        ("torchvision:regnet_y_400mf", (4, 32, 32)),
        ("torchvision:googlenet", (1, 32, 32)),
        ("torchvision:inception_v3", (3, 80, 80)),
    ],
)
def test_a_network_takes_odd_class_counts_and_input_sizes(name, shape):
    assert logits(name, 13, shape) == (2, 13)


def test_a_torchvision_transformer_is_built_for_the_image_size():
    with torch.device("meta"):
        network = architecture("vit_b_32", classes=3, input_shape=(1, 64, 64)).create()
        assert network.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("torchvision:resnet50", 25_557_032),
        ("torchvision:wide_resnet50_2", 68_883_240),
        ("timm:efficientnet_b0", 5_288_548),
        ("timm:deit_small_patch16_224", 22_050_664),
    ],
)
def test_a_network_is_the_librarys_own(name, parameters):
    with torch.device("meta"):
        assert count(architecture(name, classes=1000, input_shape=(3, 224, 224)).create()).total == parameters


def test_a_bare_name_that_both_libraries_have_is_torchvisions():
    with torch.device("meta"):
        network = architecture("resnet18", classes=10, input_shape=(3, 32, 32)).create()
    assert type(network).__module__.startswith("torchvision.")


def test_a_network_that_needs_real_numbers_can_still_be_counted_on_the_meta_device():
    with torch.device("meta"):
        network = architecture("regnet_y_400mf", classes=10, input_shape=(3, 32, 32)).create()
    assert all(parameter.is_meta for parameter in network.parameters())


def test_only_the_network_itself_draws_random_numbers():
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(
            architecture("torchvision:squeezenet1_1", classes=4, input_shape=(1, 32, 32)).create().state_dict()
        )
        architecture("torchvision:squeezenet1_1", classes=5, input_shape=(1, 32, 32)).create()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_replaced_stem_keeps_the_deviation_of_its_outputs():
    torch.manual_seed(0)
    stems = [architecture("resnet50", classes=4, input_shape=(c, 32, 32)).create().conv1.weight for c in (3, 12)]
    assert float((stems[1].std() / stems[0].std()).detach()) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("name", "shape", "works"),
    [
        ("torchvision:densenet121", (1, 8, 8), "[1, 32, 32]"),
        ("timm:deit_tiny_patch16_224", (1, 8, 8), "[1, 16, 16]"),
        ("torchvision:maxvit_t", (3, 64, 64), "[3, 224, 224]"),
    ],
)
def test_an_impossible_size_is_answered_with_one_that_works(name, shape, works):
    given = architecture(name, classes=10, input_shape=shape)
    with pytest.raises(UsageError) as raised:
        given.create()
    assert f"It can take {works}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet5", "resnet50"), ("timm:resnet1", "timm:resnet18"), ("torchvision:resnt50", "torchvision:resnet50")],
)
def test_an_unknown_name_is_answered_with_the_nearest_ones(name, near):
    with pytest.raises(UnknownName) as raised:
        architecture(name, classes=10, input_shape=(3, 32, 32))
    assert near in raised.value.near


@pytest.mark.parametrize("name", ["timm:resnet18.a1_in1k", "efficientnet_b0.ra_in1k"])
def test_a_tag_of_pretrained_weights_is_refused(name):
    with pytest.raises(UsageError, match=r"write 'timm:\w+'"):
        architecture(name, classes=10, input_shape=(3, 32, 32))


def test_an_address_of_weights_on_the_network_is_an_unknown_name():
    with pytest.raises(UnknownName):
        architecture("timm:hf-hub:timm/resnet18", classes=10, input_shape=(3, 32, 32))
