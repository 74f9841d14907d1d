"""Deep ensembles, BatchEnsemble and MIMO: several members within one budget, each as its paper has it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import npasbench
from npasbench.baselines.batch_ensemble import RankOneWeights
from npasbench.baselines.mimo import Mimo, MimoNetwork, find_ends
from npasbench.budget import Budget, resolve
from npasbench.building import audited
from npasbench.conformance import check_method
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, UsageError
from npasbench.measuring.count import count
from npasbench.measuring.model_file import read_model, write_model
from npasbench.method import Batch, Findings, Method
from npasbench.networks import architecture
from npasbench.networks.members import Members
from npasbench.problem import Architecture, Problem
from npasbench.registry import Registry, create
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import SharedNetwork
from npasbench.training.loop import Training

TINY = ("wrn-10-1", "wrn-16-1", "wrn-10-1")
TRANSFORMERS = ("row-transformer",) * 2
Knobs = dict[str, Any]
VARIANTS: list[tuple[str, Knobs]] = [
    ("deep-ensemble", {}),
    ("deep-ensemble", {"of": "listed"}),
    ("batch-ensemble", {}),
    ("batch-ensemble", {"init": "normal", "split": True}),
    ("mimo", {}),
    ("mimo", {"repeat": 0.0, "batch_repetition": 1}),
]
NAMES = ["deep-ensemble", "batch-ensemble", "mimo"]
every_variant = pytest.mark.parametrize(("name", "knobs"), VARIANTS)
every_method = pytest.mark.parametrize("name", NAMES)


def method(name: str, **knobs: Any) -> Method:
    return create(Registry().method(name), knobs, name)


def problem(members: tuple[str, ...], budget: str | float) -> Problem:
    listed = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in members)
    return of(listed, budget)


def of(listed: tuple[Architecture, ...], budget: str | float) -> Problem:
    with torch.device("meta"):
        dense = sum(count(one.create()).total for one in listed)
    return Problem(listed, resolve(budget, dense), 10, (1, 8, 8))


def built(name: str, members: tuple[str, ...] = TINY, budget: float = 0.3, seed: int = 0, **knobs: Any) -> nn.Module:
    """A network of its own, though each is built but once."""
    return copy.deepcopy(_built(name, members, budget, seed, tuple(knobs.items())))


@functools.cache
def _built(
    name: str, members: tuple[str, ...], budget: float, seed: int, knobs: tuple[tuple[str, Any], ...]
) -> nn.Module:
    return audited(method(name, **dict(knobs)), problem(members, budget), Findings(), seed)


def images(number: int = 6) -> Tensor:
    return torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def batch(number: int = 6) -> Batch:
    return Batch(images(number), torch.arange(number) % 10, torch.arange(number))


def plain(make: Callable[[], nn.Module], name: str = "toy") -> Architecture:
    """An architecture whose width setting changes nothing, so that it is what a test makes it."""
    return Architecture(name, lambda width=1.0: make(), scales=True)


def step(one: Method, network: nn.Module, given: Batch) -> float:
    optimizer = torch.optim.SGD(one.parameter_groups(network), lr=0.05)
    total = 0.0
    for loss in one.losses(network.train(), given, nn.CrossEntropyLoss()):
        loss.backward()
        total += float(loss.detach())
    optimizer.step()
    return total


# What all three promise


@pytest.mark.parametrize("name", NAMES)
def test_an_ensemble_method_keeps_the_contract(name: str, small_card: Callable[..., Path]) -> None:
    card = small_card()
    text = card.read_text(encoding="utf-8").replace('members = ["wrn-10-1"]', 'members = ["wrn-10-1", "wrn-10-1"]')
    card.write_text(text.replace("budgets = [0.02, 0.05, 0.1, 0.25, 0.5, 1, 2]", "budgets = [0.0005, 0.05]"))
    verdicts = check_method(name, task=str(card))
    assert len(verdicts) == 2 + 8
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    assert "refused" in verdicts[0].detail


@pytest.mark.parametrize("name", NAMES)
@given(st.sampled_from([("wrn-10-1",) * 2, TRANSFORMERS]), st.floats(0.0005, 2))
@settings(max_examples=3, deadline=None)
def test_members_are_within_the_budget_or_refused_with_the_smallest_that_is_enough(
    name: str, members: tuple[str, ...], fraction: float
) -> None:
    asked, one = problem(members, f"{fraction:.5f}"), method(name)
    try:
        assert count(audited(one, asked, Findings(), 0)).total <= asked.budget.parameters
    except BudgetTooSmall as error:
        least = error.smallest
        assert least is not None
        assert least > asked.budget.parameters
        budget = Budget("", least, asked.budget.dense)
        smallest = audited(one, dataclasses.replace(asked, budget=budget), Findings(), 0)
        assert count(smallest).total == least
        with pytest.raises(BudgetTooSmall):
            audited(
                one, dataclasses.replace(asked, budget=dataclasses.replace(budget, parameters=least - 1)), Findings(), 0
            )


@every_variant
def test_each_member_gives_logits_of_its_own(name: str, knobs: Knobs) -> None:
    network = built(name, **knobs).eval()
    logits = network(images())
    assert logits.shape == (3, 6, 10)
    assert all(not torch.allclose(logits[k], logits[j], atol=1e-3) for k, j in [(0, 1), (0, 2), (1, 2)])


@every_method
def test_there_are_as_many_members_as_asked_for(name: str) -> None:
    network = audited(method(name, members=5), problem(("wrn-10-1",), 0.5), Findings(), 0)
    assert network(images()).shape == (5, 6, 10)


@every_variant
def test_a_step_lowers_the_loss_and_moves_every_parameter(name: str, knobs: Knobs) -> None:
    network, one = built(name, **knobs), method(name, **knobs)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    torch.manual_seed(0)
    first = step(one, network, batch(30))
    assert [key for key, value in network.named_parameters() if torch.equal(value, before[key])] == []
    assert min(step(one, network, batch(30)) for _ in range(8)) < first


@every_method
def test_a_state_dict_and_a_model_file_hold_what_is_counted_and_bring_the_network_back(
    name: str, tmp_path: Path
) -> None:
    one, network = method(name), built(name)
    step(one, network, batch(12))
    expected = network.eval()(images())
    again = built(name, seed=0)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images()), expected)
    third = built(name, seed=0)
    assert write_model(tmp_path / "m.safetensors", one, network) == count(network).total
    assert read_model(tmp_path / "m.safetensors", one, third) == count(network).total
    assert torch.equal(third.eval()(images()), expected)


@every_method
def test_an_export_gives_the_same_output(name: str) -> None:
    network = built(name).eval()
    assert torch.allclose(npasbench.export(network)(images()), network(images()), atol=1e-6)


@every_method
def test_the_ensemble_is_of_the_largest_architecture_listed(name: str) -> None:
    blocks = [key for key, _ in built(name).named_modules() if key.endswith("conv1")]
    assert len(blocks) in (6, 18)  # those of wrn-16-1, once or in each of three members


@every_method
def test_one_member_is_no_ensemble(name: str) -> None:
    assert "one member" in str(method(name).skip(problem(("wrn-10-1",), 0.5)))
    assert method(name, members=2).skip(problem(("wrn-10-1",), 0.5)) is None
    assert method(name).skip(problem(TINY, 0.5)) is None
    with pytest.raises(UsageError, match=r"members.*greater than or equal to 2"):
        method(name, members=1)


@every_method
def test_an_architecture_without_a_width_setting_is_skipped(name: str) -> None:
    rigid = of((Architecture.of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),) * 2, 0.5)
    assert method(name).skip(rigid) == "Sequential, Sequential has no width setting"
    with pytest.raises(UsageError, match=r"does not apply here: Sequential"):
        npasbench.share(nn.Sequential(nn.Linear(64, 10)), name, budget=0.5, members=2)


# Deep ensembles


def test_the_members_of_a_deep_ensemble_share_nothing() -> None:
    network = built("deep-ensemble")
    assert isinstance(network, Members)
    sizes = [count(member).total for member in network.members]
    assert sizes == [count(network).total // 3] * 3
    step(method("deep-ensemble"), network, batch())


def test_listed_members_are_the_narrowed_ones_of_the_task() -> None:
    network, narrow = built("deep-ensemble", of="listed"), built("narrow")
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in narrow.state_dict().items()}


def test_listed_members_have_no_number() -> None:
    with pytest.raises(UsageError, match="leave members out"):
        method("deep-ensemble", of="listed", members=3)


# BatchEnsemble, section 3.1


class Layers(nn.Module):
    """One of each kind of layer, groups and transposition included."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 4, 3, groups=2, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.transposed = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.classifier = nn.Linear(6, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.transposed(self.norm(self.grouped(self.convolution(inputs))))
        logits: Tensor = self.classifier(maps.mean(dim=(2, 3)))
        return logits


