"""Any ``nn.Module`` with generated weights: the same network to whoever uses it, as small as its budget."""

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import npasbench
from npasbench.budget import Budget
from npasbench.errors import BudgetTooSmall, MethodError, UsageError
from npasbench.measuring.count import count
from npasbench.problem import Architecture, Problem
from npasbench.sharing.layers import LayerSpec, shareable_layers
from npasbench.sharing.network import SharedNetwork, WeightGenerator, build_shared


class LanguageModel(nn.Module):
    """Token embedding tied to the output, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        logits: Tensor = self.head(hidden + self.body(hidden))
        return logits


class Recurrent(nn.Module):
    """An LSTM, whose own weights cannot be shared, between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 12))
        self.lstm = nn.LSTM(12, 8, batch_first=True)
        self.logits = nn.Linear(8, 5)

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.lstm(self.inputs(sequence))
        logits: Tensor = self.logits(states[:, -1])
        return logits


class OneModuleUnderTwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.last = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.again(torch.relu(self.first(inputs))))
        return logits


def resnet() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(288, 5),
    )


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


ANY: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...]]] = {
    "convolutional": (convolutional, images, (2, 5)),
    "resnet18": (resnet, lambda: torch.randn(2, 3, 32, 32), (2, 10)),
    "transformer-encoder": (encoder, lambda: torch.randn(2, 5, 16), (2, 5, 16)),
    "tied-language-model": (LanguageModel, lambda: torch.randint(40, (2, 7)), (2, 7, 40)),
    "lstm": (Recurrent, lambda: torch.randn(2, 4, 6), (2, 5)),
    "one-module-under-two-names": (OneModuleUnderTwoNames, lambda: torch.randn(2, 6), (2, 5)),
}
any_model = pytest.mark.parametrize("name", sorted(ANY))


class Counting(WeightGenerator):
    """One vector that all layers read, which counts how often it generates, and may return something wrong."""

    def __init__(self, layers: list[LayerSpec], spoil: Callable[[dict[str, Tensor]], object] | None = None):
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.bank = nn.Parameter(torch.randn(max(layer.size for layer in layers)) * 0.1)
        self.spoil, self.calls = spoil, 0

    def forward(self) -> dict[str, Tensor]:
        self.calls += 1
        weights = {name: self.bank[: torch.Size(shape).numel()].view(shape) for name, shape in self.shapes.items()}
        return self.spoil(weights) if self.spoil else weights  # type: ignore[return-value]


def counting(network: nn.Module | None = None) -> SharedNetwork:
    network = convolutional() if network is None else network
    layers = shareable_layers(network)
    return SharedNetwork(network, layers, Counting(layers))


def spoiled(spoil: Callable[[dict[str, Tensor]], object]) -> None:
    network = convolutional()
    layers = shareable_layers(network)
    SharedNetwork(network, layers, Counting(layers, spoil))


def shared(name: str = "convolutional", budget: float = 0.6, method: str = "roast") -> tuple[nn.Module, Tensor]:
    make, inputs, _ = ANY[name]
    torch.manual_seed(0)
    return npasbench.share(make(), method, budget=budget, seed=0), inputs()


def evaluated(network: nn.Module, inputs: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        output: Tensor = network(inputs)
    return output


# Any network


@any_model
def test_any_network_keeps_its_output_shape_and_trains_on_gradients_to_all_it_counts(name: str):
    network, inputs = shared(name)
    output = network(inputs)
    assert output.shape == ANY[name][2]
    output.square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if not name.endswith("in_proj_bias")]
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@any_model
def test_an_export_is_a_plain_network_with_the_same_output(name: str):
    network, inputs = shared(name)
    plain = npasbench.export(network)
    assert type(plain) is type(ANY[name][0]())
    assert not [module for module in plain.modules() if type(module).__module__.startswith("npasbench")]
    torch.testing.assert_close(evaluated(plain, inputs), evaluated(network, inputs), rtol=0, atol=1e-6)


@any_model
def test_an_export_has_the_dense_state_dict(name: str):
    network, _ = shared(name)
    dense = ANY[name][0]().state_dict()
    found = npasbench.export(network).state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in dense.items()}


