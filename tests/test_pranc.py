"""PRANC: random signs that come again from a seed, and coefficients that are all there is."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import npasbench
from npasbench.api import LayerSpec
from npasbench.baselines.pranc import Pranc, RandomCombinations, _Combine, _Project, random_signs
from npasbench.conformance import check_method
from npasbench.measuring.count import count
from npasbench.networks import architecture


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(sizes: list[int], number: int, most: int = 8, seed: int = 0) -> RandomCombinations:
    layers = [LayerSpec(f"layer{i}", (n, 1), "linear", std=0.1 * (i + 1)) for i, n in enumerate(sizes)]
    return RandomCombinations(layers, number, most, rng(seed))


def flat(one: RandomCombinations) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in one().values()])


# Signs


def test_signs_are_the_bits_of_splitmix64():
    """Its first outputs for the seed 1234567, as published with the generator, least bit first."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    signs = random_signs(torch.tensor([1234567]), torch.arange(1), 64)
    golden = 0x9E3779B97F4A7C15
    inverse = pow(golden, -1, 2**64)
    places = [(1234567 + (i + 1) * golden) * inverse % 2**64 for i in range(3)]  # the counters that the generator mixes
    for place, word in zip(places, published, strict=True):
        counter = torch.tensor([place - 2**64 if place >= 2**63 else place])
        signs = random_signs(counter, torch.zeros(1, dtype=torch.long), 64)
        assert [int(sign > 0) for sign in signs[0]] == [word >> bit & 1 for bit in range(64)]


def test_signs_are_even_and_unlike_each_other():
    signs = random_signs(torch.tensor([5]), torch.arange(20_000), 96)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert float(signs.mean(0).abs().max()) < 4.5 / math.sqrt(20_000)
    products = signs.T @ signs / 20_000
    assert float((products - torch.eye(96)).abs().max()) < 5 / math.sqrt(20_000)


def test_any_part_of_the_signs_can_be_had_alone():
    seed, places = torch.tensor([9]), torch.arange(50)
    whole = random_signs(seed, places, 70)
    assert torch.equal(random_signs(seed, places[20:30], 70), whole[20:30])


# Combinations


def test_weights_are_the_chunks_signs_times_their_coefficients_by_hand():
    one = generator([5, 6], 5, most=2)  # 3 chunks of 4, 4 and 3 weights, with 2, 2 and 1 coefficients
    a = one.alphas.detach()  # one of each chunk, then the second ones
    signs = random_signs(one.seed, torch.arange(12).view(3, 4), 2)
    first = (signs[0] * torch.stack([a[0], a[3]])).sum(-1)
    second = (signs[1] * torch.stack([a[1], a[4]])).sum(-1)
    third = (signs[2] * torch.stack([a[2], torch.tensor(0.0)])).sum(-1)[:3]
    stds = torch.tensor([0.1] * 5 + [0.2] * 6)
    common = math.sqrt((5 * 0.1**2 + 6 * 0.2**2) / 11)
    expected = torch.cat([first, second, third]) / math.sqrt(4) * stds / common
    torch.testing.assert_close(flat(one).detach(), expected)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_coefficient_reaches_a_weight_and_none_is_left_over(size: int, parameters: int, most: int):
    layers = [LayerSpec("layer", (size, 1), "linear", std=0.1)]
    one = Pranc(Pranc.knobs(coefficients=most)).generator(layers, parameters, rng())
    assert sum(p.numel() for p in one.parameters()) == min(size, parameters)
    gradient = torch.autograd.grad((flat(one) * torch.randn(size)).sum(), list(one.parameters()))[0]
    assert bool((gradient != 0).all())


def test_gradients_of_combinations_are_right_to_the_second_order():
    coefficients = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    seed = torch.tensor([3])
    assert torch.autograd.gradcheck(lambda a: _Combine.apply(a, seed, 7), (coefficients,))
    assert torch.autograd.gradgradcheck(lambda a: _Combine.apply(a, seed, 7) ** 2, (coefficients,))
    weights = torch.randn(3, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: _Project.apply(w, seed, 5), (weights,))


def test_slabs_do_not_change_the_weights(monkeypatch: pytest.MonkeyPatch):
    one = generator([300, 200], 100)
    whole = flat(one)
    whole.sum().backward()
    gradient, one.alphas.grad = one.alphas.grad, None
    monkeypatch.setattr("npasbench.baselines.pranc._AT_ONCE", 500)
    torch.testing.assert_close(flat(one), whole)
    flat(one).sum().backward()
    torch.testing.assert_close(one.alphas.grad, gradient)


@pytest.mark.parametrize("number", [200, 1000, 20_000])
def test_weights_start_at_each_layers_ordinary_deviation(number: int):
    """The mean of some draws: few coefficients make a deviation that varies."""
    draws = [generator([20_000, 20_000], number, most=64, seed=seed)() for seed in range(5)]
    for name, std in (("layer0", 0.1), ("layer1", 0.2)):
        seen = math.sqrt(statistics.mean(float(weights[name].detach().var()) for weights in draws))
        assert seen == pytest.approx(std, rel=0.1)


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    assert torch.equal(flat(generator([50], 10)), flat(generator([50], 10)))
    assert not torch.equal(generator([50], 10, seed=1).seed, generator([50], 10).seed)


def test_nothing_random_is_kept():
    one = generator([5000], 100)
    assert sum(b.numel() for b in one.buffers()) == 1
    assert list(one.state_dict()) == ["alphas"]


def test_far_below_one_per_cent_it_still_uses_its_budget_and_is_exported():
    torch.manual_seed(0)
    model = architecture("torchvision:mobilenet_v3_small", classes=10, input_shape=(3, 32, 32)).create()
    rest = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    parameters = rest + 3000
    made = npasbench.share(model, "pranc", budget=parameters)
    assert count(made).total == parameters
    inputs = torch.randn(4, 3, 32, 32)
    made(inputs).sum().backward()
    torch.optim.SGD(made.parameters(), 1e-4).step()
    plain = npasbench.export(made.eval()).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(inputs), plain(inputs))


def test_the_coefficients_are_bank_and_not_decayed():
    model = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    network = npasbench.share(model, "pranc", budget=0.1)
    groups = Pranc().parameter_groups(network)
    assert [id(p) for p in groups[1]["params"]] == [id(network.generator.alphas)]
    assert groups[1]["weight_decay"] == 0.0
    assert count(network).bank_params == network.generator.alphas.numel() == 7_756 - 490


def test_pranc_keeps_the_contract():
    verdicts = check_method("pranc", task="digits15-transformer")
    assert len(verdicts) > 10
    assert [verdict for verdict in verdicts if not verdict.passed] == []