def rank_one(init: str = "normal") -> tuple[Members, SharedNetwork]:
    torch.manual_seed(0)
    dense = Members([Layers() for _ in range(3)])
    layers = shareable_layers(dense)
    generator = RankOneWeights(dense, layers, 3, init, torch.Generator().manual_seed(1))
    return dense, SharedNetwork(dense, layers, generator)


def test_a_member_computes_what_the_paper_writes_inputs_times_s_and_outputs_times_r() -> None:
    _, network = rank_one()
    generator = network.generator
    assert isinstance(generator, RankOneWeights)
    logits = network.eval()(images())
    for k, member in enumerate(network.architecture.members):  # type: ignore[union-attr,arg-type]
        maps = images()
        calls: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
            ("convolution", functional.conv2d, {"padding": 1}),
            ("grouped", functional.conv2d, {"groups": 2, "stride": 2}),
            ("transposed", functional.conv_transpose2d, {"groups": 2}),
            ("classifier", functional.linear, {}),
        ]
        for index, (layer, call, how) in enumerate(calls):
            if layer == "classifier":
                maps = maps.mean(dim=(2, 3))
            shared, factors = generator.bank[index], generator.scales[index][k]
            rows, columns = factors[: shared.shape[0]], factors[shared.shape[0] :]
            into, out = (rows, columns) if layer == "transposed" else (columns, rows)
            after = [1] * (maps.dim() - 2)
            assert len(into) == maps.shape[1]
            maps = call(maps * into.view(-1, *after), shared, **how) * out.view(-1, *after)
            maps = maps + member.get_submodule(layer).bias.view(-1, *after)
            if layer == "grouped":
                maps = member.norm(maps)
        assert torch.allclose(maps, logits[k], atol=1e-5)