@any_model
def test_the_state_dict_is_as_small_as_the_budget(name: str):
    network, _ = shared(name)
    dense = count(ANY[name][0]()).total
    floats = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    # A module under two names is in any state dict of torch's twice, so each storage is looked at once.
    stored = {value.data_ptr(): value.numel() for key, value in floats.items() if "running" not in key}
    assert sum(stored.values()) == count(network).total <= int(0.6 * dense)


@any_model
def test_the_model_that_was_handed_in_is_unchanged(name: str):
    make, inputs, _ = ANY[name]
    model, given = make(), inputs()
    before, output = copy.deepcopy(model.state_dict()), evaluated(model, given)
    network = npasbench.share(model, "roast", budget=0.6)
    network(given).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(evaluated(model, given), output)
    assert all(parameter.grad is None for parameter in model.parameters())


@any_model
@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))], ids=["copy", "pickle"]
)
def test_a_copy_gives_the_same_output_and_lives_on_its_own(name: str, copier: Callable[[nn.Module], nn.Module]):
    network, inputs = shared(name)
    output = evaluated(network, inputs)
    twin = copier(network)
    assert torch.equal(evaluated(twin, inputs), output)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    assert torch.equal(evaluated(network, inputs), output)
    assert not torch.equal(evaluated(twin, inputs), output)


