"""Shapeshifter Networks on any architecture: within any budget, whole, the same for the same seed."""

import copy
import json
import math

import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from stacks import METHODS, SHARES, Case, asked, built, cases, images, method, specs
from torch import nn
from torch.nn import functional as F

import npasbench
from npasbench.api import BudgetTooSmall, Findings, LayerSpec, Method, SharedNetwork
from npasbench.budget import resolve
from npasbench.building import audited, build
from npasbench.cli import npasbench as command
from npasbench.errors import NpasbenchError
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.problem import Problem
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import unshared_parameters
from npasbench.sharing.store import Division
from npasbench.sharing.upsample import TooSmall

BUDGETS = (0.1, 0.5, 1.0, 2.0)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(288, 5),
    )


def parameters_of(network: nn.Module, fraction: float) -> int:
    return max(1, int(fraction * count(network).total))


# Budgets


@given(cases())
@example(Case("ssn", {}, nn.ModuleList([nn.Conv2d(1, 1, 2), nn.Linear(1, 2)]), 9))
@settings(max_examples=60, deadline=None)
def test_a_network_is_within_its_budget_or_refused_with_a_budget_that_is_enough(case: Case):
    holds(case.method, case.network, case.parameters)


def holds(one: Method, network: nn.Module, parameters: int) -> None:
    """At most the budget, or a refusal that names a larger one, which is enough."""
    smallest = refused(one, network, parameters)
    assert smallest is None or smallest > parameters
    enough = smallest or parameters
    assert count(audited(one, asked(network, enough), Findings(), 0)).total <= enough


def refused(one: Method, network: nn.Module, parameters: int) -> int | None:
    """The smallest budget that would be enough, where this one is not."""
    try:
        audited(one, asked(network, parameters), Findings(), 0)
    except BudgetTooSmall as error:
        return error.smallest or 0
    return None


@given(cases(), st.sampled_from(["published", "upsampled"]))
@settings(max_examples=50, deadline=None)
def test_with_bilinear_upsampling_nothing_below_the_smallest_can_be_built(case: Case, alone: str):
    knobs = case.knobs | {"upsample": "inter"} | ({"alone": alone} if case.name == "ssn-plus" else {})
    one, network = method(case.name, **knobs), case.network
    smallest = refused(one, network, 1)
    assume(smallest is not None)
    assert refused(one, network, smallest) is None
    assert [n for n in range(max(1, smallest - 8), smallest) if refused(one, network, n) != smallest] == []


def test_the_smallest_is_that_of_layers_alone_or_upsampled_whichever_is_smaller():
    """With a weight of its own for the layer of 27, 56 are enough; a bank for it leaves too little to the others."""
    kinds = ((3, lambda: nn.Embedding(39, 2)), (1, lambda: nn.Conv2d(1, 3, 3, bias=False)))
    small = (
        (2, lambda: nn.Conv2d(4, 4, 1, groups=4, bias=False)),
        (3, lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False)),
    )
    network = nn.ModuleList([make() for times, make in (*kinds, *small) for _ in range(times)])
    one = method("ssn-plus", groups="shape", share="avg", max_templates=2)
    assert refused(one, network, 1) == 56
    assert refused(one, network, 56) is None


def test_the_smallest_budget_takes_into_account_that_a_larger_store_may_need_no_coefficients():
    """99 entries are read by a small weight and two templates of the other layer, 100 by both layers as they are."""
    network = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1, bias=False))
    assert [refused(method("ssn-plus", share=share, upsample="none"), network, 1) for share in SHARES] == [100] * 3
    shared = built(method("ssn-plus", share="emb"), network, 99, accounting="bank")
    assert count(shared).total == 99 + 24 + 25 * 2


@pytest.mark.parametrize("upsample", ["mask", "wavg"])
def test_the_smallest_budget_takes_into_account_that_a_smaller_store_needs_more_copies(upsample: str):
    network, one = nn.Sequential(nn.Linear(50, 60), nn.Linear(60, 30)), method("ssn", upsample=upsample)
    smallest = refused(one, network, 1)
    assert refused(one, network, smallest) is None
    assert refused(one, network, smallest - 1) == smallest


