"""Reading a bank for all layers at once equals slicing it layer by layer, gradients included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from npasbench.sharing.bank import read_cyclic, read_rows

sizes_of_layers = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def bank_of(*shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(len(shape) + shape[0])
    return torch.randn(*shape, generator=rng, dtype=torch.float64, requires_grad=True)


def sliced(bank: Tensor, sizes: list[int]) -> list[Tensor]:
    """The slow way: entry i of a layer is entry i modulo the bank's length."""
    return [torch.stack([bank[i % len(bank)] for i in range(size)]) for size in sizes]


def row_by_row(bank: Tensor, rows: Tensor, sizes: list[int]) -> list[Tensor]:
    """The slow way: each layer takes its next rows, one after the other, and cuts what it does not need."""
    read, at = [], 0
    for size in sizes:
        taken: list[Tensor] = []
        while len(taken) * bank.shape[1] < size:
            taken.append(bank[int(rows[at])])
            at += 1
        read.append(torch.cat(taken)[:size])
    assert at == len(rows)
    return read


def gradient(bank: Tensor, read: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Of a scalar in which every entry that was read has a weight of its own."""
    flat = torch.cat(list(read))
    weights = torch.linspace(-1, 1, len(flat), dtype=flat.dtype)
    (found,) = torch.autograd.grad((weights * flat.sin()).sum(), bank)
    return found


@given(st.integers(1, 50), sizes_of_layers)
@settings(max_examples=60, deadline=None)
def test_reading_cyclically_equals_slicing_layer_by_layer(length: int, sizes: list[int]):
    bank = bank_of(length)
    assert all(torch.equal(a, b) for a, b in zip(read_cyclic(bank, sizes), sliced(bank, sizes), strict=True))


@given(st.integers(1, 50), sizes_of_layers)
@settings(max_examples=60, deadline=None)
def test_reading_cyclically_gives_the_gradient_of_slicing(length: int, sizes: list[int]):
    bank = bank_of(length)
    torch.testing.assert_close(
        gradient(bank, read_cyclic(bank, sizes)), gradient(bank, sliced(bank, sizes)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("length", "sizes"), [(5, [2, 5]), (5, [3, 12, 10]), (7, [1])])
def test_reading_cyclically_passes_a_numerical_gradient_check(length: int, sizes: list[int]):
    assert torch.autograd.gradcheck(lambda bank: read_cyclic(bank, sizes), bank_of(length))


def test_layers_that_nothing_came_back_from_add_no_gradient():
    bank = bank_of(6)
    first, _, third = read_cyclic(bank, [4, 6, 8])
    (found,) = torch.autograd.grad(first.sum() + third.sum(), bank)
    assert found.tolist() == [3, 3, 2, 2, 1, 1]


def test_what_is_read_is_a_copy_that_may_be_changed():
    bank = bank_of(4)
    before = bank.detach().clone()
    read_cyclic(bank.detach(), [4])[0].zero_()
    assert torch.equal(bank.detach(), before)


@given(st.integers(1, 8), st.integers(1, 9), sizes_of_layers, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_reading_rows_equals_reading_them_one_by_one(count: int, tile: int, sizes: list[int], seed: int):
    bank = bank_of(count, tile)
    needed = sum(-(-size // tile) for size in sizes)
    rows = torch.randint(count, (needed,), generator=torch.Generator().manual_seed(seed))
    read, slow = read_rows(bank, rows, sizes), row_by_row(bank, rows, sizes)
    assert all(torch.equal(a, b) for a, b in zip(read, slow, strict=True))
    torch.testing.assert_close(gradient(bank, read), gradient(bank, slow), rtol=1e-12, atol=1e-12)


def test_reading_rows_passes_a_numerical_gradient_check():
    rows = torch.tensor([1, 0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda bank: read_rows(bank, rows, [4, 9, 1]), bank_of(3, 4))


def test_gradients_are_the_same_bits_every_time():
    bank = torch.randn(1000, requires_grad=True)
    rows = torch.randint(125, (2000,))

    def twice(read) -> bool:
        one, two = (gradient(bank, read()) for _ in range(2))
        return torch.equal(one, two)

    assert twice(lambda: read_cyclic(bank, [300, 5000, 1000]))
    assert twice(lambda: read_rows(bank.view(125, 8), rows, [8000, 7999]))
