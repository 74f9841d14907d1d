"""Ensembles: members trained one after another, told apart in results, costed by subset, exported alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

import npasbench
from npasbench.api import (
    Batch,
    Criterion,
    Findings,
    LayerSpec,
    Members,
    Method,
    Problem,
    SharedNetwork,
    SharingMethod,
    WeightGenerator,
    one_by_one,
)
from npasbench.brief_training import Enough, Quiet
from npasbench.budget import resolve
from npasbench.building import audited
from npasbench.card import Card, Entry
from npasbench.commands.export import export as export_command
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import RunError, UsageError
from npasbench.measuring.live_bytes import LiveBytes
from npasbench.measuring.members import measure_members, subsets
from npasbench.networks import architecture
from npasbench.plan import RunSpec, plan_entry
from npasbench.registry import Registry, create
from npasbench.running import record
from npasbench.running.certify import certify, load_trained
from npasbench.running.members import member_results
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.sharing.layers import shareable_layers
from npasbench.training.evaluate import diversity, mean_prediction, predict, predict_each
from npasbench.training.loop import Training
from npasbench.training.recipe import autocast

NAMES = ("wrn-10-1", "wrn-16-1")
CPU = torch.device("cpu")
CRITERION = nn.CrossEntropyLoss()
METRICS = ("accuracy", "nll", "ece")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(budget: float = 0.5, names: tuple[str, ...] = NAMES, excluded: tuple[str, ...] = ()) -> Problem:
    members = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in names)
    dense = sum(npasbench.count(member.create()).total for member in members)
    return Problem(members, resolve(budget, dense), 10, (1, 8, 8), excluded)


def ensemble(name: str, *, excluded: tuple[str, ...] = (), **knobs: Any) -> tuple[Method, nn.Module]:
    method = create(Registry().method(name), knobs, name)
    return method, audited(method, problem(1 if name == "dense" else 0.5, excluded=excluded), Findings(), 0)


def batch(size: int = 6, dtype: torch.dtype = torch.float64) -> Batch:
    rng = torch.Generator().manual_seed(1)
    return Batch(torch.rand(size, 1, 8, 8, generator=rng, dtype=dtype), torch.arange(size) % 10, torch.arange(size))


def jointly(network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
    """The plain form: one forward of all members, one backward."""
    yield torch.stack([criterion(logits, batch.labels) for logits in network(batch.inputs)]).sum()


Losses = Callable[[nn.Module, Batch, Criterion], Iterator[Tensor]]


def gradients(network: nn.Module, losses: Losses, given: Batch) -> tuple[float, list[Tensor]]:
    """The summed loss of one step, and the gradient of each parameter, zeros where it has none."""
    network.train().zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses(network, given, CRITERION):
        loss.backward()
        total += float(loss.detach())
    return total, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def assert_same_step(method: Method, network: nn.Module, rtol: float = 1e-6) -> None:
    network = network.double()
    twin = copy.deepcopy(network)
    loss, found = gradients(network, method.losses, batch())
    joint_loss, expected = gradients(twin, jointly, batch())
    assert loss == pytest.approx(joint_loss, rel=1e-9)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-12)
    for (name, one), (_, other) in zip(network.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.equal(one, other), name


# Training, one member after another


@pytest.mark.parametrize("name", ["dense", "roast", "naive", "template-bank", "hashed", "ssn", "magnitude"])
def test_one_member_after_another_gives_the_joint_gradient_and_running_statistics(name: str):
    assert_same_step(*ensemble(name))


def test_layers_that_are_not_shared_and_frozen_weights_are_no_matter():
    method, network = ensemble("roast", excluded=("members.0.*",))
    norm = next(m for m in network.architecture.members[1].modules() if isinstance(m, nn.BatchNorm2d))
    norm.weight.requires_grad_(False)
    assert_same_step(method, network)
    method, network = ensemble("roast")
    network.generator.requires_grad_(False)
    assert_same_step(method, network)


class Counted(WeightGenerator):
    """A vector of its own for each layer, of which it counts how often it is asked."""

    def __init__(self, layers: list[LayerSpec]) -> None:
        super().__init__()
        self.layers, self.calls = layers, 0
        self.bank = nn.ParameterList([torch.randn(layer.shape) * layer.std for layer in layers])

    def forward(self) -> dict[str, Tensor]:
        self.calls += 1
        return {layer.name: 1.0 * weight for layer, weight in zip(self.layers, self.bank, strict=True)}


class CountedMethod(SharingMethod):
    """Hands out :class:`Counted`."""

    def generator(self, layers, parameters, rng):  # type: ignore[no-untyped-def]
        return Counted(list(layers))


def counted(members: list[nn.Module]) -> SharedNetwork:
    network = Members(members)
    layers = shareable_layers(network)
    return SharedNetwork(network, layers, Counted(list(layers)))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


def test_the_generator_is_asked_once_a_step_and_has_its_gradient_after_the_last_loss():
    network = counted([small(), small(), small()]).double().train()
    network.generator.calls = 0
    for number, loss in enumerate(CountedMethod().losses(network, batch(), CRITERION)):
        assert all(p.grad is None for p in network.generator.parameters()), number
        loss.backward()
    assert number == 2
    assert all(p.grad is not None for p in network.generator.parameters())
    assert network.generator.calls == 1


def test_a_weight_that_no_member_uses_gets_no_gradient():
    class Lazy(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return self[1](inputs.flatten(1))

    network = counted([small(), Lazy(nn.Linear(64, 10), nn.Linear(64, 10))])
    gradients(network, CountedMethod().losses, batch(dtype=torch.float32))
    unused = [layer.name for layer in network.layers].index("members.1.0.weight")
    assert [p.grad is None for p in network.generator.bank] == [k == unused for k in range(len(network.layers))]


def test_a_module_that_is_in_two_members_takes_its_weight_in_both():
    trunk = nn.Linear(64, 8)
    members = [nn.Sequential(nn.Flatten(), trunk, nn.Linear(8, 10)) for _ in range(2)]
    assert_same_step(CountedMethod(), counted(members))


def test_a_weight_that_is_tied_within_a_member_is_tied_when_it_runs_alone():
    member = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    member[2].weight = member[1].weight
    network = counted([member, small()])
    assert len(network.layers) == 4
    assert_same_step(CountedMethod(), network)


@pytest.mark.parametrize("name", ["roast", "dense", "magnitude"])
def test_only_one_members_activations_are_held_at_a_time(name: str):
    method, network = ensemble(name)
    peaks = []
    for losses in (method.losses, jointly):
        given, twin = batch(64, torch.float32), copy.deepcopy(network)
        with LiveBytes() as live:
            gradients(twin, losses, given)
        peaks.append(live.peak)
    assert peaks[0] < 0.8 * peaks[1]


def test_under_bfloat16_the_gradients_are_those_of_the_joint_form_and_the_generators_backward_is_not_autocast():
    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, bank: Tensor) -> Tensor:
            return bank.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            under.append(torch.is_autocast_enabled("cpu"))
            return gradient

    class Generator(Counted):
        def forward(self) -> dict[str, Tensor]:
            return {name: Watched.apply(weight) for name, weight in super().forward().items()}

    under: list[bool] = []
    network = Members([small(), small()])
    layers = shareable_layers(network)
    shared = SharedNetwork(network, layers, Generator(list(layers)))
    twin = copy.deepcopy(shared)
    recipe = card().recipe.model_copy(update={"precision": "bfloat16"})
    training = Training(CountedMethod(), shared, recipe, batches(), CPU)
    _, found = gradients(shared, lambda network, given, _: training.losses(network, given), batch(dtype=torch.float32))
    with autocast(training.recipe, CPU):
        losses = list(jointly(twin.train(), batch(dtype=torch.float32), CRITERION))
    losses[0].backward()
    for one, other in zip(found, twin.parameters(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other.grad, rtol=0.05, atol=1e-3)
    assert under
    assert not any(under)


def test_a_network_without_members_or_with_members_in_one_piece_takes_the_joint_form():
    class Mimo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 20)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.linear(inputs.flatten(1)).view(-1, 2, 10).transpose(0, 1)

    assert one_by_one(small()) is None
    assert one_by_one(npasbench.share(small(), "roast", budget=0.9)) is None
    assert one_by_one(Mimo()) is None
    assert len(list(CountedMethod().losses(Mimo(), batch(dtype=torch.float32), CRITERION))) == 1
    assert_same_step(CountedMethod(), Mimo())


def test_losses_can_be_looked_at_without_gradients():
    method, network = ensemble("roast")
    with torch.no_grad():
        losses = [float(loss) for loss in method.losses(network.double().train(), batch(), CRITERION)]
    joint_loss, _ = gradients(network, jointly, batch())
    assert sum(losses) == pytest.approx(joint_loss)


def test_in_evaluation_members_run_on_weights_that_are_kept():
    network = counted([small(), small()]).eval()
    inputs = batch(dtype=torch.float32).inputs
    with torch.no_grad():
        expected = network(inputs)
        network.generator.calls = 0
        apart = one_by_one(network)
        assert apart is not None
        with apart as members:
            assert torch.equal(torch.stack([member(inputs) for member in members]), expected)
    assert network.generator.calls == 0


# What subsets predict, and how members differ


def log_probabilities(members: int = 3, examples: int = 40) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(5)
    each = (2 * torch.randn(members, examples, 10, generator=rng)).log_softmax(-1)
    return each, torch.randint(10, (examples,), generator=rng)


def test_a_subset_predicts_by_the_mean_probability_of_its_members():
    each, labels = log_probabilities()
    torch.testing.assert_close(mean_prediction(each[[0, 2]]).exp(), (each[0].exp() + each[2].exp()) / 2)
    assert torch.equal(mean_prediction(each[1]), each[1])
    costs = measure_members(Members([nn.Flatten()] * 3), torch.zeros(1, 10))
    members, found = member_results(each, labels, METRICS, costs)
    for one in found:
        accuracy = (each[one.members].exp().mean(0).argmax(1) == labels).double().mean()
        assert one.metrics["accuracy"] == pytest.approx(float(accuracy))
        assert set(one.metrics) == {"accuracy", "nll", "ece"}
    assert [found[k].metrics for k in range(3)] == [member.metrics for member in members]


def test_diversity_is_the_mean_disagreement_over_the_ensembles_error():
    each, labels = log_probabilities()
    classes = each.argmax(-1)
    pairs = [(classes[0] != classes[1]), (classes[0] != classes[2]), (classes[1] != classes[2])]
    error = 1 - float((each.exp().mean(0).argmax(1) == labels).double().mean())
    assert diversity(each, labels) == pytest.approx(sum(float(p.double().mean()) for p in pairs) / 3 / error)
    assert diversity(each[[0, 0]], labels) == 0


def test_diversity_is_none_for_one_network_and_where_the_ensemble_makes_no_error():
    each, labels = log_probabilities()
    assert diversity(each[0], labels) is None
    assert diversity(each[:1], labels) is None
    assert diversity(each, each.exp().mean(0).argmax(1)) is None


def test_up_to_six_members_have_all_their_subsets_and_more_a_chain_from_the_cheapest():
    assert subsets([3, 1]) == [(0,), (1,), (0, 1)]
    assert len(subsets([1] * 6)) == 63
    assert subsets([5, 1, 2, 9, 3, 3, 1])[:4] == [(1,), (1, 6), (1, 2, 6), (1, 2, 4, 6)]
    assert len(subsets([1] * 7)) == 7


def test_members_cost_what_the_architectures_cost_and_subsets_the_sum():
    members = [architecture(name, classes=10, input_shape=(1, 8, 8)).create() for name in NAMES]
    costs = measure_members(Members(members, NAMES), torch.rand(1, 1, 8, 8))
    assert costs.names == NAMES
    alone = [one.macs for one in costs.members]
    assert alone[0] < alone[1]
    assert [one.macs for one in costs.subsets] == [*alone, sum(alone)]
    assert costs.subsets[0] == costs.members[0]
    assert all(one.latency_seconds > 0 for one in costs.subsets)
    assert costs.subsets[2].latency_seconds > costs.members[0].latency_seconds


def test_members_in_one_piece_are_scored_without_costs_and_subsets():
    each, labels = log_probabilities()
    members, found = member_results(each, labels, METRICS, None)
    assert found == []
    assert [(one.name, one.macs, one.latency_seconds) for one in members] == [
        (f"member {k}", None, None) for k in range(3)
    ]
    assert member_results(each[0], labels, METRICS, None) == ([], [])


def test_the_ensemble_predicts_what_the_mean_of_each_gives():
    _, network = ensemble("dense")
    inputs = [batch(dtype=torch.float32).inputs] * 2
    each = predict_each(network, inputs, card().recipe, CPU)
    assert each.shape == (2, 12, 10)
    assert torch.equal(mean_prediction(each), predict(network, inputs, card().recipe, CPU))


# Export of one member


@pytest.mark.parametrize("name", ["roast", "naive", "dense", "magnitude"])
@pytest.mark.parametrize("k", [0, 1])
def test_an_exported_member_is_its_architecture_with_the_same_output(name: str, k: int):
    _, network = ensemble(name)
    plain = architecture(NAMES[k], classes=10, input_shape=(1, 8, 8)).create()
    plain.load_state_dict(npasbench.export(network, member=k).state_dict())
    inputs = batch(dtype=torch.float32).inputs
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(inputs), network.eval()(inputs)[k], rtol=0, atol=1e-6)


def test_members_with_generators_of_their_own_are_exported_plain():
    network = Members([npasbench.share(small(), "roast", budget=0.9), small()])
    plain = npasbench.export(network)
    assert not any(isinstance(module, SharedNetwork) for module in plain.modules())
    inputs = batch(dtype=torch.float32).inputs
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(inputs), network.eval()(inputs))


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (2, "no member 2: the members are counted from 0 to 1"),
        (-1, "-1"),
        ("wrn-10-1", "a whole number"),
        (True, "True"),
    ],
)
def test_a_member_that_there_is_not_is_told_in_a_sentence(member: Any, said: str):
    with pytest.raises(UsageError, match=said):
        npasbench.export(ensemble("dense")[1], member=member)


def test_a_network_without_members_is_told_to_have_none():
    with pytest.raises(UsageError, match="Sequential has no members to be had apart; leave the member out"):
        npasbench.export(small(), member=0)


def test_members_bear_the_names_of_their_architectures_through_sharing_and_export():
    for name in ("dense", "roast", "magnitude"):
        assert npasbench.export(ensemble(name)[1]).names == NAMES
    assert Members([small(), small()]).names == ("member 0", "member 1")


# Whole runs


def card() -> Card:
    return Registry().card("digits15-ensemble")


def batches() -> Batches:
    return Batches(load(card().data, seed=0), card().data, card().recipe.batch_size, 0, CPU)


def planned(method: str, task: str = "digits15-wrn-10-1", budget: str = "0.5", seed: int = 0) -> RunSpec:
    (spec,) = plan_entry(task, Entry(label=method, method=method), Registry(), budgets=[budget], seeds=(seed,))
    return spec


@pytest.fixture(scope="module")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The task with one epoch and two members."""
    text = Registry().files["digits15-ensemble"].read_text(encoding="utf-8").replace("epochs = 60", "epochs = 1")
    path = tmp_path_factory.mktemp("task") / "digits15-ensemble.toml"
    path.write_text(text.replace('["wrn-16-2", "wrn-16-1", "wrn-10-2", "wrn-10-1"]', '["wrn-16-1", "wrn-10-1"]'))
    return str(path)


