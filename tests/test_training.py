"""The training loop, recipes as torch objects, and the measures of the test set."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from npasbench.card import Data, Optimizer, Recipe, Schedule
from npasbench.data.batches import Batches
from npasbench.data.dataset import DataSet
from npasbench.errors import MethodError
from npasbench.method import Batch, Criterion, Findings, Method, Progress
from npasbench.networks import architecture
from npasbench.networks.members import Members
from npasbench.problem import Problem
from npasbench.training.checkpoint import random_states
from npasbench.training.evaluate import calibration_error, correctness_bits, log_probabilities, predict, score
from npasbench.training.loop import EpochRow, Training
from npasbench.training.recipe import autocast, format_inputs, make_criterion, make_optimizer, make_schedule, place

CPU = torch.device("cpu")
SGD = Optimizer(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 10,
        "optimizer": SGD,
        "schedule": Schedule(name="constant"),
        "threads": 1,
    }
    return Recipe(**{**settings, **changes})


def one_weight() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.zeros(1))]}]


def rates(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    """The learning rate of every optimizer step, and the one left at the end."""
    chosen = recipe(epochs=epochs, schedule=schedule)
    optimizer = make_optimizer(one_weight(), chosen)
    moving = make_schedule(optimizer, chosen, steps_per_epoch)
    found = []
    for _ in range(epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        moving.step()
    return [*found, optimizer.param_groups[0]["lr"]]


# Recipes


def test_sgd_is_made_as_the_recipe_says():
    optimizer = make_optimizer(one_weight(), recipe())
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.9, True, 5e-4)


def test_adamw_is_made_as_the_recipe_says():
    optimizer = make_optimizer(one_weight(), recipe(optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05)))
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (1e-3, 0.05)


def test_a_groups_own_weight_decay_wins():
    groups = [*one_weight(), {**one_weight()[0], "weight_decay": 0.0}]
    assert [group["weight_decay"] for group in make_optimizer(groups, recipe()).param_groups] == [5e-4, 0.0]


def test_the_constant_schedule_leaves_the_rate_alone():
    assert rates(Schedule(name="constant"), 2, 3) == pytest.approx([0.1] * 7)


def test_the_step_schedule_multiplies_after_so_many_epochs():
    found = rates(Schedule(name="steps", at=(1, 3), factor=0.5), 4, 2)
    assert found == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025])


def test_the_cosine_schedule_falls_from_the_rate_to_nothing_over_all_steps():
    expected = [0.05 * (1 + math.cos(math.pi * step / 6)) for step in range(7)]
    assert rates(Schedule(name="cosine"), 3, 2) == pytest.approx(expected, abs=1e-9)


def test_the_one_cycle_schedule_rises_to_the_rate_and_ends_near_nothing():
    found = rates(Schedule(name="one-cycle"), 10, 10)
    assert found[0] == pytest.approx(0.1 / 25)
    assert max(found) == pytest.approx(0.1)
    assert found.index(max(found)) == 29
    assert found[99] == pytest.approx(0.1 / 25 / 1e4)


def test_the_one_cycle_schedule_leaves_momentum_alone():
    chosen = recipe(schedule=Schedule(name="one-cycle"))
    optimizer = make_optimizer(one_weight(), chosen)
    moving = make_schedule(optimizer, chosen, 5)
    for _ in range(9):
        optimizer.step()
        moving.step()
        assert optimizer.param_groups[0]["momentum"] == 0.9


def test_warmup_rises_linearly_and_then_the_schedule_begins():
    found = rates(Schedule(name="constant", warmup=2), 4, 2)
    assert found == pytest.approx([0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = rates(Schedule(name="cosine", warmup=1), 3, 2)
    assert found[2:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(5)], abs=1e-9)


def test_epochs_of_the_step_schedule_count_from_the_start_of_training_even_after_a_warmup():
    found = rates(Schedule(name="steps", at=(2,), factor=0.5, warmup=1), 3, 2)
    assert found[2:] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "constant"])
def test_the_shortest_training_of_one_step_has_a_schedule(name: str):
    assert all(rate >= 0 for rate in rates(Schedule(name=name), 1, 1))


def test_the_criterion_is_cross_entropy_with_the_recipes_label_smoothing():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = -(logits.log_softmax(1) * (0.9 * nn.functional.one_hot(labels, 4) + 0.1 / 4)).sum(1).mean()
    assert torch.allclose(make_criterion(recipe(label_smoothing=0.1))(logits, labels), expected)


def test_bfloat16_runs_under_autocast_and_float32_does_not():
    linear, inputs = nn.Linear(3, 3), torch.randn(2, 3)
    with autocast(recipe(precision="bfloat16"), CPU):
        assert linear(inputs).dtype == torch.bfloat16
    with autocast(recipe(), CPU):
        assert linear(inputs).dtype == torch.float32


def test_channels_last_is_given_to_network_and_images_and_to_nothing_else():
    chosen = recipe(memory_format="channels-last")
    network = place(nn.Conv2d(3, 4, 3), chosen, CPU)
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert format_inputs(torch.randn(2, 3, 4, 4), chosen).is_contiguous(memory_format=torch.channels_last)
    tokens = torch.randn(2, 3)
    assert format_inputs(tokens, chosen) is tokens
    images = torch.randn(2, 3, 4, 4)
    assert format_inputs(images, recipe()) is images


# The loop


class Handed(Method):
    """A method for a network that a test made itself."""

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        return problem.create()


class Noting(Handed):
    """Writes down which hook was called when."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int]] = []

    def after_backward(self, network: nn.Module, progress: Progress) -> None:
        assert all(parameter.grad is not None for parameter in network.parameters())
        self.seen.append(("backward", progress.epoch, progress.step))

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        self.seen.append(("step", progress.epoch, progress.step))

    def after_epoch(self, network: nn.Module, context: Any) -> None:
        assert isinstance(context.optimizer, torch.optim.Optimizer)
        self.seen.append(("epoch", 0, context.progress.step))


