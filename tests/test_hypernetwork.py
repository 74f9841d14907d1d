"""A static hypernetwork: tiles from embeddings, put together to weights of any shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import npasbench
from npasbench.api import BudgetTooSmall, LayerSpec
from npasbench.baselines.hypernetwork import ENTRIES, INPUTS, TILE, Hypernetwork, price, put_together, sizes
from npasbench.conformance import check_method
from npasbench.measuring.count import count
from npasbench.networks import architecture


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def specs(*shapes: tuple[int, ...], std: float = 0.1) -> list[LayerSpec]:
    return [LayerSpec(f"layer{i}", shape, "convolution", std=std * (i + 1)) for i, shape in enumerate(shapes)]


def test_a_kernel_is_made_input_by_input_as_in_the_paper():
    generator = Hypernetwork().generator(specs((16, 16, 3, 3), (16, 16, 3, 3)), 3000, rng())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng()))
        own, weight = generator.hypernetwork, generator()["layer1"]
        z, hidden = generator.tile_embeddings[1], own["out_weight"].shape[1]
        for i in range(INPUTS):
            a = own["in_weight"][i * hidden : (i + 1) * hidden] @ z + own["in_bias"][i * hidden : (i + 1) * hidden]
            kernel = (own["out_weight"] @ a + own["out_bias"]).view(16, 3, 3)
            torch.testing.assert_close(weight[:, i], 0.2 * 4 * kernel, atol=1e-4, rtol=1e-4)


def test_a_larger_kernel_is_put_together_from_tiles():
    tiles = torch.arange(4.0)[:, None].expand(4, TILE).reshape(-1)
    weight = put_together(tiles, (32, 32, 3, 3))
    corners = [[int(weight[o, i, 1, 1]) for o in (0, 31)] for i in (0, 31)]
    assert corners == [[0, 1], [2, 3]]
    assert all(bool((weight[o : o + 16, i : i + 16] == weight[o, i, 0, 0]).all()) for o in (0, 16) for i in (0, 16))


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 5), max_size=3))
@settings(max_examples=60, deadline=None)
def test_every_entry_of_a_weight_comes_from_one_place_of_its_tiles(out: int, into: int, kernel: list[int]):
    shape = (out, into, *kernel)
    size = torch.Size(shape).numel()
    weight = put_together(torch.arange(size), shape)
    assert tuple(weight.shape) == shape
    assert torch.equal(weight.flatten().sort().values, torch.arange(size))


@given(st.integers(1, 5000), st.integers(1, 2_000_000))
@settings(max_examples=80, deadline=None)
def test_sizes_leave_little_of_the_budget_and_are_nearly_equal(tiles: int, parameters: int):
    least = price(tiles, 1, 1)
    if parameters < least:
        with pytest.raises(BudgetTooSmall) as raised:
            sizes(tiles, parameters, TILE)
        assert raised.value.smallest == least
        return
    embedding, hidden = sizes(tiles, parameters, TILE)
    used = price(tiles, embedding, hidden)
    assert used <= parameters
    assert parameters - used < max(tiles, INPUTS * (embedding + 1) + ENTRIES) or min(embedding, hidden) > TILE * 0.7
    assert abs(embedding - hidden) <= max(2, 0.7 * max(embedding, hidden))


def test_an_embedding_can_be_kept_to_the_papers_size():
    for parameters in (100_000, 1_000_000):
        generator = Hypernetwork(Hypernetwork.knobs(embedding=64)).generator(specs((64, 64, 3, 3)), parameters, rng())
        assert generator.tile_embeddings.shape == (16, 64)


def test_weights_start_at_each_layers_ordinary_deviation():
    generator = Hypernetwork().generator(specs((256, 64, 3, 3), (512, 256)), 90_000, rng())
    weights = [weight.detach() for weight in generator().values()]
    assert [float(weight.std()) for weight in weights] == pytest.approx([0.1, 0.2], rel=0.1)


def test_embeddings_are_bank_and_not_decayed():
    model = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    network = npasbench.share(model, "hypernetwork", budget=0.1)
    groups = Hypernetwork().parameter_groups(network)
    assert [id(p) for p in groups[1]["params"]] == [id(network.generator.tile_embeddings)]
    assert groups[1]["weight_decay"] == 0.0
    assert count(network).bank_params == sum(p.numel() for p in network.generator.parameters())


@pytest.mark.parametrize(
    ("network", "budget"),
    [
        ("timm:efficientnet_b0", 0.1),
        ("torchvision:densenet121", 0.5),
        pytest.param("timm:resnet18", 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_real_network_uses_its_budget_takes_a_step_and_is_exported(network: str, budget: float):
    torch.manual_seed(0)
    model = architecture(network, classes=10, input_shape=(3, 32, 32)).create()
    made = npasbench.share(model, "hypernetwork", budget=budget)
    assert 0.997 * budget < count(made).total / count(model).total <= budget
    inputs = torch.randn(4, 3, 32, 32)
    F.cross_entropy(made(inputs), torch.arange(4)).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None] == []
    torch.optim.SGD(made.parameters(), 1e-4).step()
    plain = npasbench.export(made.eval()).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(inputs), plain(inputs))


def test_hypernetwork_keeps_the_contract():
    verdicts = check_method("hypernetwork")
    assert len(verdicts) > 10
    assert [verdict for verdict in verdicts if not verdict.passed] == []
