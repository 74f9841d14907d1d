"""Structured pruning: channels that go together, which of them go, and training that goes on with what is left."""

import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from npasbench.budget import Budget, resolve
from npasbench.building import audited, build
from npasbench.card import Entry
from npasbench.conformance import check_method
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, MethodError, MissingLibrary, UsageError
from npasbench.measuring.cost import multiply_adds
from npasbench.measuring.count import count
from npasbench.method import Findings, Method
from npasbench.networks import architecture
from npasbench.plan import plan_entry
from npasbench.problem import Architecture, Problem
from npasbench.pruning.channels import ChannelGroup, Slice, remove
from npasbench.pruning.channels_choice import counting, kept_channels, l1_norms, most_channels
from npasbench.pruning.channels_graph import channel_groups, of_members
from npasbench.pruning.channels_network import ThinnedNetwork
from npasbench.registry import Registry, create
from npasbench.running import record
from npasbench.running.certify import certify, load_trained
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.sharing_call import export, share
from npasbench.training.loop import EpochRow, Training

pytest.importorskip("torch_pruning")

CPU, DIGITS = torch.device("cpu"), (1, 8, 8)
WRN = architecture("wrn-10-1", classes=10, input_shape=DIGITS)
DENSE = 77_562


def method(**knobs: Any) -> Method:
    return create(Registry().method("channel-l1"), knobs, "channel-l1")


def problem(budget: float | int, one: Architecture = WRN, excluded: tuple[str, ...] = ()) -> Problem:
    dense = count(one.create()).total
    given_budget = resolve(budget, dense) if isinstance(budget, float) else Budget("", budget, dense)
    return Problem((one,), given_budget, 10, DIGITS, excluded)


def built(asked: Problem, seed: int = 0, **knobs: Any) -> ThinnedNetwork:
    network = audited(method(**knobs), asked, Findings(), seed)
    assert isinstance(network, ThinnedNetwork)
    return network


def training(network: nn.Module, optimizer: str = "sgd", epochs: int = 4, **knobs: Any) -> Training:
    card = Registry().card("digits15-wrn-10-1" if optimizer == "sgd" else "digits15-transformer")
    recipe = card.recipe.model_copy(update={"epochs": epochs})
    batches = Batches(load(card.data, seed=0), card.data, 50, 0, CPU)
    return Training(method(**knobs), network, recipe, batches, CPU)


class Watch:
    """What happens after each step; stops where it is told to."""

    def __init__(self, stop: int = 10**9) -> None:
        self.stop = stop

    def after_epoch(self, training: Training, row: EpochRow) -> None: ...

    def after_step(self, training: Training) -> None:
        if training.step == self.stop:
            raise StopIteration