@any_model
def test_a_state_dict_loads_into_a_network_of_the_same_seed(name: str):
    network, inputs = shared(name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    other, _ = shared(name)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(evaluated(other, inputs), evaluated(network, inputs))


@pytest.mark.parametrize("method", ["naive", "template-bank", "hashed", "roast"])
def test_a_tied_weight_stays_tied_whatever_shares_it(method: str):
    network, inputs = shared("tied-language-model", 1, method)
    assert network.layers[0].slots == ("embedding.weight", "head.weight")
    plain = npasbench.export(network)
    assert plain.head.weight is plain.embedding.weight
    assert count(plain).total == count(LanguageModel()).total
    torch.testing.assert_close(evaluated(plain, inputs), evaluated(network, inputs))


def test_the_shared_forward_leaves_the_architectures_slots_empty():
    network, inputs = shared("one-module-under-two-names")
    for mode in (network.train(), network.eval()):
        mode(inputs)
        slots = [slot for layer in network.layers for slot in layer.slots]
        assert slots == ["first.weight", "last.weight"]
        assert all(
            network.architecture.get_submodule(s.rpartition(".")[0])._parameters["weight"] is None for s in slots
        )


def test_what_is_excluded_is_copied_from_the_model():
    model = convolutional()
    network = npasbench.share(model, "roast", budget=0.98, exclude=["6"])
    assert torch.equal(network.architecture[6].weight, model[6].weight)
    assert [layer.name for layer in network.layers] == ["0.weight", "3.weight", "4.weight"]


def test_batch_norm_gathers_its_statistics_in_training_only():
    network, inputs = shared()
    norm = network.architecture[1]
    network.train()(inputs)
    after = norm.running_mean.clone()
    assert after.any()
    network.eval()(inputs)
    assert torch.equal(norm.running_mean, after)


# Dtypes, autocast, compilation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["naive", "template-bank", "hashed", "roast"])
def test_a_network_moves_to_another_dtype_and_computes_there(method: str, dtype: torch.dtype):
    network, inputs = shared(method=method, budget=0.9)
    output = evaluated(network, inputs)
    moved = evaluated(network.to(dtype), inputs.to(dtype))
    assert moved.dtype == dtype
    assert all(weight.dtype == dtype for weight in network.weights().values())
    torch.testing.assert_close(moved.float(), output, rtol=0.1, atol=0.1)


def test_a_model_in_double_is_shared_in_double():
    network = npasbench.share(convolutional().double(), "roast", budget=0.6)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert network(images().double()).dtype == torch.float64


@pytest.mark.parametrize("method", ["naive", "template-bank", "hashed", "roast"])
def test_a_network_trains_under_autocast_with_float32_parameters(method: str):
    network, inputs = shared(method=method, budget=0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(inputs)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}


def test_weights_kept_under_autocast_are_not_used_without_it():
    network, inputs = shared(method="template-bank", budget=0.9)
    plain = evaluated(copy.deepcopy(network), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluated(network, inputs).dtype == torch.bfloat16
    assert torch.equal(evaluated(network, inputs), plain)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["naive", "template-bank", "hashed", "roast"])
def test_a_network_compiles_as_one_graph(method: str):
    network, inputs = shared(method=method, budget=0.9)
    with torch.no_grad():
        network(inputs)
    for mode in (network.train(), network.eval()):
        twin = copy.deepcopy(mode)
        compiled = torch.compile(mode, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(inputs), twin(inputs), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_networks_gradients_are_those_of_the_plain_one():
    network, inputs = shared()
    twin = copy.deepcopy(network)
    torch.compile(network, fullgraph=True, backend="aot_eager")(inputs).square().sum().backward()
    twin(inputs).square().sum().backward()
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["naive", "template-bank", "hashed", "roast"])
def test_a_network_moved_to_the_gpu_gives_the_same_output(method: str):
    network, inputs = shared(method=method, budget=0.9)
    output = evaluated(network, inputs)
    network.cuda()
    torch.testing.assert_close(evaluated(network, inputs.cuda()).cpu(), output, rtol=1e-2, atol=1e-2)
    network.train()(inputs.cuda()).square().mean().backward()
    assert all(parameter.grad.is_cuda for parameter in network.parameters())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert network(inputs.cuda()).dtype == torch.bfloat16
    assert torch.equal(evaluated(network.cpu(), inputs), evaluated(copy.deepcopy(network), inputs))


# Generating once


def test_evaluation_generates_once():
    network = counting()
    network.generator.calls = 0
    for _ in range(5):
        evaluated(network, images())
    assert network.generator.calls == 1


def test_training_generates_in_every_forward():
    network = counting().train()
    network.generator.calls = 0
    for _ in range(3):
        network(images())
    assert network.generator.calls == 3


def test_evaluation_with_gradients_generates_in_every_forward():
    network = counting().eval()
    network.generator.calls = 0
    for _ in range(2):
        network(images()).sum().backward()
    assert network.generator.calls == 2
    assert network.generator.bank.grad is not None


def step(network: SharedNetwork) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    with torch.enable_grad():
        network.eval()(images()).square().mean().backward()
    optimizer.step()


def step_with_gradients_at_hand(network: SharedNetwork) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(network.parameters(), lr=0.1).step()


def change_in_place(network: SharedNetwork) -> None:
    with torch.no_grad():
        network.generator.bank[3] += 1.0


def load(network: SharedNetwork) -> None:
    state = network.state_dict()
    network.load_state_dict({key: value if key.endswith("_extra_state") else value + 1 for key, value in state.items()})


def replace_data(network: SharedNetwork) -> None:
    network.generator.bank.data = network.generator.bank.data * 2


def replace_parameter(network: SharedNetwork) -> None:
    network.generator.bank = nn.Parameter(network.generator.bank.detach() * 2)


def round_to_half(network: SharedNetwork) -> None:
    network.half().float()


CHANGES = [
    step,
    step_with_gradients_at_hand,
    change_in_place,
    load,
    replace_data,
    replace_parameter,
    round_to_half,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_evaluation_generates_anew_after_any_change(change: Callable[[SharedNetwork], None]):
    network = counting()
    before = evaluated(network, images())
    change(network)
    after = evaluated(network, images())
    assert not torch.equal(before, after)
    assert torch.equal(after, evaluated(copy.deepcopy(network), images()))
    network.generator.calls = 0
    evaluated(network, images())
    assert network.generator.calls == 0


def test_memory_that_is_given_out_again_at_the_same_address_is_not_taken_for_the_old_values():
    network, inputs = shared()
    bank = network.generator.bank
    for _ in range(50):
        evaluated(network, inputs)
        bank.data = bank.data * 1.5
        bank.data = bank.data * 0.5
        with torch.no_grad():
            assert torch.equal(network.weights()["6.weight"], network.generator()["6.weight"])


def test_weights_kept_in_inference_mode_do_not_leak_out_of_it():
    network, inputs = shared()
    network.eval()
    with torch.inference_mode():
        network(inputs)
        assert network.weights()["0.weight"].is_inference()
    with torch.no_grad():
        assert not network.weights()["0.weight"].is_inference()


def test_kept_weights_are_in_no_state_dict_pickle_or_copy():
    network = counting()
    small = len(pickle.dumps(network))
    keys = set(network.state_dict())
    evaluated(network, images())
    assert set(network.state_dict()) == keys
    assert len(pickle.dumps(network)) == small
    twin = copy.deepcopy(network)
    twin.generator.calls = 0
    evaluated(twin, images())
    assert twin.generator.calls == 1


def test_kept_weights_are_let_go_when_training_goes_on():
    network = counting()
    evaluated(network, images())
    network.train()(images())
    network.generator.calls = 0
    evaluated(network, images())
    assert network.generator.calls == 1


def test_exporting_leaves_the_network_in_its_mode_and_shares_no_memory():
    network = counting().train()
    plain = npasbench.export(network)
    assert network.training
    with torch.no_grad():
        plain[0].weight.zero_()
    assert network.weights()["0.weight"].any()


# Wrong generators


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda w: {**w, "0.weight": w["0.weight"][:-1]},
            r"returned shape \[7, 3, 3, 3\] for '0\.weight', which needs \[8, 3, 3, 3\]",
        ),
        (lambda w: {**w, "0.weight": w["0.weight"].flatten()}, r"returned shape \[216\] for '0\.weight'"),
        (lambda w: {k: v for k, v in w.items() if k != "3.weight"}, r"missing: 3\.weight; unknown: none"),
        (lambda w: {**w, "wieght": w["0.weight"]}, r"missing: none; unknown: wieght"),
        (lambda w: {**w, "6.weight": w["6.weight"] * torch.nan}, r"NaN or infinite values for '6\.weight'"),
        (lambda w: {**w, "6.weight": w["6.weight"] / 0}, r"NaN or infinite values for '6\.weight'"),
        (lambda w: list(w.values()), r"must return a dict of weights by layer name, not list"),
        (
            lambda w: {**w, "6.weight": w["6.weight"].double()},
            r"returned float64 for '6\.weight', which needs float32, the dtype of the generator's parameters",
        ),
        (lambda w: {**w, "6.weight": w["6.weight"].half()}, r"returned float16 for '6\.weight', which needs float32"),
        (lambda w: {**w, "6.weight": w["6.weight"].long()}, r"returned int64 for '6\.weight', which needs float32"),
        (lambda w: {**w, "6.weight": 0.0}, r"returned float for '6\.weight', not a tensor"),
    ],
    ids=["shape", "flat", "missing", "unknown", "nan", "infinite", "list", "double", "half", "integer", "number"],
)
def test_a_generator_that_returns_something_wrong_is_named_with_what(spoil, said: str):
    with pytest.raises(MethodError, match=rf"The generator Counting .*{said}"):
        spoiled(spoil)


