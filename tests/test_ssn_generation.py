"""Weights in few batched products: the same weights, and the same gradients, as slicing the bank layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import SHARES, Case, cases, specs
from torch import Tensor
from torch.nn import functional as F

from npasbench.sharing.generate import BankedWeights
from npasbench.sharing.learning import LearningWeights
from npasbench.sharing.mixing import _FEW, Read, mix, write_order
from npasbench.sharing.placement import Block
from npasbench.sharing.store import Group
from npasbench.sharing.upsample import Stretch

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


# Mixing


class Mixture(NamedTuple):
    """A bank, who reads what of it, the coefficients, and which of the results anybody uses."""

    length: int
    reads: list[Read]
    rows: list[tuple[int, int]]
    used: list[bool]


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Blocks anywhere in a bank, overlapping or apart, read as they are or mixed for one to six layers."""
    length = draw(st.integers(1, 40))
    reads: list[Read] = []
    counts: list[int] = []
    rows: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        templates = draw(st.integers(1, min(4, length)))
        size = draw(st.integers(1, length // templates))
        start = draw(st.integers(0, length - templates * size))
        if templates == 1:
            reads.append(Read(start, 1, size))
            continue
        if templates not in counts:
            counts, rows = [*counts, templates], [*rows, 0]
        matrix, layers = counts.index(templates), draw(st.integers(1, 6))
        reads.append(Read(start, templates, size, layers, matrix, rows[matrix]))
        rows[matrix] += layers
    outputs = sum(read.layers for read in reads)
    used = draw(st.lists(st.booleans(), min_size=outputs, max_size=outputs))
    return Mixture(length, reads, list(zip(rows, counts, strict=True)), used)


def leaves(mixture: Mixture) -> tuple[Tensor, list[Tensor]]:
    rng = torch.Generator().manual_seed(0)
    bank = torch.randn(mixture.length, generator=rng, dtype=torch.float64).requires_grad_()
    shapes = mixture.rows
    return bank, [torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]


def layer_by_layer(bank: Tensor, reads: list[Read], matrices: list[Tensor]) -> list[Tensor]:
    results = []
    for read in reads:
        for layer in range(read.layers):
            parts = [bank[read.start + k * read.size : read.start + (k + 1) * read.size] for k in range(read.templates)]
            if read.matrix < 0:
                results.append(parts[0])
            else:
                alpha = matrices[read.matrix][read.row + layer]
                results.append(sum(alpha[k] * parts[k] for k in range(read.templates)))
    return results


def loss_of(results: list[Tensor], used: list[bool]) -> Tensor:
    """Different for every value of every result that is used; zero without gradient where none is."""
    wanted = [(i, one) for i, one in enumerate(results) if used[i]]
    parts = [(one * torch.cos(torch.arange(one.numel()).view_as(one) + 1.3 * i)).sum() for i, one in wanted]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64, requires_grad=True)


def gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    given_ = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if one is None else one for one, parameter in zip(given_, parameters, strict=True)
    ]


@given(mixtures())
@settings(max_examples=150, deadline=None)
def test_mixing_gives_the_values_and_gradients_of_a_plain_loop(mixture: Mixture):
    mixes_like_a_loop(mixture)


@pytest.mark.parametrize("layers", [_FEW, _FEW + 1, _FEW + 4])
def test_many_layers_of_overlapping_blocks_have_the_gradients_of_a_plain_loop(layers: int):
    """The second block overlaps the first, and so adds to what is there; the third has coefficients of its own."""
    reads = [Read(0, 3, 5, layers, 0, 0), Read(4, 3, 4, layers, 0, layers), Read(17, 2, 6, layers, 1, 0)]
    for missing in (None, 0, 2 * layers - 1):
        used = [i != missing for i in range(3 * layers)]
        mixes_like_a_loop(Mixture(30, reads, [(2 * layers, 3), (layers, 2)], used))


