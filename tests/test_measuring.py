"""The dead-parameter scan, and the file that holds a trained network and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from npasbench.budget import Budget
from npasbench.errors import MethodError, RunError
from npasbench.measuring.count import count
from npasbench.measuring.dead import dead_parameters
from npasbench.measuring.model_file import read_model, running_statistics, write_model
from npasbench.method import Batch, Findings, Method, Progress, Structure
from npasbench.networks import architecture
from npasbench.problem import Architecture, Problem
from npasbench.registry import Registry, create
from npasbench.streams import generator, global_stream

DENSE = 77_562


class Handed(Method):
    """A method for a network that a test made itself."""

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        return problem.create()


class Planted(nn.Module):
    """A linear classifier beside entries that can change nothing."""

    def __init__(self, dead: int, alive: int = 8) -> None:
        super().__init__()
        self.alive = nn.Linear(alive, 3)
        self.values = nn.Parameter(torch.randn(dead + 4))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.alive(inputs) + self.values[:4].sum()
        return logits * torch.tensor([1.0, 2.0, 3.0])


class Idle(nn.Module):
    """An embedding of which training shows only some rows, and evaluation others."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.rows[inputs]


def losses(network: nn.Module, batch: Batch) -> Iterator[Tensor]:
    yield F.cross_entropy(network(batch.inputs), batch.labels)


def batches_of(inputs: Tensor, number: int = 3) -> list[Batch]:
    labels = torch.arange(len(inputs)) % 3
    return [Batch(inputs, labels, torch.arange(len(inputs)))] * number


def scan(
    network: nn.Module, inputs: Tensor, looked_at: Tensor | None = None, masks: dict[str, Tensor] | None = None
) -> int:
    def outputs(network: nn.Module) -> Tensor:
        with torch.no_grad():
            result: Tensor = network.eval()(inputs if looked_at is None else looked_at)
        return result

    return dead_parameters(network, batches_of(inputs), losses, outputs, masks or {})


@pytest.mark.parametrize("dead", [0, 1, 7, 500])
def test_the_scan_finds_every_planted_dead_entry_and_nothing_else(dead: int):
    assert scan(Planted(dead), torch.randn(12, 8)) == dead


def test_an_input_that_is_always_zero_makes_its_weights_dead():
    network, inputs = nn.Linear(10, 3), torch.randn(12, 10)
    inputs[:, [2, 5]] = 0
    assert scan(network, inputs) == 6


def test_what_training_never_reached_but_evaluation_needs_is_not_dead():
    network = Idle()
    assert scan(network, torch.arange(0, 8), looked_at=torch.arange(0, 16)) == 0
    assert scan(network, torch.arange(0, 8), looked_at=torch.arange(0, 8)) == 8 * 3


def test_among_entries_without_gradient_those_that_are_alive_are_told_from_the_dead():
    found = scan(Idle(), torch.arange(0, 2), looked_at=torch.tensor([0, 1, 15]))
    assert 0 < found <= 13 * 3


def test_the_scan_puts_every_entry_back():
    network = Planted(50)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    scan(network, torch.randn(12, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_removed_weights_are_not_looked_at():
    network, inputs = nn.Linear(10, 3), torch.randn(12, 10)
    inputs[:, [2, 5]] = 0
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[:, 2] = False
    assert scan(network, inputs, masks={"weight": mask}) == 3


def test_a_network_in_channels_last_is_scanned_like_any_other():
    inputs = torch.randn(4, 3, 6, 6)
    inputs[:, 1] = 0
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 3)).to(memory_format=torch.channels_last)
    assert not network[0].weight.is_contiguous()
    assert scan(network, inputs.contiguous(memory_format=torch.channels_last)) == 8 * 9


def test_a_parameter_of_no_dimension_can_be_dead():
    network = nn.Linear(4, 3)
    network.scale = nn.Parameter(torch.tensor(2.0))
    assert scan(network, torch.randn(12, 4)) == 1


def test_a_trained_architecture_has_no_dead_parameter():
    with global_stream(0, "init"):
        network = architecture("wrn-10-1", classes=3, input_shape=(1, 8, 8)).create()
    assert scan(network, torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))) == 0


# The model file


def method_and_network(name: str, fraction: float = 0.5, **knobs: object) -> tuple[Method, nn.Module]:
    method = create(Registry().method(name), knobs, name)
    members = (architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)),)
    problem = Problem(members, Budget(str(fraction), int(fraction * DENSE), DENSE), 10, (1, 8, 8))
    with global_stream(0, "init"):
        return method, method.build(problem, Findings(), generator(0, "method"))


def trained(name: str, fraction: float = 0.5, **knobs: object) -> tuple[Method, nn.Module]:
    """A few steps with the method's hooks, so that statistics, masks and weights are not those of the start."""
    method, network = method_and_network(name, fraction, **knobs)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for step in range(1, 5):
        inputs = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), torch.arange(8)).backward()
        method.after_backward(network, Progress(0, 1, step - 1, 4))
        optimizer.step()
        method.after_step(network, Progress(0, 1, step, 4))
    return method, network


def output(network: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network.eval()(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(9)))
    return logits