def test_a_method_whose_generator_raises_is_named_with_its_error(tmp_path):
    plugin = tmp_path / "raises.py"
    plugin.write_text(
        "from npasbench.api import SharingMethod\n"
        "class Raises(SharingMethod):\n"
        "    def generator(self, layers, parameters, rng):\n"
        "        return {}['nothing']\n"
    )
    with pytest.raises(
        MethodError, match=r"^raises\.build raised KeyError: 'nothing' in raises\.py:4 \(generator\)\.$"
    ):
        npasbench.share(convolutional(), "raises", budget=0.5, plugins=[str(plugin)])


def test_an_error_of_torch_in_build_is_told_in_one_line_at_the_line_of_the_method_that_led_to_it(tmp_path):
    plugin = tmp_path / "misfit.py"
    plugin.write_text(
        "import torch\n"
        "from npasbench.api import SharingMethod\n"
        "class Misfit(SharingMethod):\n"
        "    def generator(self, layers, parameters, rng):\n"
        "        return torch.nn.Linear(2, 2).load_state_dict({'weight': torch.zeros(3)})\n"
    )
    said = r"^misfit\.build raised RuntimeError: Error\(s\) in loading .* Linear in misfit\.py:5 \(generator\)\.$"
    with pytest.raises(MethodError, match=said):
        npasbench.share(convolutional(), "misfit", budget=0.5, plugins=[str(plugin)])


@pytest.mark.parametrize(
    "raised",
    [
        "torch.empty(1 << 60)",
        "bytearray(1 << 60)",
        "(_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory'))",
    ],
    ids=["torch", "python", "device"],
)
def test_a_network_that_does_not_fit_memory_is_no_fault_of_the_method(tmp_path, raised: str):
    plugin = tmp_path / "huge.py"
    plugin.write_text(
        "import torch\n"
        "from npasbench.api import SharingMethod\n"
        "class Huge(SharingMethod):\n"
        "    def generator(self, layers, parameters, rng):\n"
        f"        {raised}\n"
    )
    with pytest.raises(UsageError, match=r"^huge does not fit this machine's memory .* Give a smaller budget"):
        npasbench.share(convolutional(), "huge", budget=0.5, plugins=[str(plugin)])


