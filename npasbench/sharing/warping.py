"""Every layer resized from the same four templates that fill a whole bank: the network that SSN's groups are learned with.

Plummer et al., ICLR 2022, section 3.2. For a weight ``[out, in]`` (kernel flattened into ``in``) the bank is read as four
images of the layer's own aspect ratio, each resized bilinearly to ``out x in``. Resizing is separable: rows first, for all
layers of one shape at once and with one gradient buffer for the bank, then the mixture, then columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from npasbench.sharing.upsample import TooSmall, linear_positions

TEMPLATES = 4


def image_shape(shape: tuple[int, ...], bank: int) -> tuple[int, int]:
    """Height and width of the four images, as near to the aspect ratio of ``[out, in]`` as a bank allows.

    Raises:
        TooSmall: if the bank holds no such image.
    """
    height, width = _image(shape, bank)
    if width < 1:
        raise TooSmall(f"a bank of {bank:,} holds no four images for a weight of shape {list(shape)}")
    return height, width


def smallest_bank(shapes: Sequence[tuple[int, ...]]) -> int:
    """The least number of entries that holds four images for each of these shapes."""
    tallest = max(shape[0] / math.prod(shape[1:]) for shape in shapes)
    bank = TEMPLATES * max(1, math.floor(tallest))
    while any(_image(shape, bank)[1] < 1 for shape in shapes):
        bank += 1
    return bank


class Warp(nn.Module):
    """Weights of several shapes, each mixed from four images of one bank of ``bank`` entries."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], bank: int) -> None:
        super().__init__()
        self.matrices = [(shape[0], math.prod(shape[1:])) for shape in shapes]
        self.images = [image_shape(shape, bank) for shape in shapes]
        for index, ((outputs, _), (height, _)) in enumerate(zip(self.matrices, self.images, strict=True)):
            low, high, part = linear_positions(height, outputs)
            first = torch.arange(TEMPLATES)[:, None] * height
            for name, values in (("low", first + low), ("high", first + high), ("part", part.repeat(TEMPLATES, 1))):
                kept = values.reshape(-1) if name != "part" else values.reshape(-1, 1)
                self.register_buffer(f"{name}{index}", kept, persistent=False)

    def forward(self, bank: Tensor, coefficients: Sequence[Tensor]) -> list[Tensor]:
        """``[layers, out * in]`` for each shape, from ``coefficients [layers, 4]`` for each shape."""
        places = [self.get_buffer(f"{name}{i}") for i in range(len(self.images)) for name in ("low", "high", "part")]
        rows = _ReadRows.apply(bank, tuple(self.images), *places)
        warped = []
        for alpha, read, (outputs, inputs), (_, width) in zip(
            coefficients, rows, self.matrices, self.images, strict=True
        ):
            mixed = alpha @ read.view(TEMPLATES, -1)  # [layers, 4] @ [4, out * width]
            columns = F.interpolate(mixed.view(-1, 1, width), size=inputs, mode="linear", align_corners=False)
            warped.append(columns.reshape(len(alpha), outputs * inputs))
        return warped


def _image(shape: tuple[int, ...], bank: int) -> tuple[int, int]:
    ratio = math.prod(shape[1:]) / shape[0]
    height = max(1, math.isqrt(int((bank // TEMPLATES) // ratio)))
    return height, bank // (TEMPLATES * height)


class _ReadRows(torch.autograd.Function):
    """Interpolated rows of the bank's images: ``[4 * out, width]`` for each shape."""

    @staticmethod
    def forward(bank: Tensor, images: tuple[tuple[int, int], ...], *places: Tensor) -> tuple[Tensor, ...]:
        read = []
        for image, low, high, part in _each(images, places):
            rows = _image_rows(bank, image)
            read.append(torch.lerp(rows.index_select(0, low), rows.index_select(0, high), part.to(bank.dtype)))
        return tuple(read)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        bank, ctx.images, *places = inputs
        ctx.length = bank.shape[0]
        ctx.save_for_backward(*places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total = gradients[0].new_zeros(ctx.length)
        for gradient, (image, low, high, part) in zip(gradients, _each(ctx.images, ctx.saved_tensors), strict=True):
            upper = gradient * part.to(gradient.dtype)
            rows = _image_rows(total, image)
            rows.index_add_(0, high, upper)
            rows.index_add_(0, low, gradient - upper)
        return total, None, *(None for _ in ctx.saved_tensors)


def _each(
    images: Sequence[tuple[int, int]], places: Sequence[Tensor]
) -> list[tuple[tuple[int, int], Tensor, Tensor, Tensor]]:
    return [(image, *places[3 * i : 3 * i + 3]) for i, image in enumerate(images)]  # type: ignore[misc]


def _image_rows(bank: Tensor, image: tuple[int, int]) -> Tensor:
    height, width = image
    return bank[: TEMPLATES * height * width].view(TEMPLATES * height, width)