def done(spec: RunSpec, root: Path) -> tuple[RunDirectory, Record]:
    work([spec], root, Options(), Ways(lambda event: None, certify=lambda directory: certify(directory, CPU)))
    directory = RunDirectory.of(root, spec)
    return directory, record.read(directory.result_file)


@pytest.fixture(scope="module")
def run_of(small_task: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[RunDirectory, Record]]:
    """A finished run of a method, made once."""
    return cache(lambda method: done(planned(method, small_task), tmp_path_factory.mktemp("runs")))


Run = Callable[[str], tuple[RunDirectory, Record]]


@pytest.mark.parametrize("method", ["roast", "magnitude"])
def test_a_run_tells_members_subsets_and_diversity_and_passes_its_certificate(method: str, run_of: Run):
    directory, result = run_of(method)
    assert result.certificate is not None
    assert result.certificate.passed
    assert result.certificate.floats == result.parameters["total"] <= result.budget_parameters
    assert [one.name for one in result.members] == ["wrn-16-1", "wrn-10-1"]
    assert [one.members for one in result.subsets] == [[0], [1], [0, 1]]
    assert sum(one.macs or 0 for one in result.members) == result.costs["macs"] == result.subsets[-1].macs
    assert result.subsets[-1].metrics == {k: v for k, v in result.metrics.items() if k != "diversity"}
    assert result.metrics["diversity"] > 0
    _, network, _ = load_trained(directory, directory.spec(), CPU)
    data = load(directory.spec().task.data, seed=0)
    each = predict_each(network, data.test(500), directory.spec().task.recipe, CPU)
    for k, one in enumerate(result.members):
        assert one.metrics["accuracy"] == pytest.approx(
            float((each[k].argmax(1) == data.test_labels).double().mean()), abs=2e-3
        )