def test_an_error_in_a_file_beside_the_methods_own_is_placed_there(tmp_path, monkeypatch):
    (tmp_path / "parts_of_it.py").write_text(
        "import torch\n"
        "from npasbench.api import WeightGenerator\n"
        "class Parts(WeightGenerator):\n"
        "    def forward(self):\n"
        "        return torch.zeros(2) @ torch.zeros(3)\n"
    )
    (tmp_path / "made_of_parts.py").write_text(
        "from npasbench.api import SharingMethod\n"
        "from parts_of_it import Parts\n"
        "class MadeOfParts(SharingMethod):\n"
        "    def generator(self, layers, parameters, rng):\n"
        "        return Parts()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MethodError, match=r"raised RuntimeError: .* in parts_of_it\.py:5 \(forward\)\.$"):
        npasbench.share(convolutional(), "made-of-parts", budget=0.5, plugins=["made_of_parts"])


# Building within a budget


def test_a_network_without_shareable_layers_is_refused():
    with pytest.raises(UsageError, match="LayerNorm has no layer whose weight could be shared"):
        npasbench.share(nn.LayerNorm(4), "roast", budget=0.9)


def test_the_generator_is_offered_what_norms_and_biases_leave():
    offered = []

    def make(layers, parameters):
        offered.append(parameters)
        return Counting(layers)

    model = convolutional()
    dense = count(model).total
    unshared = 8 + 16 + 8 + 8 + 5
    build_shared(Problem((Architecture.of(model),), Budget("2000", 2000, dense), 5, (3, 8, 8)), make)
    build_shared(Problem((Architecture.of(model),), Budget("2000", 2000, dense, "bank"), 5, (3, 8, 8)), make)
    assert offered == [2000 - unshared, 2000]


def test_a_budget_below_what_cannot_be_shared_is_refused_with_the_smallest_that_works():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(600))
    with pytest.raises(
        BudgetTooSmall, match=r"roast needs at least 1,201 parameters .*; the budget is 1,100"
    ) as caught:
        npasbench.share(model, "roast", budget=1100)
    assert caught.value.smallest == 1201
    assert count(npasbench.share(model, "roast", budget=1201)).total == 1201


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("narrow", r"narrow does not apply here: Sequential has no width setting\."),
        ("magnitude", "meets its budget only while it trains"),
    ],
)
def test_methods_that_need_the_harness_say_so(method: str, said: str):
    with pytest.raises(UsageError, match=said):
        npasbench.share(convolutional(), method, budget=0.5)


@pytest.mark.parametrize("given", ["resnet18", nn.Linear, None, 7, [nn.Linear(2, 2)]])
def test_what_is_no_model_is_refused_in_a_sentence(given: object):
    with pytest.raises(UsageError, match=r"share was given .* as its model; a torch\.nn\.Module is expected"):
        npasbench.share(given, "roast", budget=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(3, 3).requires_grad_(False)])
def test_a_model_without_trained_parameters_is_refused_in_a_sentence(model: nn.Module):
    with pytest.raises(UsageError, match=r"has no trained parameters, so there is nothing to share"):
        npasbench.share(model, "roast", budget=0.5)


@pytest.mark.parametrize("seed", ["0", 1.5, None, True, -1, torch.tensor(0.5), torch.tensor([1, 2])])
def test_what_is_no_seed_is_refused_in_a_sentence(seed: object):
    with pytest.raises(UsageError, match="as its seed; a whole number from 0 up is expected"):
        npasbench.share(nn.Linear(9, 9), "roast", budget=0.5, seed=seed)  # type: ignore[arg-type]


def test_a_seed_may_come_from_numpy():
    model = nn.Linear(9, 9)
    one, other = (npasbench.share(model, "roast", budget=0.5, seed=seed) for seed in (np.int64(3), 3))
    assert torch.equal(one.generator.bank, other.generator.bank)


