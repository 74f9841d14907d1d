"""CIFAR-10-C and CIFAR-100-C (Hendrycks & Dietterich, ICLR 2019): the test images under 15 corruptions at 5 severities.

A folder of arrays as published: ``labels.npy`` and one file for each corruption, uint8 ``[5 N, 32, 32, 3]``, the N test
images at severity 1 first. The four corruptions that the authors keep for validation are not read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from npasbench import card
from npasbench.data.cifar import CLASSES, INPUT_SHAPE
from npasbench.data.normalise import normalised
from npasbench.errors import DataError

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
SOURCES = {
    "cifar10": "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
    "cifar100": "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
}
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SEVERITIES = 5
_WHITE = 255


@dataclass(frozen=True)
class Corrupted:
    """The test images under one corruption at one severity, 1 to 5; ``pixels`` are uint8 ``[N, 32, 32, 3]``."""

    corruption: str
    severity: int
    labels: Tensor
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    normalise: card.Normalise | None

    def test(self, batch_size: int) -> Iterator[Tensor]:
        """Inputs as the network has been trained on, float32 ``[up to batch_size, 3, 32, 32]``."""
        for start in range(0, len(self.pixels), batch_size):
            part = torch.from_numpy(np.array(self.pixels[start : start + batch_size]))
            images = part.permute(0, 3, 1, 2).contiguous().float().div_(_WHITE)
            yield normalised(images, self.normalise)


def read(data: card.Data, root: Path, test_labels: Tensor | None = None) -> Iterator[Corrupted]:
    """Every corruption at every severity; the files stay on the disk.

    Raises:
        DataError: before the first, if a file is missing or is none of the published form, or if the labels are not
            ``test_labels`` ``[N]``, int64, at every severity, where these are given.
    """
    folder = root / FOLDERS[data.set]
    names = ["labels", *CORRUPTIONS]
    missing = [f"{name}.npy" for name in names if not (folder / f"{name}.npy").is_file()]
    if missing:
        lacking = "the folder is not there" if not folder.is_dir() else f"{', '.join(missing)} is missing"
        raise DataError(
            f"There are no corrupted test images in {folder}: {lacking}. Unpack {SOURCES[data.set]} in {root}."
        )
    arrays = {name: _array(folder / f"{name}.npy") for name in names}
    labels = arrays.pop("labels")
    faults = [name for name, one in arrays.items() if one.dtype != np.uint8 or one.shape != _shape(labels.size)]
    wrong = _fault_of(labels, CLASSES[data.set], test_labels)
    if not wrong and faults:
        wrong = f"{', '.join(faults)} does not hold as many images of bytes as labels.npy has labels, {labels.size:,}"
    if wrong:
        raise DataError(f"{folder}: {wrong}. Remove the folder and unpack {SOURCES[data.set]} anew.")
    return _each(arrays, torch.tensor(np.array(labels), dtype=torch.int64), data.normalise)


def _fault_of(labels: np.ndarray[Any, Any], classes: int, test_labels: Tensor | None) -> str:
    """Why labels cannot be those of the test images, once for each severity; nothing if they can."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.size % SEVERITIES:
        shape = f"{labels.dtype}, {list(labels.shape)}"
        return f"labels.npy ({shape}) does not hold as many whole numbers for each of {SEVERITIES} severities"
    if labels.min() < 0 or labels.max() >= classes:
        return f"labels.npy holds {labels.min()} to {labels.max()}, and there are {classes} classes"
    expected = labels[: labels.size // SEVERITIES] if test_labels is None else test_labels.numpy()
    if not np.array_equal(labels, np.tile(expected, SEVERITIES)):
        return f"labels.npy does not hold the {len(expected):,} test labels, in their order, for each severity"
    return ""


def _each(
    arrays: dict[str, np.ndarray[Any, Any]], labels: Tensor, normalise: card.Normalise | None
) -> Iterator[Corrupted]:
    examples = len(labels) // SEVERITIES
    for corruption, pixels in arrays.items():
        for severity in range(1, SEVERITIES + 1):
            here = slice((severity - 1) * examples, severity * examples)
            yield Corrupted(corruption, severity, labels[here], pixels[here], normalise)


def _shape(images: int) -> tuple[int, ...]:
    channels, height, width = INPUT_SHAPE
    return (images, height, width, channels)


def _array(path: Path) -> np.ndarray[Any, Any]:
    """A file's array, left on the disk."""
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(array, np.ndarray):  # an archive of several, by another name
        raise DataError(f"{path} holds no array.")
    return array