def test_all_members_share_one_tensor_a_layer_which_is_the_first_members_own() -> None:
    torch.manual_seed(0)
    first = Layers()
    _, network = rank_one()
    assert torch.equal(network.generator.bank[0], first.convolution.weight)  # type: ignore[index,arg-type]
    by_kind = count(network).by_kind
    weights = sum(p.numel() for name, p in first.named_parameters() if "bias" not in name and "norm" not in name)
    assert by_kind["bank"] == weights
    assert by_kind["scales"] == 3 * sum((1 + 6, 6 + 4, 4 + 6, 6 + 10))
    assert by_kind["norm"] == 3 * 8


def test_factors_start_as_signs_or_around_one_and_are_not_decayed() -> None:
    signs = built("batch-ensemble").generator.scales  # type: ignore[union-attr]
    assert {float(value) for one in signs for value in one.detach().flatten().tolist()} == {-1.0, 1.0}  # type: ignore[union-attr]
    normal = torch.cat([one.detach().flatten() for one in built("batch-ensemble", init="normal").generator.scales])  # type: ignore[union-attr]
    assert abs(float(normal.mean()) - 1) < 0.1
    assert abs(float(normal.std()) - 0.5) < 0.1
    network = built("batch-ensemble")
    undecayed = [g["params"] for g in method("batch-ensemble").parameter_groups(network) if g.get("weight_decay") == 0]
    assert [id(p) for p in undecayed[0]] == [id(p) for p in network.generator.scales]  # type: ignore[union-attr]


