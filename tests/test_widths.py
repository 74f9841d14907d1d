"""The width setting of timm's and torchvision's networks."""

import functools
import threading
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from npasbench.errors import UsageError
from npasbench.measuring.count import count
from npasbench.networks import architecture, external, widths
from npasbench.networks.constructors import Layers, told
from npasbench.problem import Architecture

SMALL = {
    "torchvision:resnet18": 64,
    "torchvision:resnext50_32x4d": 64,
    "torchvision:densenet121": 64,
    "torchvision:vgg11": 64,
    "timm:efficientnet_b0": 64,
    "timm:convnext_atto": 64,
    "timm:deit_tiny_patch16_224": 64,
    "torchvision:swin_t": 64,
}
LARGE = {
    "torchvision:resnet50": 64,
    "torchvision:wide_resnet50_2": 64,
    "torchvision:mobilenet_v3_small": 64,
    "torchvision:inception_v3": 128,
    "torchvision:regnet_y_400mf": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:squeezenet1_1": 64,
    "timm:ecaresnet26t": 64,
    "timm:resnetv2_50x1_bit": 64,
    "torchvision:convnext_tiny": 64,
    "timm:convnext_tiny": 64,
    "timm:deit_tiny_distilled_patch16_224": 64,
    "timm:deit_small_patch16_224": 64,
    "torchvision:vit_b_16": 64,
    "timm:swin_tiny_patch4_window7_224": 224,
}
ALL = SMALL | LARGE
RIGID = ("timm:resnetblur18", "timm:mixer_s16_224", "torchvision:swin_v2_t")
LAYERS = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm)


def named(name: str, *, classes: int = 7, channels: int = 3, size: int | None = None) -> Architecture:
    side = size or ALL.get(name, 224)
    return architecture(name, classes=classes, input_shape=(channels, side, side))


def on_meta(one: Architecture, width: float = 1.0) -> nn.Module:
    with torch.device("meta"):
        return one.create(width=width)


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def inner(network: nn.Module) -> int:
    """The weights of layers that read and give whole sets of channels: not the ends, not depthwise."""
    plain = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    ends = [layer for layer in plain if layer.weight.shape[1] in (1, 3) or layer.weight.shape[0] == 7]
    return sum(layer.weight.numel() for layer in plain if layer not in ends)


# Which networks have one


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_a_network_shrinks_with_the_square_of_its_width_and_takes_the_inputs(name: str) -> None:
    one = named(name)
    assert one.has_width
    dense, half = (inner(on_meta(one, width)) for width in (1.0, 0.5))
    assert half == pytest.approx(dense / 4, rel=0.06)
    for width in (0.07, 1.3):
        with torch.no_grad(), torch.device("meta"):
            assert one.create(width=width).train()(torch.zeros(2, 3, *[ALL[name]] * 2)).shape == (2, 7)


@pytest.mark.parametrize("name", RIGID)
def test_a_network_that_cannot_be_had_in_every_width_has_none(name: str) -> None:
    one = named(name, size=256 if "swin" in name else 224)
    assert not one.has_width
    with pytest.raises(UsageError, match=f"{name} has no width setting"):
        on_meta(one, 0.5)


def test_naming_an_architecture_builds_nothing_and_its_width_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(external, "find_widths", lambda build, classes, shape: asked.append(classes))
    one = external.external("torchvision:squeezenet1_1", classes=9, input_shape=(1, 40, 40))
    assert asked == []
    assert not one.has_width
    assert not one.has_width
    assert asked == [9]


def test_a_width_that_does_not_suit_is_answered_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    one = named("torchvision:resnet18")
    assert one.has_width

    def fail(*_: object) -> None:
        raise ValueError("one channel too few")

    monkeypatch.setattr(widths, "_fitted", fail)
    with pytest.raises(UsageError, match=r"resnet18 cannot be built at width 0\.37 \(one channel too few\)"):
        one.create(width=0.37)


# Counts


