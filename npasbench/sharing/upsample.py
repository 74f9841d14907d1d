"""Giving a layer more weights than its bank has entries (SSN, Plummer et al., ICLR 2022, section 3.1, low-budget case).

``inter`` resizes a smaller weight bilinearly. The others make copies of the bank: ``repeat`` as they are, ``mask``
multiplied by a learned window, ``wavg`` as learned mixtures of the bank's two halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from npasbench.errors import NpasbenchError

Upsampling = Literal["inter", "mask", "repeat", "wavg", "none"]
KERNEL = 9
"""A window of 1 is as long as one 3x3 kernel."""
_STEP, _FIRST = 0.05, 0.95


class TooSmall(NpasbenchError):
    """A bank is too small for a layer; caught by whoever looks for the smallest that is not."""


@dataclass(frozen=True)
class Stretch:
    """A kind of upsampling and its window, in 3x3 kernels."""

    kind: Upsampling = "inter"
    window: int = 1

    def small(self, shape: tuple[int, ...], bank: int) -> tuple[int, ...] | None:
        """The shape that bilinear upsampling starts from; None for the kinds that copy.

        Raises:
            TooSmall: if the bank does not hold even a twentieth of both channel dimensions.
        """
        if self.kind == "none":
            raise TooSmall(f"a weight of {math.prod(shape):,} does not fit a bank of {bank:,}")
        return smaller_shape(shape, bank) if self.kind == "inter" else None

    def copies(self, size: int, bank: int) -> int:
        """How many extra copies of the bank fill a weight of this size.

        Raises:
            TooSmall: if the bank is shorter than one window.
        """
        if bank < self.unit:
            raise TooSmall(f"a bank of {bank:,} is shorter than a window of {self.unit}")
        return -(-size // bank) - 1

    @property
    def unit(self) -> int:
        """What a copied bank's length is cut to a multiple of; the two halves of ``wavg`` have no window."""
        return 2 if self.kind == "wavg" else KERNEL * self.window

    def parameters(self, copies: int) -> tuple[int, int]:
        """Rows and columns of what an upsampled layer learns of its own."""
        if self.kind == "mask":
            return copies, self.unit
        return (2 * (copies + 1), 2) if self.kind == "wavg" else (0, 0)

    def apply(self, bank: Tensor, learned: Tensor, size: int) -> Tensor:
        """``[size]`` out of a bank ``[n]`` and what the layer learned: copy after copy, cut at the end.

        Where cutting the bank to whole windows leaves too little, the weight starts over (the release fails there).
        """
        whole = bank[: bank.shape[0] // self.unit * self.unit]
        if self.kind == "wavg":
            stretched = (learned @ whole.view(2, -1)).reshape(-1)  # [2(m+1), 2] @ [2, n/2] -> [(m+1) n]
        elif self.kind == "mask":
            windows = whole.view(-1, self.unit)  # [N, W]
            stretched = torch.cat([windows[None], windows * learned[:, None, :]]).reshape(-1)  # [1+m, N, W]
        else:
            stretched = whole
        return stretched.repeat(-(-size // stretched.shape[0]))[:size]


def smaller_shape(shape: tuple[int, ...], bank: int) -> tuple[int, ...]:
    """The largest weight of the same kernel that fits a bank, both channel dimensions cut in steps of 5 %.

    The steps are subtracted one by one and channels rounded half to even, as published; a dimension keeps at least one.

    Raises:
        TooSmall: if a twentieth of both does not fit.
    """
    outputs, inputs, *rest = (*shape, 1) if len(shape) == 1 else shape
    part = _FIRST
    while part > _STEP / 2:
        small = (max(1, round(outputs * part)), max(1, round(inputs * part)), *rest)
        if math.prod(small) <= bank:
            return small
        part -= _STEP
    raise TooSmall(f"not even a twentieth of both dimensions of {list(shape)} fits a bank of {bank:,}")


def resize(small: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bilinear resize of ``[out, in, *kernel]`` to ``shape``, over the flattened (in, kernel) axis as published."""
    rows = small.reshape(1, 1, small.shape[0], -1)
    full = F.interpolate(rows, size=(shape[0], math.prod(shape[1:])), mode="bilinear", align_corners=False)
    return full.reshape(shape)


def resized_variance(small: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """The variance of a bilinearly resized weight over that of what it was resized from, if that is independent."""
    return _axis_variance(small[0], shape[0]) * _axis_variance(math.prod(small[1:]), math.prod(shape[1:]))


def _axis_variance(source: int, target: int) -> float:
    """Mean over the target of w0^2 + w1^2, the two weights of a linear interpolation (half-pixel centres)."""
    low, high, part = linear_positions(source, target)
    squares = torch.where(low == high, torch.ones_like(part), part**2 + (1 - part) ** 2)
    return float(squares.mean())


def linear_positions(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For linear interpolation with half-pixel centres: both neighbours' indices and the weight of the second, ``[target]``."""
    place = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(min=0)
    low = place.floor().long().clamp(max=source - 1)
    return low, (low + 1).clamp(max=source - 1), place - low