def mixes_like_a_loop(mixture: Mixture) -> None:
    bank, matrices = leaves(mixture)
    mixed = mix(bank, mixture.reads, write_order(mixture.reads, mixture.length), matrices)
    plain = layer_by_layer(bank, mixture.reads, matrices)
    torch.testing.assert_close(list(mixed), plain, **CLOSE)
    ours = gradients(loss_of(list(mixed), mixture.used), [bank, *matrices])
    torch.testing.assert_close(ours, gradients(loss_of(plain, mixture.used), [bank, *matrices]), **CLOSE)


@given(mixtures(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_mixing_gives_the_gradients_that_are_needed_where_others_are_frozen(mixture: Mixture, bank_is_frozen: bool):
    bank, matrices = leaves(mixture)
    trained = matrices if bank_is_frozen else [bank]
    for frozen in [bank] if bank_is_frozen else matrices:
        frozen.requires_grad_(False)
    if not trained:
        return
    mixed = mix(bank, mixture.reads, write_order(mixture.reads, mixture.length), matrices)
    results = [one for one in mixed if one.requires_grad]
    plain = [one for one in layer_by_layer(bank, mixture.reads, matrices) if one.requires_grad]
    if len(results) == len(plain):
        everything = [True] * len(results)
        expected = gradients(loss_of(plain, everything), trained)
        torch.testing.assert_close(gradients(loss_of(results, everything), trained), expected, **CLOSE)


def test_mixings_gradients_are_those_of_its_values():
    reads = [Read(0, 2, 3, 2, 0, 0), Read(2, 1, 4), Read(1, 2, 3, 1, 0, 2), Read(0, 3, 2, 1, 1, 0)]
    bank, matrices = leaves(Mixture(9, reads, [(3, 2), (1, 3)], []))
    order = write_order(reads, 9)
    assert torch.autograd.gradcheck(lambda bank, *matrices: mix(bank, reads, order, matrices), (bank, *matrices))


def mixed_and_bank() -> tuple[Tensor, Tensor]:
    bank, matrices = leaves(Mixture(6, [], [(1, 2)], []))
    reads = [Read(0, 2, 3, 1, 0, 0)]
    return mix(bank, reads, write_order(reads, 6), matrices)[0], bank


def learned_and_bank() -> tuple[Tensor, Tensor]:
    weights = LearningWeights(specs((3, 4)), 30, "wavg", torch.Generator().manual_seed(0))
    return weights()["0.weight"], weights.bank["0"]


@pytest.mark.parametrize("made", [mixed_and_bank, learned_and_bank], ids=["mixed", "learning"])
def test_a_gradients_gradient_is_refused_in_a_sentence(made: Callable[[], tuple[Tensor, Tensor]]):
    weight, bank = made()
    (gradient,) = torch.autograd.grad(weight.square().sum(), [bank], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_entries_that_nobody_reads_have_a_gradient_of_zero():
    reads = [Read(3, 1, 2), Read(6, 2, 1, 1, 0, 0)]
    bank, matrices = leaves(Mixture(10, reads, [(1, 2)], []))
    loss = sum(one.sum() for one in mix(bank, reads, write_order(reads, 10), matrices))
    (gradient,) = torch.autograd.grad(loss, [bank])
    assert [i for i in range(10) if gradient[i] != 0] == [3, 4, 6, 7]


# Whole networks


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_networks_weights_and_gradients_are_those_of_a_plain_loop(case: Case, data: st.DataObject):
    weights = case.built().generator.double()
    names = [layer.name for group in weights.groups for layer in group.layers]
    used = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    agrees(weights, names, used)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("upsample", ["inter", "mask", "repeat", "wavg"])
def test_overlapping_blocks_and_upsampled_layers_agree_with_a_plain_loop(share: str, upsample: str):
    layers = specs((4, 3, 3, 3), (4, 3, 3, 3), (6, 9), (2, 5), (7, 5, 3, 3), (20, 20))
    kinds = {"small": (6, 4, 3, 3)} if upsample == "inter" else {"copies": 1}
    large = {"small": (18, 18)} if upsample == "inter" else {"copies": 1}
    blocks = (
        Block(2, 0, 216),
        Block(2, 0, 216),
        Block(3, 30, 192),
        Block(1, 310, 320),
        Block(1, 12, 12 + 216, **kinds) if upsample == "inter" else Block(1, 0, 330, **kinds),
        Block(1, 3, 3 + 324, **large) if upsample == "inter" else Block(1, 0, 330, **large),
    )
    rng = torch.Generator().manual_seed(0)
    weights = BankedWeights([Group(tuple(layers), 330, blocks)], share, Stretch(upsample), rng).double()
    with torch.no_grad():
        weights.bank["0"].copy_(torch.randn(330, generator=rng))
    names = [layer.name for layer in layers]
    for missing in range(len(names)):
        agrees(weights, names, [i != missing for i in range(len(names))])


def agrees(weights: BankedWeights, names: list[str], used: list[bool]) -> None:
    generated, plain = weights(), sliced(weights)
    ours, theirs = [generated[name] for name in names], [plain[name] for name in names]
    torch.testing.assert_close(ours, theirs, **CLOSE)
    parameters = list(weights.parameters())
    expected = gradients(loss_of(theirs, used), parameters)
    torch.testing.assert_close(gradients(loss_of(ours, used), parameters), expected, rtol=1e-8, atol=1e-10)


def sliced(weights: BankedWeights) -> dict[str, Tensor]:
    """Every layer's weight as section 3 of the paper has it, one layer after the other."""
    result: dict[str, Tensor] = {}
    for index, group in enumerate(weights.groups):
        for position, layer in enumerate(group.layers):
            if group.dense:
                result[layer.name] = weights.unshared[str(index)]
                continue
            block, bank = group.blocks[position], weights.bank[str(index)]
            if block.templates > 1:
                alpha = coefficients_of(weights, index, position, block.templates)
                flat = sum(
                    alpha[k] * bank[block.start + k * layer.size : block.start + (k + 1) * layer.size]
                    for k in range(block.templates)
                )
            else:
                scale = weights.scales.get(layer.name, 1.0)
                flat = stretched(weights, index, position, bank[block.start : block.end], layer.shape) * scale
            result[layer.name] = flat.reshape(layer.shape)
    return result


def coefficients_of(weights: BankedWeights, index: int, position: int, k: int) -> Tensor:
    key = f"{index}_{k}"
    row = weights.readings[index].rows[k].index(position)
    if weights.share == "wavg":
        alpha = weights.coefficients[key][row]
    elif weights.share == "emb":
        linear = weights.projections[key]
        alpha = linear.weight @ weights.embeddings[key][row] + linear.bias
    else:
        alpha = torch.full((k,), 1 / k, dtype=torch.float64)
    factors = dict(weights.named_buffers()).get(f"factors{key}")
    return alpha if factors is None else alpha * factors[row]


def stretched(weights: BankedWeights, index: int, position: int, read: Tensor, shape: tuple[int, ...]) -> Tensor:
    block, kind, size = weights.groups[index].blocks[position], weights.stretch.kind, math.prod(shape)
    if block.small is not None:
        rows = read.reshape(1, 1, block.small[0], -1)
        target = (shape[0], math.prod(shape[1:]))
        return F.interpolate(rows, size=target, mode="bilinear", align_corners=False).reshape(-1)
    if block.copies is None:
        return read
    window = 2 if kind == "wavg" else 9 * weights.stretch.window
    whole = read[: len(read) - len(read) % window]
    key = f"{index}_{position}"
    if kind == "repeat":
        copies = [whole] * (1 + block.copies)
    elif kind == "mask":
        masks = weights.upsamplers[key]
        copies = [whole, *(whole * masks[j].repeat(len(whole) // window) for j in range(block.copies))]
    else:
        halves, mixing = whole.view(2, -1), weights.upsamplers[key]
        copies = [mixing[r, 0] * halves[0] + mixing[r, 1] * halves[1] for r in range(2 * (block.copies + 1))]
    full = torch.cat(copies)
    while len(full) < size:
        full = torch.cat([full, torch.cat(copies)])
    return full[:size]


def test_layers_that_read_the_same_as_it_is_add_up_their_gradients():
    layers = specs((3, 4), (4, 3), (3, 4))
    group = Group(tuple(layers), 12, (Block(1, 0, 12),) * 3)
    weights = BankedWeights([group], "wavg", Stretch(), torch.Generator().manual_seed(0))
    generated = weights()
    torch.stack([(i + 1) * weight.sum() for i, weight in enumerate(generated.values())]).sum().backward()
    assert weights.bank["0"].grad.tolist() == [6.0] * 12


# The network that groups are learned with


@pytest.mark.parametrize("share", ["wavg", "emb"])
@pytest.mark.parametrize("bank", [37, 400, 2001])
def test_learning_weights_are_four_resized_images_mixed_with_softmax(share: str, bank: int):
    layers = specs((6, 4, 3, 3), (10, 7), (6, 4, 3, 3), (3, 1, 5), (7, 10))
    weights = LearningWeights(layers, bank, share, torch.Generator().manual_seed(0)).double()
    generated, plain = weights(), resized(weights, layers)
    names = [layer.name for layer in layers]
    torch.testing.assert_close([generated[n] for n in names], [plain[n] for n in names], **CLOSE)
    parameters, used = list(weights.parameters()), [True, False, True, True, True]
    ours = gradients(loss_of([generated[n] for n in names], used), parameters)
    expected = gradients(loss_of([plain[n] for n in names], used), parameters)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


def resized(weights: LearningWeights, layers: list) -> dict[str, Tensor]:
    bank = weights.bank["0"]
    result = {}
    for row, layer in enumerate(layers):
        if "0" in weights.coefficients:
            raw = weights.coefficients["0"][row]
        else:
            raw = weights.projections["0"].weight @ weights.embeddings["0"][row] + weights.projections["0"].bias
        outputs, inputs = layer.shape[0], math.prod(layer.shape[1:])
        height = max(1, math.floor(math.sqrt((len(bank) // 4) // (inputs / outputs))))
        width = len(bank) // (4 * height)
        images = bank[: 4 * height * width].view(4, 1, height, width)
        templates = F.interpolate(images, size=(outputs, inputs), mode="bilinear", align_corners=False)
        alpha = torch.softmax(raw, 0)
        result[layer.name] = sum(alpha[k] * templates[k, 0] for k in range(4)).reshape(layer.shape)
    return result


def test_learning_weights_gradients_are_those_of_its_values():
    weights = LearningWeights(specs((3, 4), (4, 2)), 30, "wavg", torch.Generator().manual_seed(0)).double()
    names, values = zip(*weights.named_parameters(), strict=True)

    def generated(*given_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.functional_call(weights, dict(zip(names, given_, strict=True)), ()).values())

    assert torch.autograd.gradcheck(generated, values)


@pytest.mark.parametrize(("share", "dimensions"), [("emb", 24), ("wavg", 4)])
def test_what_a_layer_learned_is_its_own_raw_row_in_network_order(share: str, dimensions: int):
    layers = specs((6, 4), (5, 3), (6, 4))
    weights = LearningWeights(layers, 100, share, torch.Generator().manual_seed(0))
    before = weights()
    assert tuple(weights.vectors().shape) == (3, dimensions)
    weights.vectors()[1] += 1 + torch.arange(dimensions)
    assert [name for name, one in weights().items() if not torch.equal(one, before[name])] == ["1.weight"]