def floats(path: Path, prefix: str) -> int:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return sum(t.numel() for name, t in tensors.items() if t.is_floating_point() and name.startswith(prefix))


METHODS = [("dense", 1.0), ("naive", 1.0), ("template-bank", 1.0), ("hashed", 0.1), ("roast", 0.1), ("magnitude", 0.1)]
every_method = pytest.mark.parametrize(("name", "fraction"), METHODS)


@every_method
def test_a_network_comes_back_from_its_file_bit_for_bit(tmp_path: Path, name: str, fraction: float):
    method, network = trained(name, fraction)
    write_model(tmp_path / "model.safetensors", method, network)
    _, other = method_and_network(name, fraction)
    assert not torch.equal(output(other), output(network))
    read_model(tmp_path / "model.safetensors", method, other)
    assert torch.equal(output(other), output(network))


@every_method
def test_the_floats_in_the_file_are_what_is_counted_and_running_statistics(tmp_path: Path, name: str, fraction: float):
    method, network = trained(name, fraction)
    path = tmp_path / "model.safetensors"
    written = write_model(path, method, network)
    counted = count(network, masks=method.structure(network).masks).total
    assert written == counted == floats(path, "parameter.")
    assert floats(path, "") == counted + running_statistics(network) == counted + 480
    assert read_model(path, method, network) == counted


def test_of_a_pruned_network_only_what_remains_is_stored_and_masks_are_bits(tmp_path: Path):
    method, network = trained("magnitude", 0.1)
    path = tmp_path / "model.safetensors"
    assert write_model(path, method, network) == int(0.1 * DENSE)
    with safe_open(path, framework="pt") as file:
        masks = {name: file.get_tensor(name) for name in file.keys() if name.startswith("mask.")}  # noqa: SIM118
    assert {mask.dtype for mask in masks.values()} == {torch.uint8}
    assert sum(mask.numel() for mask in masks.values()) < (DENSE / 8) + len(masks)
    assert path.stat().st_size < 4 * (int(0.1 * DENSE) + 480) + DENSE / 8 + 8_000


def test_what_the_file_does_not_hold_is_poisoned(tmp_path: Path):
    path, method = tmp_path / "model.safetensors", Handed()
    write_model(path, method, nn.ModuleDict({"first": nn.Linear(3, 3)}))
    network = nn.ModuleDict({"first": nn.Linear(3, 3), "hidden": nn.Linear(3, 3)})
    network["hidden"].bias.requires_grad_(False)
    read_model(path, method, network)
    assert torch.isfinite(network["first"].weight).all()
    assert torch.isnan(network["hidden"].weight).all()
    assert torch.isfinite(network["hidden"].bias).all()


def test_a_network_that_hides_trained_floats_outside_parameters_does_not_come_back(tmp_path: Path):
    method, network = Handed(), nn.Linear(3, 3)
    network.register_buffer("hidden", torch.randn(3))
    write_model(tmp_path / "model.safetensors", method, network)
    other = nn.Linear(3, 3)
    other.register_buffer("hidden", torch.zeros(3))
    read_model(tmp_path / "model.safetensors", method, other)
    assert not other.hidden.any()
    assert torch.equal(other.weight, network.weight)


class Structured(Handed):
    def structure(self, network: nn.Module) -> Structure:
        return Structure(tensors={"map": network.map}, facts={"order": [2, 1], "name": "ünï"})

    def restore(self, network: nn.Module, structure: Structure) -> None:
        network.map, network.facts = structure.tensors["map"], structure.facts


def structured(values: Tensor) -> nn.Module:
    network = nn.Linear(2, 2)
    network.map = values
    return network


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_and_facts_of_a_structure_come_back(tmp_path: Path, dtype: torch.dtype):
    network = structured(torch.tensor([1, 0, 1]).to(dtype))
    write_model(tmp_path / "model.safetensors", Structured(), network)
    other = structured(torch.zeros(3))
    read_model(tmp_path / "model.safetensors", Structured(), other)
    assert torch.equal(other.map, network.map)
    assert other.facts == {"order": [2, 1], "name": "ünï"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_a_structure_that_hides_floats_is_refused(tmp_path: Path, dtype: torch.dtype):
    with pytest.raises(
        MethodError, match=r"structured\.structure holds 'map' as .*trained numbers belong into parameters"
    ):
        write_model(tmp_path / "model.safetensors", Structured(), structured(torch.zeros(3, dtype=dtype)))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing", "other network"])
def test_a_file_that_is_damaged_or_of_another_network_is_told_in_a_sentence(tmp_path: Path, damage: str):
    path, method = tmp_path / "model.safetensors", Handed()
    write_model(path, method, nn.Linear(5, 4) if damage == "other network" else nn.Linear(3, 3))
    if damage == "missing":
        path.unlink()
    elif damage != "other network":
        content = path.read_bytes()
        path.write_bytes({"truncated": content[:-5], "garbage": b"\x00" * 64, "empty": b""}[damage])
    with pytest.raises(RunError, match=r"model\.safetensors does not fit its run"):
        read_model(path, method, nn.Linear(3, 3))


def test_running_statistics_are_counted_apart():
    assert running_statistics(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(3))) == 14
    assert running_statistics(Architecture.of(nn.LayerNorm(4)).create()) == 0