@pytest.mark.parametrize("name", ["torchvision:resnet50", "torchvision:resnext50_32x4d", "timm:efficientnet_b0"])
def test_the_same_count_becomes_the_same_everywhere(name: str) -> None:
    one = named(name)
    pairs = [
        zip(*(convolutions(n).values() for n in (on_meta(one), on_meta(one, width))), strict=True)
        for width in (0.3, 1.7)
    ]
    for width, layers in zip((0.3, 1.7), pairs, strict=True):
        became: dict[int, set[int]] = {}
        for old, new in layers:
            became.setdefault(old.out_channels, set()).add(new.out_channels)
            if old.in_channels != 3:
                became.setdefault(old.in_channels, set()).add(new.in_channels)
        assert {len(each) for each in became.values()} == {1}
        if "resnext" not in name:
            assert all(each == {int(width * old + 0.5)} for old, each in became.items())


def test_groups_divide_the_new_counts_and_depthwise_stays_depthwise() -> None:
    for old, new in zip(
        *(convolutions(on_meta(named("torchvision:resnext50_32x4d"), w)).values() for w in (1.0, 0.3)), strict=True
    ):
        assert new.groups == old.groups
        assert new.in_channels % new.groups == new.out_channels % new.groups == 0
    groups = Counter()
    for old, new in zip(
        *(convolutions(on_meta(named("timm:efficientnet_b0"), w)).values() for w in (1.0, 0.3)), strict=True
    ):
        groups[old.groups == old.in_channels, new.groups == new.in_channels == new.out_channels] += 1
    assert groups == {(True, True): 16, (False, False): 65}


def test_heads_stay_and_divide_the_tokens() -> None:
    network = on_meta(named("timm:deit_tiny_patch16_224"), 0.3)
    attention = network.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, network.embed_dim) == (3, 19, 57)
    assert network.blocks[0].mlp.fc1.out_features == 4 * 57


def test_classes_stay_even_if_as_many_as_channels() -> None:
    network = on_meta(named("torchvision:resnet18", classes=64), 0.5)
    assert (network.conv1.out_channels, network.layer1[0].conv1.in_channels) == (32, 32)
    assert (network.fc.in_features, network.fc.out_features) == (256, 64)


def test_a_single_channel_stays_single() -> None:
    network = on_meta(named("timm:ecaresnet26t"), 1.7)
    masks = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d)]
    assert {(layer.in_channels, layer.out_channels) for layer in masks} == {(1, 1)}


def test_a_layer_reads_what_the_layers_before_give_side_by_side() -> None:
    block = on_meta(named("torchvision:densenet121"), 0.3).features.denseblock1
    assert [layer.conv1.in_channels for layer in block.values()] == [
        19 + 10 * k for k in range(6)
    ]  # 64 and 32 times 0.3


@pytest.mark.parametrize(
    "name",
    ["torchvision:resnext50_32x4d", "torchvision:densenet121", "timm:efficientnet_b0", "timm:deit_tiny_patch16_224"],
)
@settings(max_examples=5, deadline=None)
@given(two=st.lists(st.floats(1e-3, 2.5), min_size=2, max_size=2))
def test_the_count_never_falls_as_the_width_grows(name: str, two: list[float]) -> None:
    less, more = (count(on_meta(named(name), width)).total for width in sorted(two))
    assert less <= more


# The library's own initialisation


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:densenet121", "timm:efficientnet_b0", "timm:deit_tiny_patch16_224"]
)
def test_with_unchanged_counts_the_weights_are_those_that_the_library_draws(name: str) -> None:
    states = []
    for width in (1.0, 1 + 1e-9):
        torch.manual_seed(3)
        states.append(({**named(name).create(width=width).state_dict()}, torch.get_rng_state()))
    (one, drawn), (other, also_drawn) = states
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert torch.equal(drawn, also_drawn)