def test_seeds_share_the_costs_of_members_and_what_is_not_whole_is_measured_again(small_task: str, tmp_path: Path):
    _, first = done(planned("narrow", small_task), tmp_path)
    (kept,) = tmp_path.rglob("members-*.json")
    _, second = done(planned("narrow", small_task, seed=1), tmp_path)
    assert [one.latency_seconds for one in second.subsets] == [one.latency_seconds for one in first.subsets]
    kept.write_text('{"names": ["wrn-16-1", "wrn-10-1"], "members": [], "subsets": []}')
    assert len(done(planned("narrow", small_task, seed=2), tmp_path)[1].subsets) == 3
    assert len(json.loads(kept.read_text())["members"]) == 2


def test_the_command_writes_one_member_and_tells_a_wrong_one(run_of: Run):
    directory, result = run_of("roast")
    run = lambda *words: CliRunner().invoke(export_command, [str(directory.path), *words])  # noqa: E731
    said = run("--member", "wrn-10-1")
    assert said.exit_code == 0
    assert "member 1 of wrn-16-1, wrn-10-1, 77,562 parameters" in said.output
    plain = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    plain.load_state_dict(load_file(directory.path / "dense-member1.safetensors"))
    data = load(directory.spec().task.data, seed=0)
    with torch.no_grad():
        accuracy = float((plain.eval()(data.test_inputs).argmax(1) == data.test_labels).double().mean())
    assert accuracy == pytest.approx(result.members[1].metrics["accuracy"], abs=2e-3)
    for word, sentence in (("wrn-10-2", "Unknown member 'wrn-10-2'"), ("2", "There is no member 2"), ("-1", "Unknown")):
        error = run("--member", word).exception
        assert isinstance(error, UsageError)
        assert sentence in str(error)