def test_the_seed_decides_what_is_drawn_and_leaves_the_callers_generator_alone():
    model = convolutional()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = npasbench.share(model, "roast", budget=0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = (npasbench.share(model, "roast", budget=0.5, seed=seed) for seed in (1, 2))
    assert torch.equal(one.generator.bank, again.generator.bank)
    assert not torch.equal(one.generator.bank, other.generator.bank)


STUBBORN = """
import torch
from npasbench.api import BudgetTooSmall, SharingMethod, WeightGenerator
class Fixed(WeightGenerator):
    def __init__(self, layers, size):
        super().__init__()
        self.layers, self.bank = layers, torch.nn.Parameter(torch.zeros(size))
    def forward(self):
        return {layer.name: self.bank[:1].expand(layer.shape) for layer in self.layers}
class Stubborn(SharingMethod):
    def generator(self, layers, parameters, rng):
        return Fixed(layers, 5000)
class Clumsy(SharingMethod):
    def generator(self, layers, parameters, rng):
        return Fixed(layers, max(parameters, 5000))
class Honest(SharingMethod):
    def generator(self, layers, parameters, rng):
        if parameters < 5000:
            raise BudgetTooSmall(smallest=5000)
        return Fixed(layers, 5000)
"""


@pytest.fixture
def stubborn(tmp_path) -> list[str]:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    return [str(tmp_path / "stubborn.py")]


def test_a_method_that_builds_too_much_whatever_its_budget_is_a_mistake_of_the_method(stubborn: list[str]):
    said = r"^stubborn was given a budget of 1,500 parameters and built 5,005, and builds 5,005 for a budget of 20,\d\d0 too"
    with pytest.raises(MethodError, match=said):
        npasbench.share(nn.Linear(1000, 5), "stubborn", budget=1500, plugins=stubborn)


@pytest.mark.parametrize(
    ("method", "built"), [("clumsy", r"1,500 and it built 5,005\."), ("honest", r"1,500\.")], ids=["clumsy", "honest"]
)
def test_a_method_that_follows_its_budget_from_some_size_on_is_refused_below(
    stubborn: list[str], method: str, built: str
):
    with pytest.raises(BudgetTooSmall, match=rf"^{method} needs at least 5,005 parameters.*; the budget is {built}$"):
        npasbench.share(nn.Linear(1000, 5), method, budget=1500, plugins=stubborn)


# Ensembles


def ensemble(method: str = "roast") -> SharedNetwork:
    from npasbench.method import Findings
    from npasbench.networks import architecture
    from npasbench.registry import Registry, create

    members = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in ("wrn-10-1", "wrn-16-1"))
    dense = sum(count(member.create()).total for member in members)
    problem = Problem(members, Budget("0.3", int(0.3 * dense), dense), 10, (1, 8, 8))
    network = create(Registry().method(method), {}, method).build(problem, Findings(), torch.Generator().manual_seed(0))
    assert isinstance(network, SharedNetwork)
    return network


def test_an_ensembles_members_read_one_bank():
    network = ensemble()
    assert {layer.member for layer in network.layers} == {0, 1}
    assert len(list(network.generator.parameters())) == 1
    logits = network(torch.randn(3, 1, 8, 8))
    assert logits.shape == (2, 3, 10)
    logits[0].sum().backward(retain_graph=True)
    first = network.generator.bank.grad.clone()
    logits[1].sum().backward()
    assert first.any()
    assert not torch.equal(network.generator.bank.grad, first)


def test_an_ensemble_is_counted_exported_and_copied_like_any_network():
    network, inputs = ensemble(), torch.randn(3, 1, 8, 8)
    output = evaluated(network, inputs)
    plain = npasbench.export(network)
    torch.testing.assert_close(evaluated(plain, inputs), output, rtol=0, atol=1e-6)
    assert torch.equal(evaluated(copy.deepcopy(network), inputs), output)
    assert count(network).total <= int(0.3 * count(plain).total)


def test_a_state_of_another_seed_is_refused_instead_of_giving_wrong_outputs():
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    saved = npasbench.share(model, "hashed", budget=0.5, seed=0).state_dict()
    npasbench.share(model, "hashed", budget=0.5, seed=0).load_state_dict(saved)
    with pytest.raises(UsageError, match="another seed"):
        npasbench.share(model, "hashed", budget=0.5, seed=1).load_state_dict(saved)


def test_a_state_of_a_model_with_other_initial_weights_is_refused():
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    saved = npasbench.share(model, "roast", budget=0.5, seed=0).state_dict()
    other = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    with pytest.raises(UsageError, match="other initial weights"):
        npasbench.share(other, "roast", budget=0.5, seed=0).load_state_dict(saved)