class Watching:
    def __init__(self) -> None:
        self.rows: list[EpochRow] = []
        self.steps: list[int] = []

    def after_step(self, training: Training) -> None:
        self.steps.append(training.step)

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        self.rows.append(row)


def data(examples: int = 25) -> Batches:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 4, generator=rng)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    dataset = DataSet("made up", inputs, labels, inputs, labels, 3)
    return Batches(dataset, Data(set="digits", protocol="full-last"), 10, 0, CPU)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def train(method: Method, model: nn.Module | None = None, **changes: Any) -> tuple[Training, Watching]:
    training = Training(method, network() if model is None else model, recipe(**changes), data(), CPU)
    watching = Watching()
    training.run(watching)
    return training, watching


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_loop_equals_a_bare_loop_of_torch():
    training, watching = train(Handed(), schedule=Schedule(name="cosine"))
    bare, batches = network(), data()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    means = []
    for epoch in range(2):
        losses = []
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(bare(batch.inputs), batch.labels)
            loss.backward()
            optimizer.step()
            cosine.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    assert same(training.network, bare)
    assert [row.loss for row in watching.rows] == pytest.approx(means)
    assert watching.rows[-1].lr == pytest.approx(0, abs=1e-9)


def test_hooks_are_called_in_order_with_the_steps_that_are_done():
    method = Noting()
    train(method)
    first_epoch = [(name, step) for name, _, step in method.seen[:7]]
    assert first_epoch == [
        ("backward", 0),
        ("step", 1),
        ("backward", 1),
        ("step", 2),
        ("backward", 2),
        ("step", 3),
        ("epoch", 3),
    ]
    assert [step for name, _, step in method.seen if name == "epoch"] == [3, 6]
    assert [epoch for name, epoch, _ in method.seen if name == "backward"] == [0, 0, 0, 1, 1, 1]


def test_an_observer_sees_every_step_and_every_epoch():
    _, watching = train(Handed())
    assert watching.steps == [1, 2, 3, 4, 5, 6]
    assert [(row.epoch, row.step) for row in watching.rows] == [(1, 3), (2, 6)]


def test_the_network_is_in_training_mode_in_every_epoch():
    class Evaluating(Handed):
        def after_epoch(self, network: nn.Module, context: Any) -> None:
            network.eval()

        def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
            assert network.training
            yield from super().losses(network, batch, criterion)

    train(Evaluating())


class InParts(Handed):
    """Yields the loss in four parts that add up to it."""

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        for share in (0.5, 0.25, 0.125, 0.125):
            yield share * criterion(network(batch.inputs), batch.labels)


def test_losses_that_are_yielded_one_by_one_add_up_to_one_loss():
    parts, watched_parts = train(InParts())
    whole, watched = train(Handed())
    for one, other in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert [row.loss for row in watched_parts.rows] == pytest.approx([row.loss for row in watched.rows], rel=1e-5)


def test_each_loss_is_gone_backward_through_before_the_next_is_asked_for():
    class Looking(Handed):
        def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
            assert all(parameter.grad is None for parameter in network.parameters())
            yield criterion(network(batch.inputs), batch.labels)
            assert all(parameter.grad is not None for parameter in network.parameters())

    train(Looking())


