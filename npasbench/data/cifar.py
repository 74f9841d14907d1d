"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read by torchvision's own classes from where the user has put them.

50,000 training and 10,000 test images of 32x32 pixels. Nothing is downloaded, and a file is read only if its MD5 sum is
the published one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from npasbench import card
from npasbench.data.dataset import DataSet, draw_of_each_class
from npasbench.data.root import VARIABLE
from npasbench.errors import DataError, UsageError

INPUT_SHAPE = (3, 32, 32)
CLASSES = {"cifar10": 10, "cifar100": 100}
_TO_TRAIN = 50_000
_WHITE = 255


def split(data: card.Data, seed: int, root: Path) -> DataSet:
    """All training images, or ``train_per_class`` of each class, drawn by the seed; the set's own test images to test.

    Raises:
        DataError: if the set is not under ``root``, or damaged.
        UsageError: if ``train_per_class`` is too large.
    """
    train, test = _parts(data.set, root)
    inputs, labels = train.data, torch.tensor(train.targets)
    if data.train_per_class is not None:
        drawn = draw_of_each_class(labels, train.classes, data.train_per_class, seed)
        inputs, labels = inputs[drawn.numpy()], labels[drawn]
    tested = _images(test.data), torch.tensor(test.targets)
    return DataSet(data.set, _images(inputs), labels, *tested, CLASSES[data.set])


def fits(data: card.Data) -> None:
    """Refuse what the set cannot be given, without a look at its files.

    Raises:
        UsageError: if ``train_per_class`` is too large.
    """
    most = _TO_TRAIN // CLASSES[data.set]
    if (data.train_per_class or 0) > most:
        raise UsageError(
            f"train_per_class is {data.train_per_class:,}, but each class of '{data.set}' has {most:,} training images. "
            f"Give at most {most:,}."
        )


def check(name: str, root: Path) -> None:
    """Look for every file of a set under ``root``, and at its MD5 sum.

    Raises:
        DataError: naming what is missing or damaged, and how to get it.
    """
    from torchvision.datasets.utils import check_integrity

    known = torchvision_class(name)
    folder = root / known.base_folder
    sums = dict([*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])])
    try:
        missing = [file for file in sums if not (folder / file).is_file()]
        if missing:
            raise DataError(_sentence_for_missing(known, folder, list(sums), missing))
        damaged = [folder / file for file, md5 in sums.items() if not check_integrity(folder / file, md5)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Mend its permissions.") from None
    if damaged:
        raise DataError(
            f"{', '.join(map(str, damaged))}: the MD5 sum is not that of the published file, so it is damaged or another. "
            f"Remove the folder {folder} and {how_to_get(known, root)}"
        )


def _parts(name: str, root: Path) -> tuple[Any, Any]:
    """torchvision's training and test set."""
    known = torchvision_class(name)
    try:
        return known(root, train=True), known(root, train=False)
    except (RuntimeError, OSError) as error:
        check(name, root)  # says more
        raise DataError(f"'{name}' in {root} cannot be read: {error}.") from None


def torchvision_class(name: str) -> Any:
    """torchvision's class of a set, which knows its files and their MD5 sums."""
    from torchvision import datasets

    return getattr(datasets, name.upper())


def _images(pixels: Any) -> Tensor:
    """uint8 ``[N, height, width, channels]`` as float32 ``[N, channels, height, width]`` from 0 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(_WHITE)


def _sentence_for_missing(known: Any, folder: Path, files: list[str], missing: list[str]) -> str:
    expected = ", ".join(f"{known.base_folder}/{file}" for file in files)
    lacking = "none of them is there" if missing == files else f"{', '.join(missing)} is missing"
    return (
        f"There is no {known.__name__} in {folder.parent}: expected are {expected}, but {lacking}. "
        f"Name another folder with --data-root or {VARIABLE}, or {how_to_get(known, folder.parent)}"
    )


def how_to_get(known: Any, root: Path) -> str:
    """The rest of a sentence: what to unpack where, and the command that does it."""
    line = f"from torchvision.datasets import {known.__name__}; {known.__name__}({str(root)!r}, download=True)"
    return f'unpack {known.url} in {root}, as this does:\n  python -c "{line}"'
