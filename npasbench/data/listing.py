"""The images of ``<part>/<class>/``: in torchvision's order, with a sentence for every way in which they can be wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from npasbench.data.files import Names
from npasbench.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those that torchvision's ``ImageFolder`` takes for images; other files are not looked at."""
_MOST_NAMED = 5
_ALSO_CALLED = {"val": ("test", "valid", "validation", "eval"), "train": ("training",)}


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one part: ``names`` ``[N]`` are paths below the folder, sorted by class; labels int64 ``[N]``."""

    classes: tuple[str, ...]
    names: Names
    labels: Tensor


def both_parts(folder: Path) -> tuple[Listing, Listing]:
    """The images of ``train`` and of ``val``, with the same classes.

    Raises:
        DataError: naming the folder, what is wrong with it and what to do.
    """
    try:
        train, val = (_listed(folder, part, classes_of(folder, part)) for part in ("train", "val"))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Mend its permissions.") from None
    if train.classes != val.classes:
        only = [
            f"only {part} has {_some(sorted(set(one.classes) - set(other.classes)))}"
            for part, one, other in (("train", train, val), ("val", val, train))
            if set(one.classes) - set(other.classes)
        ]
        raise DataError(
            f"The classes of {folder / 'train'} and {folder / 'val'} differ: {'; '.join(only)}. Give both the same folders."
        )
    return train, val


def classes_of(folder: Path, part: str) -> tuple[str, ...]:
    """The names of a part's class folders, sorted; hidden ones are not looked at.

    Raises:
        DataError: if there are less than two, or no such part.
    """
    place = folder / part
    if not place.is_dir():
        raise DataError(_sentence_for_missing(folder, part))
    with os.scandir(place) as entries:
        inside = [entry for entry in entries if not entry.name.startswith(".")]
    classes = tuple(sorted(entry.name for entry in inside if entry.is_dir()))
    if len(classes) < 2:
        seen = f"{len(inside) - len(classes)} files" if not classes else f"only the class folder '{classes[0]}'"
        raise DataError(
            f"{place} holds {seen if inside else 'nothing'}. Put the images of each class, at least two, in a folder of "
            f"their own: {place}/<class>/."
        )
    return classes


def _listed(folder: Path, part: str, classes: tuple[str, ...]) -> Listing:
    names: list[bytes] = []
    counts = []
    for one in classes:
        before = len(names)
        names += _images(os.fsencode(folder), os.fsencode(f"{part}/{one}"))
        counts.append(len(names) - before)
    empty = [one for one, number in zip(classes, counts, strict=True) if number == 0]
    if empty:
        raise DataError(
            f"{folder / part} has class folders without images: {_some(empty)}. Put images there "
            f"({', '.join(EXTENSIONS)}), or remove the folders from train and val."
        )
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Listing(classes, np.array(names, dtype=np.bytes_), labels)


def _images(folder: bytes, below: bytes) -> list[bytes]:
    """All images under a class folder, in the order of torchvision's ``ImageFolder``."""
    found = []
    for place, _, files in sorted(os.walk(os.path.join(folder, below), followlinks=True)):  # noqa: PTH118 - bytes
        inside = os.path.relpath(place, folder)
        found += [os.path.join(inside, file) for file in sorted(files) if _is_image(file)]  # noqa: PTH118
    return found


def _is_image(file: bytes) -> bool:
    return file.lower().endswith(_ENDINGS)


_ENDINGS = tuple(extension.encode() for extension in EXTENSIONS)


def _sentence_for_missing(folder: Path, part: str) -> str:
    expected = f"Expected are {folder}/train/<class>/ and {folder}/val/<class>/ with images in them."
    if not folder.is_dir():
        return f"There is no folder {folder}. {expected}"
    other = next((name for name in _ALSO_CALLED[part] if (folder / name).is_dir()), None)
    advice = f" Rename '{other}' to '{part}', or link it: ln -s {other} {folder / part}" if other else ""
    return f"There is no folder {folder / part}. {expected}{advice}"


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
