"""What a cell costs."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import npasbench
from npasbench.card import Entry
from npasbench.leaderboard.sharing_map import sharing_map
from npasbench.measuring.cost import KEYS, exchanged_bytes, measure
from npasbench.measuring.live_bytes import LiveBytes
from npasbench.method import Batch
from npasbench.networks import architecture
from npasbench.plan import plan_entry
from npasbench.registry import Registry
from npasbench.running import record
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import SharedNetwork, WeightGenerator


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TwoTemplates(WeightGenerator):
    """Every layer a mix of two templates of its own, in one product a layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = shareable_layers(network)
        self.bank = nn.ParameterList([torch.randn(2, layer.size) for layer in self.layers])
        self.coefficients = nn.Parameter(torch.randn(len(self.layers), 1, 2))

    def forward(self) -> dict[str, Tensor]:
        mixed = [own @ bank for own, bank in zip(self.coefficients, self.bank, strict=True)]
        return {layer.name: weight.view(layer.shape) for layer, weight in zip(self.layers, mixed, strict=True)}


def dense(name: str = "wrn-10-1") -> nn.Module:
    torch.manual_seed(0)
    return architecture(name, classes=10, input_shape=(1, 8, 8)).create()


def shared(name: str = "wrn-10-1") -> SharedNetwork:
    network = dense(name)
    return SharedNetwork(network, shareable_layers(network), TwoTemplates(network))


def batch(size: int = 50) -> Batch:
    return Batch(torch.rand(size, 1, 8, 8), torch.arange(size) % 10, torch.arange(size))


def losses(network: nn.Module, batch: Batch) -> Iterator[Tensor]:
    yield F.cross_entropy(network(batch.inputs), batch.labels)


def linear_macs(network: nn.Module) -> int:
    """Multiply-adds of all convolutions and linear layers of one 8x8 example, from shapes alone."""
    positions: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, _, out: positions.append(math.prod(out.shape[2:]) * module.weight.numel())
            )
    network.eval()(torch.zeros(1, 1, 8, 8))
    return sum(positions)


def test_multiply_adds_are_those_of_convolutions_and_linear_layers():
    assert measure(dense(), batch(), losses, repeats=1)["macs"] == linear_macs(dense())


def test_multiply_adds_do_not_depend_on_the_batch():
    assert measure(dense(), batch(3), losses, repeats=1)["macs"] == measure(dense(), batch(), losses, repeats=1)["macs"]


@pytest.mark.parametrize("name", ["wrn-10-1", "row-transformer"])
def test_a_network_with_generated_weights_has_the_multiply_adds_of_the_dense_one(name):
    costs = measure(shared(name), batch(), losses, repeats=1)
    assert costs["macs"] == measure(dense(name), batch(), losses, repeats=1)["macs"]
    assert costs["macs"]


def test_generation_is_counted_apart():
    layers = shareable_layers(dense())
    costs = measure(shared(), batch(), losses, repeats=1)
    assert costs["generation_macs"] == 2 * sum(layer.size for layer in layers)


def test_attention_is_counted():
    costs = measure(dense("row-transformer"), batch(), losses, repeats=1)
    embedding, layer, head = 8 * 64, 64 * 192 + 64 * 64 + 2 * 64 * 128, 640
    attention = 2 * 8 * 8 * 64
    assert costs["macs"] == 8 * embedding + 4 * (8 * layer + attention) + head


def test_a_network_without_a_generator_has_no_generation_cost():
    costs = measure(dense(), batch(), losses, repeats=1)
    assert costs["generation_macs"] is None
    assert costs["generation_seconds"] is None


def test_every_figure_of_a_shared_network_is_a_positive_number():
    costs = measure(shared(), batch(), losses, repeats=2)
    assert all(cost is not None and cost > 0 for cost in costs.values())


@pytest.mark.parametrize("make", [dense, shared])
def test_measuring_leaves_the_network_its_gradients_and_random_numbers_alone(make):
    network, given = make(), batch()
    sum(losses(network, given)).backward()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.eval()
    random = torch.get_rng_state()
    measure(network, given, losses, repeats=1)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not network.training