@given(cases())
@example(Case("ssn", {}, nn.ModuleList([nn.Conv2d(1, 1, 2), nn.Linear(1, 2)]), 9))
@settings(max_examples=40, deadline=None)
def test_no_larger_store_would_fit(case: Case):
    layers = shareable_layers(case.network)
    available = case.parameters - unshared_parameters(case.network, layers)
    division = divided(case, layers)
    try:
        groups = division.largest(available)
    except (BudgetTooSmall, TooSmall):
        groups = []
    assert not groups or division.cost(groups) <= available
    largest = sum(group.bank for group in groups)
    assert [n for n in range(1, available + 1) if fitting_store(division, n, available) > largest] == []


def divided(case: Case, layers: list[LayerSpec]) -> Division:
    return case.method.division(layers, case.method.grouped(layers, Findings(), torch.Generator().manual_seed(0)))


def fitting_store(division: Division, parameters: int, available: int) -> int:
    """The entries of all banks and unshared layers, 0 if they cannot be built or do not fit."""
    try:
        groups = division.at(parameters)
    except TooSmall:
        return 0
    return sum(group.bank for group in groups) if division.cost(groups) <= available else 0


@given(cases())
@settings(max_examples=25, deadline=None)
def test_what_a_division_costs_is_what_its_generator_trains(case: Case):
    division = divided(case, shareable_layers(case.network))
    try:
        groups = division.at(case.parameters)
    except TooSmall:
        assume(False)
    assert count(case.method.generator(groups, torch.Generator())).total == division.cost(groups)


def test_a_budget_just_below_a_jump_in_embeddings_is_met_with_fewer_templates():
    """At 1,010 the small layer would have two templates and an embedding of 74; with 1,003 it has one and none."""
    network = nn.Sequential(nn.Linear(1000, 1, bias=False), nn.Linear(502, 1, bias=False))
    shared = audited(method("ssn", share="emb", upsample="none"), asked(network, 1010), Findings(), 0)
    assert count(shared).total == 1003


def test_a_budget_just_below_a_jump_in_embeddings_is_met_though_a_smaller_store_needs_masks():
    """610 entries hold the large layers whole; with 600 a mask of 360 for each of them would be beyond the budget."""
    large, small = ([nn.Linear(size, 1, bias=False) for _ in range(times)] for size, times in ((600, 2), (305, 3)))
    one = method("ssn", share="emb", upsample="mask", window=40)
    shared = audited(one, asked(nn.Sequential(*large, *small), 615), Findings(), 0)
    assert shared.generator.bank["0"].numel() == 609


@pytest.mark.parametrize(
    ("shapes", "available", "largest"),
    [([(60, 20), (30, 3)], 2830, 2823), ([(90, 60), (30, 3), (5, 20), (5, 60), (30, 3)], 10980, 10978)],
)
def test_the_largest_store_is_found_though_a_smaller_one_needs_more_templates(
    shapes: list[tuple[int, int]], available: int, largest: int
):
    layers = specs(*shapes)
    (group,) = method("ssn-plus").division(layers, [0] * len(layers)).largest(available)
    assert group.bank == largest


def test_the_papers_count_is_met_though_groups_round_up_together():
    """The release's own store of 138,415 has 138,416 entries in four groups."""
    problem = Problem(
        (architecture("wrn-16-4", classes=100, input_shape=(3, 32, 32)),),
        resolve(138_415, 2_772_020, "bank"),
        100,
        (3, 32, 32),
    )
    shared = audited(method("ssn", groups=[i % 4 for i in range(17)]), problem, Findings(), 0)
    assert [bank.numel() for bank in shared.generator.bank.values()] == [33_046, 11_315, 42_394, 51_661]


@pytest.mark.parametrize("shape", [(400, 4), (4, 400)])
@pytest.mark.parametrize("share", ["wavg", "emb"])
def test_the_learning_network_is_within_any_budget_or_refused_with_one_that_is_enough(
    shape: tuple[int, int], share: str
):
    network, one = nn.Sequential(nn.Embedding(*shape), nn.Linear(4, 4)), method("ssn", groups="learning", share=share)
    for parameters in (5, 50, 200, 500, 2000, 5000):
        holds(one, network, parameters)