@pytest.mark.parametrize("split", [False, True])
def test_the_loss_is_the_sum_of_the_members_on_what_they_see(split: bool) -> None:
    network, given = built("batch-ensemble").eval(), batch(8)
    losses = method("batch-ensemble", split=split).losses(network, given, nn.CrossEntropyLoss())
    seen = [slice(0, 3), slice(3, 6), slice(6, 8)] if split else [slice(0, 8)] * 3
    expected = [
        functional.cross_entropy(own[part], given.labels[part])
        for own, part in zip(network(given.inputs), seen, strict=True)
    ]
    assert torch.allclose(torch.stack(list(losses)), torch.stack(expected), atol=1e-5)


def test_a_mini_batch_smaller_than_the_ensemble_is_split_without_empty_parts() -> None:
    network = built("batch-ensemble").eval()
    losses = list(method("batch-ensemble", split=True).losses(network, batch(2), nn.CrossEntropyLoss()))
    assert len(losses) == 2
    assert all(bool(torch.isfinite(loss)) for loss in losses)


def test_members_one_after_another_give_the_joint_gradient() -> None:
    apart, joint = built("batch-ensemble").eval(), built("batch-ensemble").eval()
    for loss in method("batch-ensemble").losses(apart, batch(), nn.CrossEntropyLoss()):
        loss.backward()
    with torch.enable_grad():
        torch.stack([nn.CrossEntropyLoss()(one, batch().labels) for one in joint(images())]).sum().backward()
    for (name, one), other in zip(apart.named_parameters(), joint.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name


# MIMO, sections 2 and 3.5


def mimo(**knobs: Any) -> tuple[Mimo, MimoNetwork]:
    one, network = method("mimo", **knobs), built("mimo", **knobs)
    assert isinstance(one, Mimo)
    assert isinstance(network, MimoNetwork)
    return one, network


@pytest.mark.parametrize("members", [TINY, TRANSFORMERS])
def test_the_first_layer_takes_all_inputs_and_the_last_gives_all_predictions(members: tuple[str, ...]) -> None:
    network, number = built("mimo", members), len(members)
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    first, last = layers[0], layers[-1]
    assert first.weight.shape[1] == number * (8 if isinstance(first, nn.Linear) else 1)
    assert isinstance(last, nn.Linear)
    assert last.out_features == last.weight.shape[0] == 10 * number
    assert network.eval()(images()).shape == (number, 6, 10)


def test_at_test_time_every_member_sees_the_same_input() -> None:
    _, network = mimo()
    side_by_side = network.eval().network(images().repeat(1, 3, 1, 1))
    assert torch.equal(network(images()), torch.stack(side_by_side.split(10, dim=1)))


def test_the_outputs_of_the_first_layer_start_with_the_variance_they_had() -> None:
    wide = built("mimo", budget=4.0).network.stem.weight.detach()  # type: ignore[union-attr,operator]
    assert float(wide.std()) == pytest.approx((2 / (9 * 3)) ** 0.5, rel=0.2)


@pytest.mark.parametrize("repetition", [1, 3])
def test_every_member_sees_every_example_equally_often_in_an_order_of_its_own(repetition: int) -> None:
    one, _ = mimo(repeat=0.0, batch_repetition=repetition)
    torch.manual_seed(0)
    orders = one.orders(50, 3)
    assert orders.shape == (3, 50 * repetition)
    assert all(torch.equal(order.bincount(), torch.full((50,), repetition)) for order in orders)
    assert float((orders[0] == orders[1]).float().mean()) < 0.15


@pytest.mark.parametrize(("repeat", "low", "high"), [(1.0, 1.0, 1.0), (0.6, 0.55, 0.67), (0.0, 0.0, 0.03)])
def test_inputs_are_repeated_with_the_probability_asked_for(repeat: float, low: float, high: float) -> None:
    one, _ = mimo(repeat=repeat)
    torch.manual_seed(0)
    orders = one.orders(500, 3)
    assert low <= float(((orders[0] == orders[1]) & (orders[1] == orders[2])).float().mean()) <= high
    assert all(torch.equal(order.bincount(), torch.full((500,), 2)) for order in orders)


def test_each_member_learns_the_labels_of_its_own_inputs() -> None:
    one, network = mimo(batch_repetition=1)
    given = batch(10)
    torch.manual_seed(4)
    [loss] = one.losses(network.eval(), given, nn.CrossEntropyLoss())
    torch.manual_seed(4)
    orders = one.orders(10, 3)
    logits = network.network(torch.cat([given.inputs[order] for order in orders], dim=1)).view(10, 3, 10)
    each = [functional.cross_entropy(logits[:, k], given.labels[order]) for k, order in enumerate(orders)]
    assert torch.allclose(loss, torch.stack(each).sum())


def test_what_it_draws_comes_again_when_training_resumes() -> None:
    card = Registry().card("digits15-ensemble")
    recipe = card.recipe.model_copy(update={"epochs": 2})
    data = load(card.data, seed=1)

    def training() -> Training:
        one, network = mimo()
        return Training(one, network, recipe, Batches(data, card.data, 50, 1, torch.device("cpu")), torch.device("cpu"))

    whole, resumed = training(), training()
    torch.manual_seed(5)
    whole.run(Watcher(stop=None, state=[]))
    states: list[dict[str, Any]] = []
    torch.manual_seed(5)
    interrupted = training()
    with pytest.raises(InterruptedError):
        interrupted.run(Watcher(stop=2, state=states))
    torch.manual_seed(99)
    resumed.load(states[0])
    resumed.run(Watcher(stop=None, state=[]))
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


@dataclasses.dataclass
class Watcher:
    """Keeps the state after step ``stop`` and ends the training there."""

    stop: int | None
    state: list[dict[str, Any]]

    def after_epoch(self, training: Training, row: object) -> None:
        """Nothing."""

    def after_step(self, training: Training) -> None:
        if training.step == self.stop:
            self.state.append(training.state())
            raise InterruptedError


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.classifier = nn.Linear(4, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.table(inputs.long().flatten(1)).mean(dim=1))
        return logits


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.log_softmax(self.classifier(inputs.flatten(1)), dim=1)


class Twice(nn.Module):
    """Adds the inputs to maps of them, so that more inputs fit nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.classifier = nn.Linear(128, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier((self.convolution(inputs) + inputs.repeat(1, 2, 1, 1)).flatten(1))
        return logits


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Tokens, r"the first layer of toy \(Embedding\) does not read the inputs' channels"),
        (Squeezed, r"the logits of toy do not come out of a linear layer"),
        (Twice, r"toy cannot take inputs of shape \[2, 8, 8\] \(.*\)"),
        (nn.Flatten, r"toy has no convolution and no linear layer"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 8), nn.Linear(1, 10)),
            r"the logits of toy do not come out of a linear layer",
        ),
    ],
)
def test_a_network_that_cannot_take_more_inputs_is_skipped_with_the_reason(
    make: Callable[[], nn.Module], said: str
) -> None:
    asked = Problem((plain(make),) * 2, Budget("1", 10_000, 10_000), 10, (1, 8, 8))
    assert re.fullmatch(said, str(Mimo().skip(asked)), flags=re.DOTALL)


def test_a_single_linear_layer_may_be_first_and_last() -> None:
    single = plain(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert find_ends(single, 3, 10, (1, 8, 8)) == ("1", "1")