def test_measuring_works_where_gradients_are_disabled():
    with torch.no_grad():
        assert measure(shared(), batch(), losses, repeats=1)["peak_memory_bytes"]


def test_peak_memory_holds_at_least_activations_kept_for_backward_and_grows_with_the_batch():
    small, large = (measure(dense(), batch(size), losses, repeats=1)["peak_memory_bytes"] for size in (10, 50))
    stem_outputs = 4 * 16 * 8 * 8
    assert large > 50 * 2 * stem_outputs
    assert large > 3 * small


def test_generated_weights_add_to_peak_memory():
    generated = 4 * sum(layer.size for layer in shareable_layers(dense()))
    weights_dominate = batch(2)
    without, with_them = (
        measure(make(), weights_dominate, losses, repeats=1)["peak_memory_bytes"] for make in (dense, shared)
    )
    assert with_them > without + generated / 2  # they are freed layer by layer as their gradients appear


def test_a_dense_network_exchanges_a_gradient_for_each_parameter():
    network = dense()
    expected = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert measure(network, batch(2), losses, repeats=1)["exchanged_bytes"] == expected


def test_a_shared_network_exchanges_its_bank_and_not_its_weights():
    network = npasbench.share(dense(), "roast", budget=0.1, seed=0)
    total = npasbench.count(network).total
    assert exchanged_bytes(network) == 4 * total
    assert exchanged_bytes(network) <= exchanged_bytes(dense()) / 10


def test_tied_parameters_are_exchanged_once_and_frozen_ones_not_at_all():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    network[1].weight = network[0].weight
    network[2].requires_grad_(False)
    assert exchanged_bytes(network) == 4 * (64 + 8 + 8)


def test_gradients_have_the_size_of_their_parameters_type():
    assert exchanged_bytes(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)) == 2 * 64


def test_what_is_measured_is_what_is_named():
    assert list(measure(dense(), batch(2), losses, repeats=1)) == list(KEYS)


def test_live_bytes_follow_tensors_until_they_are_freed():
    before = torch.ones(1000)
    with LiveBytes() as live:
        kept = before + 1
        view = kept[:10]
        (before * 2).sum()
        view.add_(1)
        assert live.now == 4 * 1000
        del kept, view
        assert live.now == 0
    assert live.peak == 4 * (1000 + 1000 + 1)


def test_live_bytes_follow_what_autograd_keeps():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        loss = weight.exp().sin().sum()
        assert live.now == 4 * 2001 - 4 * 1000  # sin keeps exp's result, sum keeps nothing
        loss.backward()
        del loss
        assert live.now == 4 * 1000  # the gradient


# The costs of a cell


def run(card: Path, root: Path, method: str, seed: int) -> Record:
    """The record of one short run."""
    (spec,) = plan_entry(str(card), Entry(label=method, method=method), Registry(), budgets=["0.5"], seeds=(seed,))
    work([spec], root, Options(), Ways(lambda event: None))
    return record.read(RunDirectory.of(root, spec).result_file)


def test_all_seeds_of_a_cell_have_the_costs_of_the_first_and_what_is_not_whole_is_measured_again(small_card, tmp_path):
    card = small_card(1)
    first = run(card, tmp_path, "roast", 0)
    (kept,) = tmp_path.rglob("costs-*.json")
    assert {key: first.costs[key] for key in KEYS} == json.loads(kept.read_text())
    assert run(card, tmp_path, "roast", 1).costs["step_seconds"] == first.costs["step_seconds"]
    for seed, damage in ((2, '{"macs": 1.0}'), (3, "[]"), (4, "{")):
        kept.write_text(damage)
        assert set(KEYS) <= set(run(card, tmp_path, "roast", seed).costs)
        assert set(json.loads(kept.read_text())) == set(KEYS)


def test_a_record_keeps_the_groups_of_a_method_that_has_some_and_nothing_of_others(small_card, tmp_path):
    card = small_card(1)
    assert run(card, tmp_path, "roast", 0).allocation == {}
    ssn = run(card, tmp_path, "ssn", 0)
    assert list(ssn.allocation) == ["groups"]
    assert sharing_map(ssn.allocation) is not None