# Weights


@given(cases())
@settings(max_examples=30, deadline=None)
def test_every_layers_weight_has_its_shape_and_the_networks_type(case: Case):
    shared = case.built()
    shapes = {layer.name: layer.shape for layer in shared.layers}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weights = shared.to(dtype).weights()
        assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
        assert {weight.dtype for weight in weights.values()} == {dtype}
        assert all(torch.isfinite(weight).all() for weight in weights.values())


@given(cases())
@settings(max_examples=20, deadline=None)
def test_under_autocast_weights_are_the_same_float32(case: Case):
    shared = case.built()
    plain = shared.weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = shared.weights()
    assert all(weights[name].dtype == torch.float32 and torch.equal(weights[name], plain[name]) for name in plain)


@pytest.mark.parametrize("share", ["wavg", "emb"])
def test_the_learning_network_generates_in_the_networks_type(share: str):
    shared = built(method("ssn", groups="learning", share=share), convolutional(), 3000)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        weights = shared.to(dtype).weights()
        assert all(weights[layer.name].shape == layer.shape for layer in shared.layers)
        assert {weight.dtype for weight in weights.values()} == {dtype}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {weight.dtype for weight in shared.weights().values()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_under_autocast_on_the_gpu_weights_are_float32_though_the_first_group_is_a_layer_alone():
    network = convolutional()
    shared = built(method("ssn", groups=[0, 1, 1, 1]), network, parameters_of(network, 0.9)).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        weights = shared.weights()
        shared(images().cuda()).float().square().sum().backward()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@given(cases())
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(case: Case):
    first, again, other = (stored(case.built(seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def stored(network: nn.Module) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in network.parameters())


# Any network


ANY = (
    ("row-transformer", (1, 8, 8)),
    ("timm:resnet18", (3, 64, 64)),
    ("timm:efficientnet_b0", (3, 64, 64)),
    ("timm:deit_tiny_patch16_224", (3, 64, 64)),
    ("torchvision:resnet50", (3, 64, 64)),
    ("torchvision:densenet121", (3, 64, 64)),
)
any_network = pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(*one, marks=() if one[0] == "row-transformer" else pytest.mark.slow) for one in ANY],
    ids=[name for name, _ in ANY],
)


@any_network
@pytest.mark.parametrize("which", sorted(METHODS))
def test_any_network_is_built_trained_and_exported_at_any_budget(name: str, shape: tuple[int, ...], which: str):
    one = architecture(name, classes=10, input_shape=shape)
    with torch.device("meta"):
        dense = count(one.create()).total
    for fraction in BUDGETS:
        problem = Problem((one,), resolve(fraction, dense), 10, shape)
        shared = build(method(which), problem, Findings(), 0)
        assert 0.98 * problem.budget.parameters <= count(shared).total <= problem.budget.parameters
        step(shared, images(shape[-1], shape[0]))
        same_output(shared, images(shape[-1], shape[0]))


def step(network: nn.Module, inputs: torch.Tensor) -> None:
    """One step of SGD, which moves what the weights are generated from."""
    before = copy.deepcopy(network.generator.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001)
    F.cross_entropy(network.train()(inputs), torch.tensor([1, 2])).backward()
    optimizer.step()
    after = network.generator.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not any(torch.equal(after[key], before[key]) for key in after if key.startswith("bank"))


def same_output(network: SharedNetwork, inputs: torch.Tensor) -> None:
    plain = npasbench.export(network).eval()
    with torch.no_grad():
        expected = network.eval()(inputs)
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(plain(inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_model_is_shared_by_the_python_call():
    model = convolutional()
    shared = npasbench.share(model, "ssn", budget=0.5)
    assert count(shared).total <= 0.5 * count(model).total
    assert shared(images()).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.1, 1, 2.5])
@pytest.mark.parametrize(
    ("which", "knobs"),
    [(name, {"share": share}) for name in sorted(METHODS) for share in SHARES]
    + [("ssn", {"groups": "learning", "share": share}) for share in ("wavg", "emb")],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_a_network_compiles_as_one_graph_with_the_plain_ones_output_and_gradients(
    which: str, knobs: dict[str, str], fraction: float
):
    network = convolutional()
    shared = built(method(which, **knobs), network, parameters_of(network, fraction)).double()
    twin, inputs = copy.deepcopy(shared), images().double()
    compiled = torch.compile(shared, fullgraph=True, backend="aot_eager")(inputs)
    plain = twin(inputs)
    torch.testing.assert_close(compiled, plain)
    compiled.square().sum().backward()
    plain.square().sum().backward()
    for one, other in zip(shared.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    torch.compiler.reset()


# The command line


def inspect(*words: str) -> tuple[int, dict]:
    done = CliRunner().invoke(command, ["inspect", *words, "--json"])
    code = done.exception.exit_code if isinstance(done.exception, NpasbenchError) else done.exit_code
    return code, json.loads(done.stdout)


WRN_28_10 = ("ssn", "--architecture", "wrn-28-10", "--classes", "100")
PUBLISHED = ("--set", "share=wavg", "--set", "upsample=inter", "--set", "groups=single", "--set", "max_templates=8")


def test_inspect_shows_the_published_allocation():
    code, shown = inspect(*WRN_28_10, "--bank-size", "3651883", *PUBLISHED)
    assert code == 0
    assert (shown["method"], shown["architecture"], shown["classes"]) == ("ssn", "wrn-28-10", 100)
    (group,) = shown["groups"]
    assert (group["group"], group["bank_size"], group["unused"]) == (0, 3_651_883, 324_907)
    assert len(group["layers"]) == 29
    first = dict(group["layers"][0])
    assert isinstance(first.pop("name"), str)
    assert first == {
        "layer": 0,
        "shape": [16, 3, 3, 3],
        "templates": 8,
        "start": 0,
        "end": 3456,
        "resized_from": None,
    }
    assert [layer["layer"] for layer in group["layers"]] == list(range(29))
    assert shown["parameters"] == {
        "bank": 3_651_883,
        "coefficients": 132,
        "embeddings": 0,
        "projections": 0,
        "upsamplers": 0,
        "unshared": 0,
        "norm": 17_952,
        "bias": 100,
        "total": 3_670_067,
    }


def test_inspect_refuses_with_the_smallest_that_is_enough():
    code, refused = inspect(*WRN_28_10, "--bank-size", "5000")
    assert code == 1
    code, shown = inspect(*WRN_28_10, "--bank-size", str(refused["smallest"]))
    assert code == 0
    assert shown["groups"][0]["bank_size"] == refused["smallest"]
    assert inspect(*WRN_28_10, "--bank-size", str(refused["smallest"] - 1))[0] == 1


def test_inspect_marks_a_layer_that_is_alone():
    words = ["ssn", "--architecture", "wrn-10-1", "--input", "1,8,8", "--budget", "0.9", "--set", "groups=type"]
    shown = inspect(*words)[1]
    alone = shown["groups"][1]
    assert alone["dense"] is True
    assert set(alone["layers"][0]) == {"layer", "name", "shape", "templates"}
    assert shown["parameters"]["unshared"] == alone["bank_size"] == 640


def test_inspect_gives_the_copies_of_an_upsampled_layer():
    words = ["ssn", "--architecture", "wrn-10-1", "--input", "1,8,8", "--budget", "0.1", "--set", "upsample=mask"]
    layers = inspect(*words)[1]["groups"][0]["layers"]
    bank = inspect(*words)[1]["groups"][0]["bank_size"]
    copies = {layer["layer"]: layer["copies"] for layer in layers if "copies" in layer}
    assert copies == {i: math.ceil(size(layer) / bank) - 1 for i, layer in enumerate(layers) if size(layer) > bank}


def size(layer: dict) -> int:
    return math.prod(layer["shape"])