def toy() -> nn.Sequential:
    """Two channels, each read in four places."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(8, 10)
    )


# Which channels go together


def test_layers_whose_outputs_are_added_share_their_channels() -> None:
    found = {group.name: group.channels for group in channel_groups(WRN, DIGITS)}
    assert found == {
        "stem": 16,  # with the second convolution of the first stage
        "stages.0.0.conv1": 16,
        "stages.1.0.conv1": 32,
        "stages.1.0.conv2": 32,
        "stages.2.0.conv1": 64,
        "stages.2.0.conv2": 64,
    }
    stem = next(group for group in channel_groups(WRN, DIGITS) if group.name == "stem")
    makers = {one.module for one in stem.slices if one.role == "makes"}
    readers = {one.module for one in stem.slices if one.role == "reads"}
    assert makers == {"stem", "stages.0.0.conv2"}
    assert readers == {"stages.0.0.conv1", "stages.1.0.conv1", "stages.1.0.shortcut"}


def test_a_flattened_channel_takes_all_its_places_with_it() -> None:
    (group,) = channel_groups(Architecture.of(toy()), DIGITS)
    assert group.name == "0"
    (reads,) = (one for one in group.slices if one.role == "reads")
    assert reads.positions == ((0, 1, 2, 3), (4, 5, 6, 7))


class Branches(nn.Module):
    """A convolution with two groups, a GroupNorm, a depthwise convolution, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(1, 4, 3, padding=1)
        self.pairs = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(4, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.plain = nn.Conv2d(6, 5, 1)
        self.depthwise = nn.Conv2d(5, 5, 3, groups=5)
        self.head = nn.Linear(5, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.wide(self.pairs(self.grouped(images))))
        logits: Tensor = self.head(self.depthwise(self.plain(maps)).mean((2, 3)))
        return logits


def test_what_cannot_be_cut_keeps_its_channels_and_so_do_logits_and_inputs() -> None:
    (group,) = channel_groups(Architecture.of(Branches()), DIGITS)
    assert group.name == "plain"
    assert {(one.module, one.tensor, one.dim) for one in group.slices} == {
        ("plain", "weight", 0),
        ("plain", "bias", 0),
        ("depthwise", "weight", 0),
        ("depthwise", "bias", 0),
        ("head", "weight", 1),
    }


def test_a_network_that_the_library_cannot_follow_or_that_has_no_channels_is_skipped_with_the_reason() -> None:
    split = architecture("torchvision:shufflenet_v2_x1_0", classes=10, input_shape=(3, 32, 32))
    shuffled = Problem((split,), resolve(0.5, count(split.create()).total), 10, (3, 32, 32))
    assert "Torch-Pruning cannot follow its channels (ZeroDivisionError" in (method().skip(shuffled) or "")
    flat = Architecture.of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert method().skip(problem(0.5, flat)) == "no channel of it can be removed"


def test_excluded_layers_stay_as_they_are() -> None:
    names = {group.name for group in channel_groups(WRN, DIGITS, ("stages.2.*",))}
    assert names == {"stem", "stages.0.0.conv1", "stages.1.0.conv1"}


def test_without_the_library_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'npasbench\[pruning\]'"):
        method().skip(problem(0.5, Architecture.of(toy())))
    with pytest.raises(MissingLibrary, match=r"pip install 'npasbench\[pruning\]'"):
        build(method(), problem(0.5, Architecture.of(toy())), Findings(), 0)


def test_the_python_call_is_told_to_use_the_harness() -> None:
    with pytest.raises(UsageError, match="npasbench run"):
        share(toy(), "channel-l1", budget=0.5)


NETWORKS = [
    ("wrn-10-1", (1, 8, 8), 0.99),
    ("row-transformer", (1, 8, 8), 0.99),
    ("timm:resnet18", (3, 32, 32), 0.999),
    ("efficientnet_b0", (3, 32, 32), 0.999),
    pytest.param("torchvision:densenet121", (3, 32, 32), 0.999, marks=pytest.mark.slow),
    pytest.param("timm:deit_small_patch16_224", (3, 32, 32), 0.999, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "shape", "fills"), NETWORKS)
def test_networks_of_many_kinds_get_as_small_as_a_tenth_and_still_train(
    name: str, shape: tuple[int, ...], fills: float
) -> None:
    one = architecture(name, classes=10, input_shape=shape)
    network = one.create()
    groups, dense = channel_groups(one, shape), count(network).total
    size, norms = counting(network, groups), l1_norms(network, groups)
    assert size([group.channels for group in groups]) == dense
    numbers = most_channels(size, groups, norms, dense // 10, "layer")
    remove(network, groups, kept_channels(groups, norms, numbers))
    assert fills * dense / 10 <= count(network).total == size(numbers) <= dense // 10
    network.train()(torch.randn(2, *shape)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters())


# What removing does


def test_removing_a_channel_takes_a_slice_out_of_every_tensor() -> None:
    network = toy()
    groups = channel_groups(Architecture.of(network), DIGITS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    remove(network, groups, {"0": torch.tensor([False, True])})
    after = network.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(after[name], before[name][1:])
    assert torch.equal(after["5.weight"], before["5.weight"][:, 4:])
    assert torch.equal(after["5.bias"], before["5.bias"])
    assert "Conv2d(1, 1" in str(network)
    assert "in_features=4, out_features=10" in str(network)


def test_removing_channels_is_the_same_as_letting_nobody_read_them() -> None:
    torch.manual_seed(0)
    network, groups = WRN.create().eval(), channel_groups(WRN, DIGITS)
    kept = kept_channels(groups, l1_norms(network, groups), [group.channels // 2 for group in groups])
    unread, images = WRN.create().eval(), torch.randn(4, *DIGITS)
    unread.load_state_dict(network.state_dict())
    with torch.no_grad():
        for group in groups:
            for one in (one for one in group.slices if one.role == "reads"):
                places = torch.tensor(one.positions)[~kept[group.name]].flatten()
                unread.get_parameter(one.name).index_fill_(one.dim, places, 0.0)
    remove(network, groups, kept)
    assert torch.allclose(network(images), unread(images), atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"0": torch.zeros(2, dtype=torch.bool)}, "Layer collapse"),
        ({"1": torch.ones(2)}, "this network has"),
        ({}, "0"),
    ],
)
def test_keeping_nothing_or_something_else_is_refused(kept: dict[str, Tensor], words: str) -> None:
    network = toy()
    with pytest.raises(MethodError, match=words):
        remove(network, channel_groups(Architecture.of(network), DIGITS), kept)


# Which channels remain


def test_filters_of_the_smallest_l1_norm_go() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(192, 10))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([-3.0, 1.0, 2.0]).view(3, 1, 1, 1))  # type: ignore[operator]
    groups = channel_groups(Architecture.of(network), DIGITS)
    assert l1_norms(network, groups)["0"].tolist() == [1.5, 0.5, 1.0]
    kept = kept_channels(groups, l1_norms(network, groups), [2])
    assert kept["0"].tolist() == [True, False, True]