@pytest.mark.parametrize("channels", [3, 12])
def test_a_narrow_resnet_starts_at_the_deviations_of_its_own_fans(channels: int) -> None:
    torch.manual_seed(0)
    network = named("torchvision:resnet18", channels=channels).create(width=0.37)
    assert network.conv1.in_channels == channels
    for name, layer in convolutions(network).items():
        fan_out = layer.out_channels * layer.kernel_size[0] ** 2
        more = (channels / 3) ** 0.5 if name == "conv1" else 1
        assert float(layer.weight.detach().std()) * more == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


def test_a_narrow_networks_replaced_stem_keeps_the_deviation_of_its_outputs() -> None:
    torch.manual_seed(0)
    stem = named("torchvision:densenet121", channels=12).create(width=0.37).features.conv0
    assert stem.weight.shape == (24, 12, 7, 7)
    assert float(stem.weight.detach().std()) == pytest.approx((2 / (12 * 7 * 7)) ** 0.5, rel=0.05)


def test_a_narrow_linear_layer_starts_within_the_bound_of_its_own_fan() -> None:
    torch.manual_seed(0)
    network = named("torchvision:resnet18").create(width=0.37)
    assert network.fc.in_features == 189
    assert float(network.fc.weight.detach().abs().max()) == pytest.approx(189**-0.5, rel=0.02)


def test_trying_and_counting_draw_no_random_numbers() -> None:
    before = torch.get_rng_state()
    for name in ("torchvision:squeezenet1_1", "timm:deit_tiny_patch16_224", "torchvision:regnet_y_400mf"):
        assert all(value.is_meta for value in on_meta(named(name, classes=11), 0.4).state_dict().values())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:shufflenet_v2_x0_5", "timm:deit_tiny_patch16_224"]
)
def test_a_narrow_network_learns(name: str) -> None:
    torch.manual_seed(0)
    network = named(name, size=32).create(width=0.3).train()
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


# Constructors


def test_constructors_are_restored_after_an_error_in_one() -> None:
    before = [cls.__init__ for cls in LAYERS]

    def build() -> nn.Module:
        nn.Conv2d(3, 4, 1)
        assert nn.Linear.__init__ is not before[1]
        raise RuntimeError("broken library")

    with pytest.raises(RuntimeError, match="broken library"):
        Layers().built(build)
    assert [cls.__init__ for cls in LAYERS] == before
    assert widths.find_widths(lambda _: build(), 3, (3, 8, 8)) is None
    assert [cls.__init__ for cls in LAYERS] == before


def test_other_threads_build_what_they_ask_for() -> None:
    made: list[nn.Linear] = []

    def double(_: object, arguments: dict[str, int]) -> None:
        arguments["out_features"] *= 2

    with told({nn.Linear: double}):
        other = threading.Thread(target=lambda: made.append(nn.Linear(3, 5)))
        other.start()
        other.join()
        made.append(nn.Linear(3, 5))
    assert [layer.out_features for layer in made] == [5, 10]


def test_layers_of_a_subclass_with_other_arguments_are_told_too() -> None:
    class Wide(nn.Conv2d):
        def __init__(self, gives: int, *, reads: int = 4) -> None:
            super().__init__(reads, gives, 3, bias=False)
            self.gain = nn.Parameter(torch.ones(self.out_channels))

    def build(classes: int) -> nn.Module:
        return nn.Sequential(
            Wide(8, reads=3), nn.BatchNorm2d(8), Wide(10, reads=8), nn.Flatten(), nn.Linear(160, classes)
        )

    way = widths.find_widths(build, 5, (3, 8, 8))
    assert way is not None
    network = way.create(0.5, functools.partial(build, 5))
    assert [tuple(value.shape) for value in network.parameters()] == [
        *[(4, 3, 3, 3), (4,), (4,), (4,), (5, 4, 3, 3), (5,), (5, 80), (5,)]
    ]


def test_a_network_of_which_a_part_keeps_its_size_has_no_width() -> None:
    class First(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs[:, :8]

    def build(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 10), First(), nn.Linear(8, classes))

    assert widths.find_widths(build, 5, (3, 2, 2)) is None