def test_a_members_loss_is_the_sum_over_members_so_each_learns_as_if_alone():
    ensemble = Members([network(), copy.deepcopy(network())])
    with torch.no_grad():
        for parameter in ensemble.members[1].parameters():
            parameter.mul_(0.5)
    alone = [copy.deepcopy(member) for member in ensemble.members]
    together, watched = train(Handed(), ensemble)
    losses = []
    for member, trained in zip(alone, together.network.members, strict=True):
        training, watching = train(Handed(), member)
        losses.append(watching.rows[0].loss)
        for one, other in zip(training.network.parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert watched.rows[0].loss == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_finite_number_ends_the_training_in_a_sentence(value: float):
    class Diverging(Handed):
        def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
            yield value + criterion(network(batch.inputs), batch.labels)

    with pytest.raises(MethodError, match=rf"The training loss is {value} in epoch 1 of 2: the training diverged"):
        train(Diverging())


def test_a_network_that_turns_nan_in_a_step_is_noticed():
    class Spoiling(Handed):
        def after_step(self, network: nn.Module, progress: Progress) -> None:
            with torch.no_grad():
                network[0].weight.fill_(torch.nan)

    with pytest.raises(MethodError, match="the training diverged"):
        train(Spoiling())


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_state_taken_after_any_step_goes_on_to_the_same_bits(at: int):
    class Stop(Exception):
        pass

    class Stopping(Watching):
        state: dict[str, Any]

        def after_step(self, training: Training) -> None:
            if training.step == at:
                self.state = copy.deepcopy({**training.state(), "random": random_states()})
                raise Stop

    whole, watched = train(Handed(), schedule=Schedule(name="one-cycle"))
    interrupted, stopping = (
        Training(Handed(), network(), recipe(schedule=Schedule(name="one-cycle")), data(), CPU),
        Stopping(),
    )
    with pytest.raises(Stop):
        interrupted.run(stopping)
    again, watching = (
        Training(Handed(), network(), recipe(schedule=Schedule(name="one-cycle")), data(), CPU),
        Watching(),
    )
    again.load(stopping.state)
    again.run(watching)
    assert same(again.network, whole.network)
    assert watching.rows[-1] == watched.rows[-1]


def test_bfloat16_keeps_parameters_and_losses_in_float32():
    training, watching = train(Handed(), precision="bfloat16")
    assert {parameter.dtype for parameter in training.network.parameters()} == {torch.float32}
    assert watching.rows[1].loss < watching.rows[0].loss
    assert not same(training.network, train(Handed())[0].network)


# Measures


def predictions(examples: int = 200, classes: int = 7, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    logits = spread * torch.randn(examples, classes, generator=rng)
    return logits.log_softmax(1), torch.randint(classes, (examples,), generator=rng)


def test_accuracy_top5_and_nll_are_those_of_scikit_learn():
    log_probability, labels = predictions()
    probability = log_probability.double().exp().numpy()
    probability /= probability.sum(1, keepdims=True)
    found = score(log_probability, labels, ["accuracy", "top5", "nll"])
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, probability.argmax(1)))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, probability, k=5, labels=range(7)))
    assert found["nll"] == pytest.approx(log_loss(labels, probability, labels=range(7)), rel=1e-6)


def test_only_the_metrics_that_are_named_are_measured():
    assert list(score(*predictions(), ["nll", "ece"])) == ["nll", "ece"]


def test_calibration_error_by_hand():
    # Bins are 1/15 wide: 0.95 twice (one right) and 0.62 once (right); 0.5 once (wrong).
    confidence = torch.tensor([0.95, 0.95, 0.62, 0.5])
    log_probability = torch.stack([confidence, 1 - confidence - 0.001, torch.full((4,), 0.001)], dim=1).log()
    labels = torch.tensor([0, 1, 0, 2])
    expected = (2 * abs(0.5 - 0.95) + abs(1 - 0.62) + abs(0 - 0.5)) / 4
    assert calibration_error(log_probability, labels) == pytest.approx(expected, abs=1e-6)


def test_calibration_error_is_that_of_a_plain_loop_over_bins():
    log_probability, labels = predictions(300, classes=40, spread=0.7)
    confidence, predicted = (part.numpy() for part in log_probability.double().exp().max(1))
    assert confidence.min() < 1 / 15 < 2 / 15 < confidence.max()
    labels = torch.where(torch.from_numpy(confidence < 1 / 15), torch.from_numpy(predicted), labels)
    right = predicted == labels.numpy()
    total = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(log_probability, labels) == pytest.approx(total)


def test_a_certain_and_right_network_is_perfectly_calibrated():
    certain = torch.eye(4).clamp(min=1e-30).log()
    assert calibration_error(certain, torch.arange(4)) == pytest.approx(0, abs=1e-9)
    assert calibration_error(certain, (torch.arange(4) + 1) % 4) == pytest.approx(1)


def test_an_ensemble_predicts_the_mean_of_its_members_probabilities():
    logits = torch.randn(3, 5, 4)
    expected = logits.softmax(-1).mean(0)
    torch.testing.assert_close(log_probabilities(logits).exp(), expected)
    torch.testing.assert_close(log_probabilities(logits[0]).exp(), logits[0].softmax(-1))


def test_predictions_are_made_in_evaluation_mode_and_do_not_depend_on_the_batches():
    member = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    inputs = torch.randn(30, 1, 8, 8)
    before = copy.deepcopy(member.state_dict())
    one = predict(member.train(), [inputs], recipe(), CPU)
    several = predict(member, inputs.split(7), recipe(), CPU)
    assert one.dtype == torch.float32
    assert not one.requires_grad
    torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in member.state_dict().items())


def test_correctness_bits_tell_each_example():
    log_probability, labels = predictions(21)
    bits = np.unpackbits(correctness_bits(log_probability, labels), count=21).astype(bool)
    assert bits.tolist() == (log_probability.argmax(1) == labels).tolist()