def test_a_state_taken_between_two_steps_goes_on_to_the_same_bits():
    short = card().recipe.model_copy(update={"epochs": 1})

    def trained(stop_after: int | None) -> dict[str, Tensor]:
        class Stopping(Quiet):
            def after_step(self, training: Training) -> None:
                if training.step == stop_after:
                    self.state = copy.deepcopy(training.state())
                    raise Enough

        begin = lambda: Training(*ensemble("roast"), short, batches(), CPU)  # noqa: E731
        training, observer = begin(), Stopping()
        if stop_after is not None:
            with pytest.raises(Enough):
                training.run(observer)
            training = begin()
            training.load(observer.state)
        training.run(Quiet())
        return training.network.state_dict()

    whole, resumed = trained(None), trained(2)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


# Records


def test_a_record_without_members_is_written_as_ever_and_an_old_one_is_read():
    spec = planned("dense", budget="1")
    content = {
        "schema": 1, "state": "done", "task": "t", "task_version": 1, "task_fingerprint": "f" * 64,
        "fingerprint": "f" * 64, "label": "l",
        "method": "dense", "method_version": 1, "knobs": {}, "seed": 0, "budget": spec.budget, "budget_parameters": 1,
        "dense_parameters": 1,
    }  # fmt: skip
    old = record.parse(content, "here")
    assert (old.members, old.subsets) == ([], [])
    assert not {"members", "subsets"} & set(record.as_json(old))
    each, labels = log_probabilities(2)
    members, _ = member_results(each, labels, METRICS, None)
    new = old.model_copy(update={"members": members})
    assert record.parse(json.loads(record.write_text(new)), "here") == new
    with pytest.raises(RunError, match=r"key 'members\.0\.speed'"):
        record.parse({**content, "members": [{**members[0].model_dump(), "speed": 1}]}, "here")
