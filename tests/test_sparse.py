"""Sparse networks from the first step on: Erdos-Renyi-kernel densities, random masks, and masks that move (RigL)."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from npasbench.baselines.rigl import RigL, RigLKnobs, default_every, moved
from npasbench.budget import resolve
from npasbench.building import build
from npasbench.card import Entry
from npasbench.conformance import check_method
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall
from npasbench.measuring.count import count
from npasbench.method import Batch, Findings, Method, Progress
from npasbench.networks import architecture
from npasbench.plan import plan_entry
from npasbench.problem import Problem
from npasbench.pruning.densities import erk
from npasbench.pruning.network import MaskedNetwork
from npasbench.registry import Registry, create
from npasbench.running import record
from npasbench.running.certify import certify, load_trained
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.sharing_call import export
from npasbench.training.loop import EpochRow, Training

CPU = torch.device("cpu")


def method(name: str, **knobs: Any) -> Method:
    return create(Registry().method(name), knobs, name)


def problem(budget: float, network: str = "wrn-10-1") -> Problem:
    one = architecture(network, classes=10, input_shape=(1, 8, 8))
    return Problem((one,), resolve(budget, count(one.create()).total), 10, (1, 8, 8))


def masked(name: str, budget: float = 0.1, seed: int = 0, **knobs: Any) -> tuple[Method, MaskedNetwork]:
    one = method(name, **knobs)
    network = build(one, problem(budget), Findings(), seed)
    assert isinstance(network, MaskedNetwork)
    return one, network


def training(one: Method, network: nn.Module, epochs: int = 4) -> Training:
    card = Registry().card("digits15-wrn-10-1")
    recipe = card.recipe.model_copy(update={"epochs": epochs})
    return Training(one, network, recipe, Batches(load(card.data, seed=0), card.data, 50, 0, CPU), CPU)


class Watch:
    """What happens after each step; stops where it is told to."""

    def __init__(self, each: Callable[[Training], None] = lambda _: None, stop: int = 10**9) -> None:
        self.each, self.stop = each, stop

    def after_epoch(self, training: Training, row: EpochRow) -> None: ...

    def after_step(self, training: Training) -> None:
        self.each(training)
        if training.step == self.stop:
            raise StopIteration


def counts(network: MaskedNetwork) -> list[int]:
    return [int(mask.sum()) for mask in network.masks.values()]


# Densities


def test_two_layers_keep_weights_in_proportion_to_the_sums_of_their_dimensions() -> None:
    # A convolution of 16 x 8 x 3 x 3 (sum 30) and a linear layer of 10 x 16 (sum 26): 112 = 2 * (30 + 26).
    assert erk([(16, 8, 3, 3), (10, 16)], 112) == [60, 52]
    density = [60 / (16 * 8 * 9), 52 / 160]
    assert density[0] / density[1] == pytest.approx((30 / 1152) / (26 / 160))


def test_a_layer_that_would_exceed_its_size_is_dense_and_the_others_share_what_it_leaves() -> None:
    # In proportion, [4, 4] would keep 8/88 * 270 = 24 of its 16; then 254 are left for sums 40 and 40.
    assert erk([(4, 4), (20, 20), (20, 20)], 270) == [16, 127, 127]


def test_what_rounding_leaves_goes_to_the_largest_remainder() -> None:
    assert erk([(3, 3), (4, 4), (5, 5)], 12) == [3, 4, 5]
    assert erk([(3, 3), (4, 4), (5, 5)], 13) == [3, 4, 6]  # 3.25, 4.33, 5.42
    assert erk([(3, 3), (4, 4), (5, 5)], 14) == [3, 5, 6]  # 3.5, 4.67, 5.83


shapes = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8)


@given(shapes, st.floats(0, 1.2))
def test_all_layers_together_keep_exactly_what_was_asked_each_between_one_and_all(
    given_shapes: Sequence[Sequence[int]], share: float
) -> None:
    sizes = [math.prod(shape) for shape in given_shapes]
    keep = max(len(sizes), int(share * sum(sizes)))
    found = erk(given_shapes, keep)
    assert sum(found) == min(keep, sum(sizes))
    assert all(1 <= one <= size for one, size in zip(found, sizes, strict=True))


def test_fewer_weights_than_layers_are_refused() -> None:
    with pytest.raises(BudgetTooSmall) as refused:
        erk([(4, 4), (4, 4)], 1)
    assert refused.value.smallest == 2


# random-erk


def test_random_masks_follow_the_densities_meet_the_budget_exactly_and_depend_on_the_seed() -> None:
    _, first = masked("random-erk", 0.05)
    again, other = masked("random-erk", 0.05)[1], masked("random-erk", 0.05, seed=1)[1]
    assert count(first).total == problem(0.05).budget.parameters
    assert counts(first) == erk([layer.shape for layer in first.layers], first.keep) == counts(other)
    same = [torch.equal(first.masks[name], again.masks[name]) for name in first.masks]
    differ = [not torch.equal(first.masks[name], other.masks[name]) for name in first.masks]
    assert all(same)
    assert any(differ)


def test_random_masks_stay_as_they_are_and_masked_weights_stay_zero() -> None:
    one, network = masked("random-erk")
    before = {name: mask.clone() for name, mask in network.masks.items()}
    training(one, network, epochs=2).run(Watch())
    for name, weight in network.weights.items():
        assert torch.equal(network.masks[name], before[name])
        assert not bool(weight[~before[name]].any())
        assert bool(weight[before[name]].any())


# RigL


def test_a_layer_drops_its_smallest_weights_and_grows_where_the_gradient_is_largest() -> None:
    weight = torch.tensor([0.5, -0.1, -0.6, 0.2, 0.0, 0.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 0.1, 9.0, 0.2, 0.3, -0.9, 0.0, 0.8])
    mask = torch.tensor([True] * 4 + [False] * 4)
    # Half of four: -0.1 and 0.2 go; among these and the inactive, -0.9 and 0.8 are the largest gradients.
    expected = torch.tensor([True, False, True, False, False, True, False, True])
    assert torch.equal(moved(weight, gradient, mask, 0.5), expected)


def test_a_dropped_weight_grows_again_at_once_if_its_gradient_is_the_largest() -> None:
    weight = torch.tensor([0.5, -0.1, 0.0, 0.0])
    gradient = torch.tensor([0.0, 5.0, 1.0, -2.0])
    mask = torch.tensor([True, True, False, False])
    assert torch.equal(moved(weight, gradient, mask, 0.5), mask)


def test_a_share_below_one_weight_and_a_dense_layer_move_nothing() -> None:
    weight, gradient = torch.tensor([0.5, 0.1, 0.0]), torch.tensor([0.0, 0.0, 7.0])
    mask = torch.tensor([True, True, False])
    assert torch.equal(moved(weight, gradient, mask, 0.4), mask)
    assert bool(moved(weight, gradient, torch.ones(3, dtype=torch.bool), 0.9).all())


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0), (100, 0.15 * (1 + math.cos(math.pi / 7.5))), (150, 0), (700, 0.15 * (1 + math.cos(math.pi * 7 / 7.5)))],
)
def test_the_share_that_moves_falls_as_a_cosine_and_only_every_so_many_steps(step: int, share: float) -> None:
    assert RigL(RigLKnobs(every=100)).moving(Progress(0, 1, step, 1000)) == pytest.approx(share)


def moves(rigl: RigL, steps: int) -> list[int]:
    """The steps before which the masks move."""
    return [step for step in range(steps) if rigl.moving(Progress(0, 1, step, steps))]


def test_by_default_the_masks_move_every_hundred_steps_or_ten_times_in_a_short_training() -> None:
    assert moves(RigL(), 4000) == list(range(100, 3000, 100)) == moves(RigL(RigLKnobs(every=100)), 4000)
    assert moves(RigL(), 180) == list(range(13, 135, 13))
    assert moves(RigL(), 12) == list(range(1, 9))
    assert moves(RigL(RigLKnobs(every=100)), 120) == []


@given(st.floats(0, 3000))
def test_the_default_leaves_ten_moves_and_one_step_more_would_not(end: float) -> None:
    every = default_every(end)
    before = [len([step for step in range(one, 3000, one) if step < end]) for one in (every, every + 1)]
    assert every >= 1
    assert before[0] >= 10 or every == 1
    assert before[1] < 10 or every == 100


def test_by_default_the_masks_of_a_short_training_move() -> None:
    one, network = masked("rigl")
    before = {name: mask.clone() for name, mask in network.masks.items()}
    training(one, network, epochs=1).run(Watch())
    assert any(not torch.equal(mask, before[name]) for name, mask in network.masks.items())


def test_nothing_moves_in_the_last_quarter_of_training() -> None:
    every = RigL(RigLKnobs(every=1))
    assert every.moving(Progress(0, 1, 749, 1000)) > 0
    assert [every.moving(Progress(0, 1, step, 1000)) for step in (750, 751, 999)] == [0, 0, 0]


def test_the_mask_moves_and_its_count_never_does() -> None:
    one, network = masked("rigl", every=2)
    first, positions = counts(network), [network.masks]
    states: list[dict[str, Tensor]] = []

    def look(running: Training) -> None:
        assert counts(network) == first
        assert all(not bool(weight[~network.masks[name]].any()) for name, weight in network.weights.items())
        states.append({name: mask.clone() for name, mask in network.masks.items()})

    training(one, network).run(Watch(look))
    assert positions[0].keys() == states[0].keys()
    changed = [
        any(not torch.equal(before[name], after[name]) for name in before)
        for before, after in itertools.pairwise(states)
    ]
    # 12 steps; masks move before steps 3, 5, 7 and 9: T_end is 9.
    assert changed == [number in (3, 5, 7, 9) for number in range(2, 13)]
    assert count(network).total == problem(0.1).budget.parameters


def test_the_step_in_which_masks_move_changes_no_weight_that_stays_and_new_ones_are_zero() -> None:
    one, network = masked("rigl", every=1, fraction=0.5)
    batch = Batch(torch.randn(20, 1, 8, 8), torch.arange(20) % 10, torch.arange(20))
    for loss in one.losses(network, batch, nn.functional.cross_entropy):
        loss.backward()  # type: ignore[no-untyped-call]
    before = {name: (weight.detach().clone(), network.masks[name].clone()) for name, weight in network.weights.items()}
    one.after_backward(network, Progress(0, 4, 1, 100))
    assert all(parameter.grad is None for parameter in network.parameters())
    grown = 0
    for name, weight in network.weights.items():
        old, mask = before[name]
        now = network.masks[name]
        assert torch.equal(weight[now & mask], old[now & mask])
        assert not bool(weight[~(now & mask)].any())
        grown += int((now & ~mask).sum())
    assert grown > 0


def test_resumed_across_a_move_of_the_masks_it_ends_bit_identical() -> None:
    one, whole = masked("rigl", every=3)
    training(one, whole).run(Watch())
    part = masked("rigl", every=3)[1]
    first = training(one, part)
    with pytest.raises(StopIteration):
        first.run(Watch(stop=5))
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    rest = masked("rigl", every=3)[1]
    second = training(one, rest)
    second.load(torch.load(saved, weights_only=True))
    assert all(torch.equal(mask, rest.masks[name]) for name, mask in part.masks.items())
    second.run(Watch())
    assert all(torch.equal(mask, rest.masks[name]) for name, mask in whole.masks.items())
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("knobs", [{"fraction": 1.0}, {"every": 0}, {"until": 1.5}])
def test_knobs_that_mean_nothing_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(Exception, match=next(iter(knobs))):
        method("rigl", **knobs)


# Both


@pytest.mark.parametrize("name", ["random-erk", "rigl"])
def test_a_sparse_method_keeps_the_contract(name: str) -> None:
    verdicts = check_method(name)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


@pytest.mark.parametrize("name", ["random-erk", "rigl"])
def test_a_budget_below_one_weight_a_layer_is_refused(name: str) -> None:
    with pytest.raises(BudgetTooSmall):
        build(method(name), problem(0.001), Findings(), 0)


def test_a_run_is_certified_stores_only_what_remains_and_exports_the_same_network(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    entry = Entry(label="rigl", method="rigl", set={"every": 2})
    (spec,) = plan_entry(str(small_card(2)), entry, Registry(), budgets=["0.1"], seeds=(0,))
    ways = Ways(lambda _: None, lambda: False, lambda directory: certify(directory, CPU))
    work([spec], tmp_path, Options(), ways)
    directory = RunDirectory.of(tmp_path, spec)
    result = record.read(directory.result_file)
    assert result.state == "done"
    assert result.certificate is not None
    assert result.certificate.passed
    assert result.certificate.floats == result.parameters["total"] == result.budget_parameters
    _, network, _ = load_trained(directory, spec, CPU)
    images = torch.randn(8, 1, 8, 8)
    assert torch.equal(network.eval()(images), export(network).eval()(images))
