"""Coefficients that go separate ways during training: no weight moves, momentum stays, and a model is read as it was written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import composed, compositions, layers_in
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import asked, built
from test_superweight_search import deep, method
from torch import nn
from torch.nn import functional as F

from npasbench import export
from npasbench.api import Batch, Findings, Members, Progress, SharedNetwork, Structure
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.measuring.model_file import read_model, write_model
from npasbench.sharing.composed import ComposedWeights
from npasbench.sharing.unsharing import unshare


def optimizer_of(weights: nn.Module, kind: str = "sgd") -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.AdamW(weights.parameters(), lr=0.01)
    return torch.optim.SGD(weights.parameters(), lr=0.01, momentum=0.9, nesterov=True)


def heard(weights: ComposedWeights, optimizer: torch.optim.Optimizer, steps: int = 2, seed: int = 0) -> None:
    """Steps on noise in which every layer is pulled elsewhere, with the gradients noted."""
    weights.listening, rng = True, torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((w * torch.randn(w.shape, generator=rng, dtype=w.dtype)).sum() for w in weights().values()).backward()
        optimizer.step()
    weights.listening = False


# The moment


@given(compositions(), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from(["average", "published"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_unsharing_changes_no_weight_and_registers_every_parameter_once(
    weights: ComposedWeights, threshold: float, rule: Any, adam: bool
):
    optimizer = optimizer_of(weights.double(), "adam" if adam else "sgd")
    heard(weights, optimizer)
    before, rows = weights(), {key: value.shape[0] for key, value in weights.coefficients.items()}
    more = unshare(weights, optimizer, threshold, rule)
    after = weights()
    torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-13)
    assert more == sum(value.shape[0] - rows[key] for key, value in weights.coefficients.items())
    registered = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert registered == [id(parameter) for parameter in weights.parameters()]
    assert set(map(id, optimizer.state)) <= set(registered)
    for key, numbers in weights.classes.items():
        assert sorted(set(numbers)) == list(range(weights.coefficients[key].shape[0]))


@given(compositions(), st.sampled_from(["sgd", "adam"]))
@settings(max_examples=30, deadline=None)
def test_every_row_keeps_the_momentum_of_the_row_that_it_comes_from(weights: ComposedWeights, kind: str):
    optimizer = optimizer_of(weights, kind)
    heard(weights, optimizer)
    name = {"sgd": "momentum_buffer", "adam": "exp_avg"}[kind]
    old, classes = (
        {k: (v, optimizer.state[v][name].clone()) for k, v in weights.coefficients.items()},
        dict(weights.classes),
    )
    unshare(weights, optimizer, 0.9, "average")
    for key, (value, momentum) in old.items():
        now = weights.coefficients[key]
        for user, number in enumerate(weights.classes[key]):
            assert torch.equal(now[number], value[classes[key][user]])
            assert torch.equal(optimizer.state[now][name][number], momentum[classes[key][user]])


@given(compositions())
@settings(max_examples=30, deadline=None)
def test_training_goes_on_after_unsharing_and_evidence_begins_anew(weights: ComposedWeights):
    optimizer = optimizer_of(weights)
    heard(weights, optimizer)
    unshare(weights, optimizer, 0.9, "average")
    assert not any(buffer.any() for name, buffer in weights.named_buffers() if name.startswith("evidence"))
    before = {key: value.detach().clone() for key, value in weights.coefficients.items()}
    heard(weights, optimizer, steps=1, seed=1)
    assert any(not torch.equal(before[key], value) for key, value in weights.coefficients.items())


def pulled_apart(member: int) -> ComposedWeights:
    """Two layers that mix alike and are pulled opposite ways, of one member or of two."""
    shapes = [(3, 3)] * 2
    weights = composed(layers_in(shapes) if member == 0 else layers_in(shapes[:1], shapes[:1]), rows=1)
    weights.listening = True
    one, other = weights().values()
    (one.sum() - other.sum()).backward()
    return weights


@pytest.mark.parametrize("member", [0, 1], ids=["of one member", "of two members"])
def test_layers_that_are_pulled_apart_separate(member: int):
    weights = pulled_apart(member)
    assert unshare(weights, optimizer_of(weights), 0.9, "average") == 1
    assert weights.classes == {"0_0": [0, 1]}


def test_layers_that_pull_the_same_way_or_not_at_all_stay():
    for factor in (1.0, 0.0):
        weights = composed(layers_in([(3, 3)] * 3), rows=1)
        weights.listening = True
        sum(factor * weight.sum() for weight in weights().values()).backward()
        coefficients = weights.coefficients["0_0"]
        assert unshare(weights, optimizer_of(weights), 0.9, "average") == 0
        assert weights.coefficients["0_0"] is coefficients


def test_a_gradient_that_was_no_number_ends_no_training():
    weights = pulled_apart(0)
    weights.evidence("0_0")[0] = float("nan")
    unshare(weights, optimizer_of(weights), 0.9, "average")
    assert weights.classes == {"0_0": [0, 1]}


# In a network


def ensemble(dtype: torch.dtype = torch.float64) -> tuple[Any, SharedNetwork]:
    """Two members that all mix alike."""
    one = method(phase="coarse", bins=2, unshare_epoch=1)
    return one, built(one, Members([deep(), deep()]), 20_000).to(dtype)


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(6, 3, 8, 8, generator=rng, dtype=torch.float64), torch.arange(6), torch.arange(6))


def jointly(network: nn.Module, given_: Batch) -> torch.Tensor:
    return torch.stack([F.cross_entropy(logits, given_.labels) for logits in network(given_.inputs)]).sum()


def test_members_one_after_another_give_the_joint_gradient_and_the_joint_evidence():
    one, network = ensemble()
    twin = copy.deepcopy(network)
    assert network.generator.listening
    for seed in range(2):
        for loss in one.losses(network.train(), batch(seed), F.cross_entropy):
            loss.backward()
        jointly(twin.train(), batch(seed)).backward()
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    for key in network.generator.stores:
        torch.testing.assert_close(network.generator.evidence(key), twin.generator.evidence(key))
        assert network.generator.evidence(key).any()


def test_what_the_search_watches_is_the_gradient_of_the_plain_networks_own_weights():
    one, network = ensemble()
    plain = export(network).eval()
    network.generator.weight_gradients = {}
    for seed in range(3):
        for loss in one.losses(network.eval(), batch(seed), F.cross_entropy):
            loss.backward()
        jointly(plain, batch(seed)).backward()
    for layer in network.layers:
        own = plain.get_parameter(layer.name).grad
        torch.testing.assert_close(network.generator.weight_gradients[layer.name], own)


class Context:
    """What ``after_epoch`` sees."""

    def __init__(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        self.optimizer, self.progress = optimizer, Progress(epoch, 4, 3 * epoch + 3, 12)


def trained(one: Any, network: SharedNetwork, note: Callable[[], int] = lambda: 0, epochs: int = 4) -> list[int]:
    """Three steps an epoch on noise with the method's hooks; what ``note`` says after each epoch."""
    optimizer, rng = torch.optim.SGD(one.parameter_groups(network), lr=0.01, momentum=0.9), torch.Generator()
    notes = []
    for step in range(3 * epochs):
        optimizer.zero_grad()
        logits = network.train()(torch.randn(6, 3, 8, 8, generator=rng))
        nn.functional.cross_entropy(logits, torch.arange(6)).backward()
        optimizer.step()
        one.after_step(network, Progress(step // 3, epochs, step + 1, 3 * epochs))
        if step % 3 == 2:
            one.after_epoch(network, Context(optimizer, step // 3))
            notes.append(note())
    return notes


@pytest.mark.parametrize(
    ("knobs", "epochs"),
    [
        ({"unshare_epoch": 0}, []),
        ({"unshare_epoch": 2}, [2]),
        ({"unshare_epoch": 1, "unshare_gap": 2}, [1, 2, 4]),
        ({"unshare_epoch": 2, "unshare_gap": 1}, [2, 3, 4]),
        ({"unshare_epoch": 9}, []),
    ],
)
def test_unsharing_happens_after_the_epochs_that_were_asked_for(
    knobs: dict[str, int], epochs: list[int], monkeypatch: pytest.MonkeyPatch
):
    one = method(phase="coarse", bins=1, unshare_threshold=-1.0, **knobs)
    network = built(one, deep(), 20_000)
    heard: list[float] = []

    def spy(weights: ComposedWeights, *_: object) -> int:
        evidence = [buffer for name, buffer in weights.named_buffers() if name.startswith("evidence")]
        heard.append(sum(float(buffer.abs().sum()) for buffer in evidence))
        for buffer in evidence:
            buffer.zero_()
        return 0

    monkeypatch.setattr("npasbench.baselines.superweight.unshare", spy)
    calls = trained(one, network, lambda: len(heard))
    assert calls == [sum(epoch <= done for epoch in epochs) for done in range(1, 5)]
    assert all(evidence > 0 for evidence in heard)


@given(st.floats(0.13, 3), st.sampled_from([1, 2, 4]), st.floats(-1, 1), st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_count_never_exceeds_what_was_reserved_for_unsharing(
    fraction: float, bins: int, threshold: float, published: bool
):
    knobs = {"allocation": "published"} if published else {}
    one = method(phase="coarse", bins=bins, unshare_epoch=1, unshare_gap=1, unshare_threshold=threshold, **knobs)
    network = deep()
    budget = max(1200, int(fraction * 6372)) if bins == 1 else 7000
    shared = built(one, network, budget)
    reserved = one.final_count(shared)
    assert count(shared).total <= reserved <= budget
    for _ in range(2):
        trained(one, shared)
        assert one.final_count(shared) == reserved
        assert count(shared).total <= reserved
    whole = method(phase="coarse", bins=bins, unshare_epoch=0, **knobs)
    final = built(whole, deep(), budget)
    assert whole.final_count(final) == count(final).total


def test_a_network_is_written_and_read_with_who_mixes_alike(tmp_path: Path):
    one = method(phase="coarse", bins=2, unshare_epoch=1, unshare_threshold=0.5)
    network = built(one, deep(), 20_000)
    trained(one, network)
    assert any(max(numbers) > 0 for numbers in network.generator.classes.values())
    write_model(tmp_path / "model.safetensors", one, network)
    again = built(one, deep(), 20_000)
    read_model(tmp_path / "model.safetensors", one, again)
    assert again.generator.classes == network.generator.classes
    assert one.allocation(again) == one.allocation(network)
    inputs = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), network.eval()(inputs))


def test_a_state_that_was_found_by_a_search_is_restored_into_a_new_network():
    one = method(unshare_epoch=1, unshare_threshold=0.5)
    found = Findings({"clusters": [[0, 1, 0, 1, 0, 1]], "links": [[None, None, (0, 0), (0, 1), (0, 0), (0, 1)]]})
    network = build(one, asked(deep(), 20_000), found, 0)
    trained(one, network)
    again = build(one, asked(deep(), 20_000), found, 1)
    structure = one.structure(network)
    one.restore(again, Structure(facts=json.loads(json.dumps(dict(structure.facts)))))
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    inputs = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), network.eval()(inputs))