def test_layers_whose_outputs_are_added_have_an_equal_say() -> None:
    network = nn.ModuleDict({"a": nn.Linear(1, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    with torch.no_grad():
        network["a"].weight.copy_(torch.tensor([[1.0], [3.0]]))  # type: ignore[operator]
        network["b"].weight.copy_(torch.tensor([[50.0, -10.0], [20.0, 0.0]]))  # type: ignore[operator]
    both = tuple(Slice(name, "weight", 0, ((0,), (1,)), "makes") for name in ("a", "b"))
    # 1/2 and 60/40 have the mean 1, 3/2 and 20/40 too.
    assert l1_norms(network, [ChannelGroup("a", 2, both)])["a"].tolist() == [1.0, 1.0]


def free(number: int) -> ChannelGroup:
    return ChannelGroup(str(number), number, ())


def weighted(costs: Sequence[int]) -> Callable[[Sequence[int]], int]:
    return lambda numbers: sum(cost * number for cost, number in zip(costs, numbers, strict=True))


def test_the_same_share_remains_everywhere_and_then_single_channels_while_any_fits() -> None:
    groups = [free(10), free(20)]
    # 7 of 10 and 14 of 20 cost 98; a channel of the second costs 2 and fits once more.
    assert most_channels(weighted([10, 2]), groups, {}, 98, "layer") == [7, 14]
    assert most_channels(weighted([10, 2]), groups, {}, 101, "layer") == [7, 15]


def test_with_scope_global_norms_are_compared_over_the_network() -> None:
    groups = [free(2), free(3)]
    norms = {"2": torch.tensor([0.9, 0.1]), "3": torch.tensor([2.0, 1.5, 1.2])}
    assert most_channels(weighted([1, 1]), groups, norms, 4, "global") == [1, 3]
    assert most_channels(weighted([1, 1]), groups, norms, 3, "global") == [1, 2]
    assert most_channels(weighted([1, 1]), groups, norms, 2, "global") == [1, 1]


@given(st.floats(0.002, 0.999), st.sampled_from(["layer", "global"]))
@settings(max_examples=20, deadline=None)
def test_the_count_is_within_the_budget_and_no_single_channel_more_would_fit(fraction: float, scope: Any) -> None:
    torch.manual_seed(0)
    network, groups, budget = WRN.create(), channel_groups(WRN, DIGITS), int(fraction * DENSE)
    size, norms = counting(network, groups), l1_norms(network, groups)
    numbers = most_channels(size, groups, norms, budget, scope)
    assert size(numbers) <= budget
    for place, group in enumerate(groups):
        more = [*numbers[:place], numbers[place] + 1, *numbers[place + 1 :]]
        assert numbers[place] == group.channels or size(more) > budget


def test_a_budget_below_one_channel_everywhere_is_refused_with_the_smallest_that_is_enough() -> None:
    with pytest.raises(BudgetTooSmall, match="needs at least 99 parameters") as refused:
        built(problem(98))
    assert refused.value.smallest == 99
    assert built(problem(99)).final == 99


def test_at_the_dense_size_there_is_nothing_to_prune() -> None:
    assert "nothing to prune" in (method().skip(problem(1.0)) or "")
    assert method().skip(problem(0.99)) is None


# Training


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_training_is_dense_until_its_share_and_small_after_it(scope: str) -> None:
    network = built(problem(0.1), scope=scope)
    one = training(network, at=0.5, scope=scope)
    with pytest.raises(StopIteration):
        one.run(Watch(stop=5))
    assert count(network).total == DENSE
    one.run(Watch())
    assert 0.95 * 7756 < count(network).total <= 7756
    assert count(network).total == method().final_count(network) == built(problem(0.1), scope=scope).final


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_how_many_channels_remain_where_is_known_from_the_start_and_the_same_for_all_seeds(scope: str) -> None:
    first, other = built(problem(0.1), scope=scope), built(problem(0.1), seed=1, scope=scope)
    assert first.numbers == other.numbers
    before = list(first.numbers)
    with torch.no_grad():
        first.architecture.get_parameter("stages.2.0.conv1.weight").view(64, -1)[:60] *= 1e-3
    sizes = {name: p.shape for name, p in method(scope=scope).final_network(other).named_parameters()}
    first.thin()
    assert first.numbers == before
    assert {name: p.shape for name, p in first.named_parameters()} == sizes
    assert bool(first.kept["stages.2.0.conv1"][60:].all())  # the norms of now say which remain


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_under_bank_accounting_the_bank_is_what_the_budget_limits(scope: str) -> None:
    asked = dataclasses.replace(problem(0.1), budget=Budget("", 7000, DENSE, "bank"))
    network = built(asked, scope=scope)
    network.thin()
    assert 6900 < count(network).bank_params <= 7000 < count(network).total == network.final
    size = counting(network.architecture, (), "bank")
    assert size([]) == count(network).bank_params


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_of_what_remains_goes_on(optimizer: str) -> None:
    network = built(problem(0.1))
    one = training(network, optimizer, at=1.0)
    with pytest.raises(StopIteration):
        one.run(Watch(stop=2))
    name = "momentum_buffer" if optimizer == "sgd" else "exp_avg_sq"
    weight = network.architecture.get_parameter("stages.1.0.conv2.weight")  # [32, 32, 3, 3]
    before = one.optimizer.state[weight][name].clone()
    method(at=0.01).after_epoch(network, one)
    rows, columns = network.kept["stages.1.0.conv2"], network.kept["stages.1.0.conv1"]
    now = network.architecture.get_parameter("stages.1.0.conv2.weight")
    assert 0 < now.shape[0] < 32
    assert torch.equal(one.optimizer.state[now][name], before[rows][:, columns])
    assert {id(p) for group in one.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in network.parameters()
    }
    assert len(one.optimizer.state) == len(list(network.parameters()))


@pytest.mark.parametrize(("optimizer", "stop"), [("sgd", 2), ("sgd", 7), ("adamw", 7)])
def test_resumed_before_and_after_channels_have_gone_it_ends_bit_identical(optimizer: str, stop: int) -> None:
    whole = built(problem(0.1))
    training(whole, optimizer, at=0.5).run(Watch())
    first = training(built(problem(0.1)), optimizer, at=0.5)
    with pytest.raises(StopIteration):
        first.run(Watch(stop))
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    rest = built(problem(0.1))
    second = training(rest, optimizer, at=0.5)
    second.load(torch.load(saved, weights_only=True))
    assert count(rest).total == (DENSE if stop == 2 else count(whole).total)
    second.run(Watch())
    assert all(torch.equal(one, rest.kept[name]) for name, one in whole.kept.items())
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in whole.state_dict().items())


def test_channels_cannot_be_removed_twice() -> None:
    network = built(problem(0.1))
    network.thin()
    with pytest.raises(MethodError, match="already"):
        network.thin()


def test_members_of_an_ensemble_lose_channels_each_on_its_own() -> None:
    members = (WRN, architecture("wrn-16-1", classes=10, input_shape=DIGITS))
    dense = sum(count(one.create()).total for one in members)
    network = built(Problem(members, resolve(0.25, dense), 10, DIGITS))
    assert {group.name.split(".")[1] for group in network.groups} == {"0", "1"}
    network.thin()
    assert 0.98 * dense / 4 < count(network).total <= dense / 4
    assert network(torch.randn(2, *DIGITS)).shape == (2, 2, 10)
    assert of_members(members, DIGITS, ("members.1.*",)) == tuple(
        group for group in network.groups if group.name.startswith("members.0.")
    )


@pytest.mark.parametrize("task", ["digits15-wrn-10-1", "digits15-transformer"])
def test_channel_l1_keeps_the_contract(task: str) -> None:
    verdicts = check_method("channel-l1", task=task)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_run_stores_costs_and_exports_the_smaller_network(
    scope: str, small_card: Callable[..., Path], tmp_path: Path
) -> None:
    entry = Entry(label="channel-l1", method="channel-l1", set={"scope": scope})
    specs = plan_entry(str(small_card(2)), entry, Registry(), budgets=["0.1"], seeds=(0, 1))
    ways = Ways(lambda _: None, lambda: False, lambda directory: certify(directory, CPU))
    work(specs, tmp_path, Options(), ways)
    spec = specs[1]  # its costs were measured by the other
    directory = RunDirectory.of(tmp_path, spec)
    result = record.read(directory.result_file)
    assert result.state == "done"
    assert result.certificate is not None
    assert result.certificate.passed
    assert result.certificate.floats == result.parameters["total"] <= result.budget_parameters
    assert result.side_information_bits == 16 + 16 + 32 + 32 + 64 + 64
    # MACs of the dense network are 1,185,408; its numbers alone take 310,000 bytes.
    assert (result.costs["macs"] or 0) < (200_000 if scope == "layer" else 400_000)
    assert directory.model_file.stat().st_size < 50_000
    _, network, _ = load_trained(directory, spec, CPU)
    images, plain = torch.randn(8, *DIGITS), export(network)
    assert count(plain).total == result.parameters["total"]
    assert result.costs["macs"] == multiply_adds(plain.eval(), images[:1])[0]
    assert torch.equal(network.eval()(images), plain.eval()(images))
    assert json.loads((directory.path / "spec.json").read_text())["knobs"] == {"at": 0.2, "scope": scope}
