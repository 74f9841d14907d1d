"""Low-rank factors, shared bases and relaxed recursive transformers: what they compute, and how they divide a budget."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import npasbench
from npasbench.api import Architecture, Batch, Budget, BudgetTooSmall, Findings, LayerSpec, Problem, SharedNetwork
from npasbench.baselines.basis import Basis
from npasbench.baselines.low_rank import LowRank, from_matrices, matrix_form
from npasbench.baselines.recursive_lora import RecursiveLora, averaged, runs
from npasbench.budget import resolve
from npasbench.building import audited, build
from npasbench.conformance import check_method
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.registry import Registry
from npasbench.sharing.factors import Factored, common_ranks, ends, ranks_around, spectral
from npasbench.sharing.layers import shareable_layers

METHODS = {"low-rank": LowRank, "basis": Basis, "recursive-lora": RecursiveLora}


def method(name: str, **knobs: Any) -> LowRank | Basis | RecursiveLora:
    one = METHODS[name]
    return one(one.knobs(**knobs))


def dense(layers: list[LayerSpec]) -> int:
    return sum(layer.size for layer in layers)


def specs(*shapes: tuple[int, ...], std: float = 0.1) -> list[LayerSpec]:
    kinds = {2: "linear"}
    return [LayerSpec(f"layer{i}", s, kinds.get(len(s), "convolution"), std=std) for i, s in enumerate(shapes)]  # type: ignore[arg-type]


def transformer(blocks: int = 4, width: int = 8) -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width)})

    return nn.ModuleDict(
        {
            "embedding": nn.Linear(3, width),
            "blocks": nn.ModuleList(block() for _ in range(blocks)),
            "head": nn.Linear(width, 5),
        }
    )


def problem(network: nn.Module, parameters: int) -> Problem:
    return Problem((Architecture.of(network),), Budget("", parameters, count(network).total), 5, (3,))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Dividing a budget


matrices = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8)


@given(matrices, st.integers(1, 9000))
@settings(max_examples=80, deadline=None)
def test_common_ranks_leave_less_than_any_single_rank_costs(shapes: list[tuple[int, int]], parameters: int):
    given_ = [Factored(r + c, r * c, min(r, c)) for r, c in shapes]
    least = sum(m.price(1) for m in given_)
    if parameters < least:
        with pytest.raises(BudgetTooSmall) as raised:
            common_ranks(given_, parameters)
        assert raised.value.smallest == least
        return
    ranks = common_ranks(given_, parameters)
    prices = [m.plain if rank is None else rank * m.rank for m, rank in zip(given_, ranks, strict=True)]
    assert all(price <= m.plain for price, m in zip(prices, given_, strict=True))
    left = parameters - sum(prices)
    steps = [
        m.price((rank or 0) + 1) - m.price(rank or 0) for m, rank in zip(given_, ranks, strict=True) if rank is not None
    ]
    assert left >= 0
    assert all(left < step for step in steps)


def test_equal_matrices_get_equal_ranks_but_for_the_one_that_is_left():
    ranks = common_ranks([Factored(20, 100, 10)] * 4, 4 * 40 + 20)
    assert sorted(ranks) == [2, 2, 2, 3]


def test_a_matrix_has_no_factors_where_they_would_be_no_smaller():
    assert common_ranks([Factored(20, 100, 10)], 99) == [4]
    assert common_ranks([Factored(20, 100, 10)], 100) == [None]
    assert common_ranks([Factored(4, 3, 1)], 3) == [None]


def test_ends_are_whole_where_the_others_still_get_a_rank():
    ends_and_middle = [Factored(20, 100, 10)] * 3
    assert ranks_around(ends_and_middle, {0, 2}, 220) == [None, 1, None]
    assert ranks_around(ends_and_middle, {0, 2}, 219) == [4, 3, 3]


def test_ends_are_each_members_first_and_last_layer():
    layers = [LayerSpec(f"members.{m}.{i}", (2, 2), "linear", member=m) for m in (0, 1) for i in range(3)]
    assert ends(layers) == {"members.0.0", "members.0.2", "members.1.0", "members.1.2"}


# Factors


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 5, 7)])
@pytest.mark.parametrize("rank", [1, 3])
def test_spectral_factors_are_the_nearest_there_are_and_balanced(shape: tuple[int, ...], rank: int):
    weights = torch.randn(shape, generator=rng())
    left, right = spectral(weights, rank)
    u, s, vh = torch.linalg.svd(weights)
    nearest = u[..., :rank] @ torch.diag_embed(s[..., :rank]) @ vh[..., :rank, :]
    torch.testing.assert_close(left @ right, nearest, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(left.mT @ left, right @ right.mT, atol=1e-4, rtol=1e-3)


def test_spectral_factors_of_nothing_are_nothing():
    left, right = spectral(torch.zeros(4, 5), 2)
    assert torch.isfinite(left).all()
    assert torch.equal(left @ right, torch.zeros(4, 5))


# Low rank


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((8, 5), (8, 5)),
        ((8, 5, 3), (8, 15)),
        ((8, 5, 3, 2), (24, 10)),
        ((8, 5, 3, 2, 4), (24, 40)),
        ((8, 1, 3, 3), (24, 3)),
    ],
)
def test_a_weight_is_a_matrix_of_outputs_by_height_and_inputs_by_width(shape: tuple[int, ...], form: tuple[int, int]):
    assert matrix_form(shape) == form
    weight = torch.arange(math.prod(shape)).view(shape)
    matrix = weight.transpose(1, 2).reshape(form) if len(shape) > 3 else weight.view(form)
    assert torch.equal(from_matrices(matrix[None], shape)[0], weight)


def test_a_convolution_of_rank_one_is_a_product_of_two_vectors_by_hand():
    generator = LowRank(LowRank.knobs(whole_ends=False)).generator(specs((2, 1, 2, 2), (2, 1, 2, 2)), 12, rng())
    generator.factors["0_left"].data = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[0.0], [0.0], [0.0], [1.0]]])
    generator.factors["0_right"].data = torch.tensor([[[1.0, 10.0]], [[2.0, 3.0]]])
    weights = generator()
    assert weights["layer0"].tolist() == [[[[1, 10], [2, 20]]], [[[3, 30], [4, 40]]]]
    assert weights["layer1"].tolist() == [[[[0, 0], [0, 0]]], [[[0, 0], [2, 3]]]]


def test_one_fraction_of_full_rank_holds_for_all_layers_between_the_ends():
    shapes = [(4, 4), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (4, 4)]
    layers = specs(*shapes)
    generator = method("low-rank").generator(layers, dense(layers) // 3, rng())
    given_ = generator.allocation()
    assert [given_[name]["rank"] for name in ("layer0", "layer4")] == ["full", "full"]
    fractions = [given_[f"layer{i}"]["rank"] / min(matrix_form(shapes[i])) for i in (1, 2, 3)]
    assert max(fractions) - min(fractions) <= 2 / 48


@pytest.mark.parametrize("init", ["scaled", "normal"])
def test_factors_can_start_at_the_ordinary_deviation(init: str):
    layers = [LayerSpec(str(std), (64, 64, 3, 3), "convolution", std=std) for std in (0.2, 0.05)]
    generator = method("low-rank", init=init, whole_ends=False).generator(layers, dense(layers) // 4, rng())
    assert [float(weight.detach().std()) for weight in generator().values()] == pytest.approx([0.2, 0.05], rel=0.05)


def test_a_basis_can_start_at_the_ordinary_deviation():
    layers = specs(*[(64, 64, 3, 3)] * 3, std=0.2)
    generator = method("basis", init="scaled", whole_ends=False).generator(layers, dense(layers) // 8, rng())
    assert [float(weight.detach().std()) for weight in generator().values()] == pytest.approx([0.2] * 3, rel=0.05)


def shared(name: str, parameters: int, **knobs: Any) -> SharedNetwork:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    built = build(method(name, **knobs), problem(network, parameters), Findings(), 0)
    assert isinstance(built, SharedNetwork)
    return built


def test_frobenius_decay_adds_half_the_squared_norm_of_the_products_and_spares_the_factors():
    one = method("low-rank", frobenius_decay=0.5)
    network = shared("low-rank", 160, frobenius_decay=0.5)
    batch = Batch(torch.randn(3, 6), torch.tensor([0, 1, 2]), torch.arange(3))
    losses = list(one.losses(network, batch, F.cross_entropy))
    products = [w for name, w in network.weights().items() if network.generator.allocation()[name]["rank"] != "full"]
    assert len(losses) == len(products) == 2
    norms = torch.stack([product.detach().square().sum() for product in products])
    torch.testing.assert_close(losses[1].detach(), 0.25 * norms.sum())
    groups = one.parameter_groups(network)
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in network.generator.factors.parameters()}
    assert groups[1]["weight_decay"] == 0.0
    assert sum(p.numel() for group in groups for p in group["params"]) == count(network).total


# Basis sharing


def test_layers_of_a_shape_are_products_of_one_basis_by_hand():
    generator = method("basis", whole_ends=False).generator(specs((2, 2), (2, 2)), 6, rng())
    generator.basis["0"].data = torch.tensor([[1.0], [2.0]])
    generator.factors["0"].data = torch.tensor([[1.0, 10.0, 3.0, 4.0]])
    assert generator()["layer0"].tolist() == [[1, 10], [2, 20]]
    assert generator()["layer1"].tolist() == [[3, 4], [6, 8]]


def test_a_basis_starts_from_the_decomposition_of_the_layers_side_by_side():
    layers = specs((6, 4, 3, 3), (6, 4, 3, 3), (6, 4, 3, 3))
    whole = method("basis", whole_ends=False).generator(layers, dense(layers), rng())()
    cut = method("basis", whole_ends=False).generator(layers, dense(layers) // 2, rng())
    side_by_side = torch.cat([whole[layer.name].flatten(1) for layer in layers], dim=1)
    k = cut.allocation()["layer0"]["vectors"]
    u, s, vh = torch.linalg.svd(side_by_side, full_matrices=False)
    nearest = (u[:, :k] * s[:k]) @ vh[:k]
    made = torch.cat([cut()[layer.name].flatten(1) for layer in layers], dim=1)
    torch.testing.assert_close(made, nearest, atol=1e-4, rtol=1e-3)


def test_the_ends_of_a_network_share_no_basis():
    generator = method("basis").generator(specs(*[(8, 8)] * 5), 64 * 2 + 2 * (8 + 24), rng())
    vectors = {name: given_["vectors"] for name, given_ in generator.allocation().items()}
    assert vectors == {"layer0": "full", "layer1": 2, "layer2": 2, "layer3": 2, "layer4": "full"}


def test_all_of_a_basis_is_decayed_and_all_of_its_generator_is_bank():
    network = shared("basis", 120)
    assert [id(p) for p in method("basis").parameter_groups(network)[0]["params"]] == [
        id(p) for p in network.parameters()
    ]
    assert len(method("basis").parameter_groups(network)) == 1
    assert count(network).bank_params == sum(p.numel() for p in network.generator.parameters())


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_a_basis_twice_as_large_can_be_pruned_to_its_budget(fraction: float):
    member = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8))
    given_ = Problem((member,), resolve(fraction, 77_562), 10, (1, 8, 8))
    pruned = Registry().assemble("basis", {}, [("prune-after", {"grow": 2})])
    network = audited(pruned, given_, Findings(), 0)
    assert pruned.final_count(network) == given_.budget.parameters
    assert {name.split(".")[1] for name in pruned.structure(network).masks} == {"basis", "factors", "unshared"}


# Relaxed recursive transformers


def test_runs_are_the_equal_numbered_blocks_of_linear_layers():
    found = runs(shareable_layers(transformer()))
    assert [[layer.name for layer in block] for block in found[0].blocks] == [
        [f"blocks.{i}.up.weight", f"blocks.{i}.down.weight"] for i in range(4)
    ]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "shape", "lengths"),
    [
        ("row-transformer", (1, 8, 8), [4]),
        ("timm:deit_tiny_patch16_224", (3, 32, 32), [12]),
        ("torchvision:vit_b_32", (3, 64, 64), [12]),
        ("timm:swin_tiny_patch4_window7_224", (3, 224, 224), [2, 2, 6, 2]),
        ("wrn-16-2", (1, 8, 8), []),
        ("timm:resnet18", (3, 32, 32), []),
    ],
)
def test_runs_are_found_in_real_networks(name: str, shape: tuple[int, ...], lengths: list[int]):
    with torch.device("meta"):
        layers = shareable_layers(architecture(name, classes=10, input_shape=shape).create())
    assert [len(run.blocks) for run in runs(layers)] == lengths


def test_projections_of_one_layer_and_members_of_an_ensemble_are_no_blocks():
    attention = nn.ModuleDict({f"{n}_proj": nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}) for n in "qkv"})
    assert runs(shareable_layers(attention)) == []
    ensemble = nn.ModuleDict({"members": nn.ModuleList(transformer() for _ in range(2))})
    assert [len(run.blocks) for run in runs(shareable_layers(ensemble))] == [4, 4]


def test_a_network_without_equal_blocks_is_skipped_with_the_reason():
    one = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8))
    given_ = Problem((one,), resolve(1, 77_562), 10, (1, 8, 8))
    assert "this network has none" in str(method("recursive-lora").skip(given_))
    assert method("recursive-lora").skip(problem(transformer(), 500)) is None


@pytest.mark.parametrize("init", ["average", "zero"])
def test_each_use_is_its_blocks_weight_and_its_own_difference(init: str):
    layers = shareable_layers(transformer())
    generator = method("recursive-lora", blocks=3, init=init).generator(layers, 1100, rng())
    weights, given_ = generator(), generator.allocation()
    for index, names in enumerate(generator.positions):
        for use, name in enumerate(names):
            expected = generator.blocks[index][use % 3]
            assert given_[name]["block"] == use % 3
            rank = given_[name]["rank"]
            assert (rank > 0) == (use % 3 == 0)
            if rank:
                own = generator.alike[index][rank].index(use)
                left, right = (generator.differences[f"{index}_{rank}_{part}"][own] for part in "BA")
                expected = expected + left @ right
            torch.testing.assert_close(weights[name], expected)


def test_an_average_and_full_differences_give_the_weights_back():
    weights = torch.randn(4, 5, 6, generator=rng())
    uses = torch.arange(4) % 2
    shared_, factors = averaged(weights, uses, {5: [0, 1, 2, 3]}, rng())
    torch.testing.assert_close(shared_[uses] + factors[5][0] @ factors[5][1], weights, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("init", ["average", "zero"])
def test_relaxed_blocks_start_at_the_ordinary_deviation(init: str):
    layers = shareable_layers(transformer(width=48))
    generator = method("recursive-lora", init=init).generator(layers, dense(layers) // 2, rng())
    weights = generator()
    for layer in layers[1:-1]:
        assert float(weights[layer.name].detach().std()) == pytest.approx(layer.std, rel=0.1)


def test_the_most_blocks_that_leave_a_rank_of_one_are_taken():
    layers = shareable_layers(transformer())
    apart, block, difference = 3 * 8 + 8 * 5, 2 * 8 * 16, 2 * (8 + 16)
    for parameters, blocks, ranks in (
        (apart + block, 1, {0}),
        (apart + 2 * block + 4 * difference - 1, 1, {2, 3}),
        (apart + 2 * block + 4 * difference, 2, {1}),
        (apart + 4 * block, 4, {0}),
    ):
        given_ = method("recursive-lora").generator(layers, parameters, rng()).allocation()
        assert {g["block"] for g in given_.values()} == set(range(blocks))
        assert {g["rank"] for g in given_.values()} == ranks
    with pytest.raises(BudgetTooSmall) as raised:
        method("recursive-lora").generator(layers, apart + block - 1, rng())
    assert raised.value.smallest == apart + block
    assert raised.value.hint == ""


@pytest.mark.parametrize(("blocks", "hint"), [(100, "That is with blocks = 100; fewer blocks need less."), (1, "")])
def test_too_many_blocks_for_a_budget_are_named_as_the_cause(blocks: int, hint: str):
    given_ = problem(architecture("row-transformer", classes=10, input_shape=(1, 8, 8)).create(), 4_000)
    with pytest.raises(BudgetTooSmall) as raised:
        audited(method("recursive-lora", blocks=blocks), given_, Findings(), 0)
    assert raised.value.hint == hint
    assert str(raised.value).endswith(f"the budget is 4,000. {hint}".rstrip())


# All of them


@pytest.mark.parametrize("name", METHODS)
@given(st.floats(0.02, 2))
@settings(max_examples=12, deadline=None)
def test_a_budget_is_kept_and_used_or_refused_with_the_smallest_that_is_enough(name: str, fraction: float):
    network, one = transformer(), method(name)
    total = count(network).total
    parameters = max(1, int(fraction * total))
    smallest = refused(one, network, parameters)
    if smallest is not None:
        assert smallest > parameters
        assert refused(one, network, smallest) is None
        assert refused(one, network, smallest - 1) == smallest
        return
    used = count(audited(one, problem(network, parameters), Findings(), 0)).total
    assert min(parameters, total) - 24 * 4 < used <= parameters


@pytest.mark.parametrize("name", ["low-rank", "basis", "recursive-lora", "pranc", "hypernetwork"])
@pytest.mark.parametrize("fraction", [0.3, 0.6])
def test_under_bank_accounting_the_whole_generator_is_held_against_the_budget(name: str, fraction: float):
    on = "row-transformer" if name == "recursive-lora" else "wrn-10-1"
    member = architecture(on, classes=10, input_shape=(1, 8, 8))
    total = count(member.create()).total
    budget = Budget(str(fraction), int(fraction * total), total, "bank")
    network = audited(Registry().assemble(name, {}, []), Problem((member,), budget, 10, (1, 8, 8)), Findings(), 0)
    assert isinstance(network, SharedNetwork)
    given_ = count(network)
    assert given_.bank_params == sum(p.numel() for p in network.generator.parameters())
    assert 0.99 * budget.parameters < given_.bank_params <= budget.parameters < given_.total


def refused(one: LowRank | Basis | RecursiveLora, network: nn.Module, parameters: int) -> int | None:
    """The smallest budget that would be enough, where this one is not."""
    try:
        audited(one, problem(network, parameters), Findings(), 0)
    except BudgetTooSmall as error:
        return error.smallest or 0
    return None


@pytest.mark.parametrize(
    ("name", "network", "shape", "budget"),
    [
        ("low-rank", "timm:efficientnet_b0", (3, 32, 32), 0.1),
        ("low-rank", "torchvision:densenet121", (3, 32, 32), 0.5),
        ("basis", "torchvision:densenet121", (3, 32, 32), 0.1),
        ("basis", "timm:deit_tiny_patch16_224", (3, 32, 32), 0.5),
        ("recursive-lora", "timm:deit_tiny_patch16_224", (3, 32, 32), 0.3),
        *[
            pytest.param(name, "timm:resnet18", (3, 32, 32), 0.5, marks=pytest.mark.slow)
            for name in ("low-rank", "basis")
        ],
    ],
)
def test_a_real_network_uses_its_budget_takes_a_step_and_is_exported(
    name: str, network: str, shape: tuple[int, ...], budget: float
):
    torch.manual_seed(0)
    model = architecture(network, classes=10, input_shape=shape).create()
    made = npasbench.share(model, name, budget=budget)
    assert 0.997 * budget < count(made).total / count(model).total <= budget
    inputs = torch.randn(4, *shape)
    F.cross_entropy(made(inputs), torch.arange(4)).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None] == []
    torch.optim.SGD(made.parameters(), 1e-4).step()
    plain = npasbench.export(made.eval()).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(inputs), plain(inputs))


@pytest.mark.parametrize(
    ("name", "task"),
    [("low-rank", "digits15-wrn-10-1"), ("basis", "digits15-transformer"), ("recursive-lora", "digits15-transformer")],
)
def test_a_factorised_method_keeps_the_contract(name: str, task: str):
    verdicts = check_method(name, task=task)
    assert len(verdicts) > 10
    assert [verdict for verdict in verdicts if not verdict.passed] == []
