"""Normalisation of each channel, with a card's figures."""

from __future__ import annotations

import torch
from torch import Tensor

from npasbench.card import Normalise

_WHITE = 255


def as_inputs(images: Tensor, by: Normalise | None) -> Tensor:
    """What a network is given, float32: uint8 ``[batch, channels, height, width]`` is normalised, all else is so already."""
    return normalised(images.float().div_(_WHITE), by) if images.dtype == torch.uint8 else images


def normalised(images: Tensor, by: Normalise | None, *, out: Tensor | None = None) -> Tensor:
    """Pixels from 0 to 1, ``[batch, channels, height, width]``, less their channel's mean, by its standard deviation.

    ``out``, which may be ``images``, is where they are written; by default a new tensor.
    """
    if by is None:
        return images
    figures = ([figure / _WHITE for figure in one] for one in (by.mean, by.std))
    mean, std = (torch.tensor(one, device=images.device).view(-1, 1, 1) for one in figures)
    return torch.sub(images, mean, out=out).div_(std)


def black(channels: int, by: Normalise | None) -> Tensor:
    """What a black pixel becomes, ``[channels]``."""
    return normalised(torch.zeros(1, channels, 1, 1), by).flatten()
