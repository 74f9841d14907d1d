"""The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn: real data without a download."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from npasbench import card
from npasbench.data.dataset import DataSet, draw_of_each_class
from npasbench.errors import UsageError

CLASSES = 10
INPUT_SHAPE = (1, 8, 8)
_SMALLEST = "8", 174
"""The class with the fewest images, and how many."""
_WHITE = 16


def split(data: card.Data, seed: int) -> DataSet:
    """``train_per_class`` images of each class, drawn by the seed, to train on; all others to test.

    Raises:
        UsageError: without ``train_per_class``, since the set has no test images of its own, or if it is too large.
    """
    inputs, labels = _read()
    drawn = draw_of_each_class(labels, [str(k) for k in range(CLASSES)], _asked(data), seed)
    return DataSet("digits", inputs[drawn], labels[drawn], inputs[~drawn], labels[~drawn], CLASSES)


def fits(data: card.Data) -> None:
    """Refuse what the set cannot be given. Raises as :func:`split`."""
    _asked(data)


def _asked(data: card.Data) -> int:
    """``train_per_class``, if it leaves every class an image to test."""
    if data.train_per_class is None:
        raise UsageError("'digits' has no test set of its own: set train_per_class; what is not drawn is tested.")
    name, images = _SMALLEST
    if data.train_per_class >= images:
        raise UsageError(
            f"train_per_class is {data.train_per_class:,}, but class '{name}' of the digits has only {images} images, one "
            f"of which is left to test. Give at most {images - 1}."
        )
    return data.train_per_class


@functools.cache
def _read() -> tuple[Tensor, Tensor]:
    """All images ``[1797, 1, 8, 8]`` with pixels from 0 to 1, and labels; read once a process, never handed out."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, *INPUT_SHAPE) / _WHITE
    return images, torch.tensor(labels, dtype=torch.int64)
