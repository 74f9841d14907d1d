"""Augmentation of a whole batch of images at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def draw_offsets(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Uniform offsets down and right, int64 ``[count, 2]`` from ``-most`` to ``most``, on the CPU."""
    return torch.randint(-most, most + 1, (count, 2), generator=generator)


def draw_mirrored(count: int, generator: torch.Generator) -> Tensor:
    """Which images to mirror, bool ``[count]``, each with probability one half, on the CPU."""
    return torch.rand(count, generator=generator) < 0.5


def shift(images: Tensor, offsets: Tensor, most: int) -> Tensor:
    """Move image i by ``offsets[i]`` pixels down and right, zeros moving in.

    ``images`` are ``[batch, channels, height, width]``; ``offsets`` ``[batch, 2]`` lie within ``most`` of 0.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (most, most, most, most))
    # [batch, channels, 2 * most + 1, 2 * most + 1, height, width], without a copy
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = (most - offsets).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Swap left and right of those images ``[batch, channels, height, width]`` that ``mirrored`` ``[batch]`` names."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
