"""Augmentation of a whole batch of images at once."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_offsets(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Uniform offsets down and right, int64 ``[count, 2]`` from ``-most`` to ``most``, on the CPU."""
    return torch.randint(-most, most + 1, (count, 2), generator=generator)


def draw_mirrored(count: int, generator: torch.Generator) -> Tensor:
    """Which images to mirror, bool ``[count]``, each with probability one half, on the CPU."""
    return torch.rand(count, generator=generator) < 0.5


def draw_centres(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A pixel of each image, row and column, int64 ``[count, 2]``, on the CPU."""
    return torch.stack([torch.randint(side, (count,), generator=generator) for side in (height, width)], dim=1)


def shift(images: Tensor, offsets: Tensor, most: int, fill: Tensor | None = None) -> Tensor:
    """Move image i by ``offsets[i]`` pixels down and right; ``fill`` ``[channels]`` moves in, by default zeros.

    ``images`` are ``[batch, channels, height, width]``; ``offsets`` ``[batch, 2]`` lie within ``most`` of 0. With uniform
    offsets this is torchvision's ``RandomCrop`` to the images' own size, with ``padding=most``.
    """
    batch, channels, height, width = images.shape
    padded = images.new_zeros(batch, channels, height + 2 * most, width + 2 * most)
    if fill is not None:
        padded += fill.view(-1, 1, 1)
    padded[:, :, most : most + height, most : most + width] = images
    # [batch, channels, 2 * most + 1, 2 * most + 1, height, width], without a copy
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = (most - offsets).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Swap left and right of those images ``[batch, channels, height, width]`` that ``mirrored`` ``[batch]`` names."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def cut_out(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Zero a square of ``size`` by ``size`` pixels around ``centres[i]`` in image i, clipped at the border.

    Cutout (DeVries and Taylor, 2017, arXiv 1708.04552): of an even size, one pixel more lies above and left.
    """
    down, right = (centres - size // 2).unbind(1)
    rows, columns = _span(down, size, images.shape[2]), _span(right, size, images.shape[3])
    # [batch, height, 1] and [batch, 1, width] -> [batch, 1, height, width]
    hole = (rows[:, :, None] & columns[:, None, :])[:, None]
    return images.masked_fill(hole, 0.0)


def _span(first: Tensor, size: int, side: int) -> Tensor:
    """Which of ``side`` places lie in the ``size`` from ``first[i]`` on: bool ``[batch, side]``."""
    places = torch.arange(side, device=first.device)
    return (places >= first[:, None]) & (places < first[:, None] + size)
