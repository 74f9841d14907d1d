"""The images of ``<part>/<class>/``: in torchvision's order, with a sentence for every way in which they can be wrong."""

from __future__ import annotations

import os
import shlex
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
    others: tuple[str, ...] = ()
    """Files that are not read, below the folder: no image by their names, or in no class folder. Hidden ones are left out."""


def both_parts(folder: Path) -> tuple[Listing, Listing]:
    """The images of ``train`` and of ``val``, with the same classes.

    Raises:
        DataError: naming the folder, what is wrong with it and what to do.
    """
    try:
        train, val = (_listed(folder, part) for part in ("train", "val"))
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
    return _inside(folder, part)[0]


def _inside(folder: Path, part: str) -> tuple[tuple[str, ...], list[str]]:
    """A part's class folders, and the files beside them."""
    place = folder / part
    if not place.is_dir():
        raise DataError(_sentence_for_missing(folder, part))
    with os.scandir(place) as entries:
        inside = [entry for entry in entries if not entry.name.startswith(".")]
    classes = tuple(sorted(entry.name for entry in inside if entry.is_dir()))
    beside = sorted(entry.name for entry in inside if not entry.is_dir())
    lost = [name for name in beside if not (place / name).exists()]
    if lost:
        raise DataError(f"{place / lost[0]} is a link to a place where nothing is. Mend or remove it.")
    if len(classes) < 2:
        seen = (
            f"{len(beside)} {'file' if len(beside) == 1 else 'files'}"
            if not classes
            else f"only the class folder '{classes[0]}'"
        )
        raise DataError(
            f"{place} holds {seen if inside else 'nothing'}. Put the images of each class, at least two, in a folder of "
            f"their own: {place}/<class>/."
        )
    return classes, beside


def _listed(folder: Path, part: str) -> Listing:
    classes, beside = _inside(folder, part)
    names: list[bytes] = []
    others = [f"{part}/{name}" for name in beside]
    counts = []
    for one in classes:
        before = len(names)
        for file in _files(os.fsencode(folder), os.fsencode(f"{part}/{one}")):
            if _is_image(file):
                names.append(file)
            elif not os.path.basename(file).startswith(b"."):  # noqa: PTH119 - bytes
                others.append(os.fsdecode(file))
        counts.append(len(names) - before)
    empty = [one for one, number in zip(classes, counts, strict=True) if number == 0]
    if empty:
        raise DataError(
            f"{folder / part} has class folders without images: {_some(empty)}. Put images there "
            f"({', '.join(EXTENSIONS)}), or remove the folders from train and val."
        )
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Listing(classes, np.array(names, dtype=np.bytes_), labels, tuple(others))


def _files(folder: bytes, below: bytes) -> list[bytes]:
    """All files under a class folder, as paths below ``folder``, in the order of torchvision's ``ImageFolder``."""
    top = os.path.join(folder, below)  # noqa: PTH118 - bytes
    _refuse_circle(top, folder)
    places = []
    for place, inside, files in os.walk(top, followlinks=True):
        for name in sorted(inside):
            _refuse_circle(os.path.join(place, name), folder)  # noqa: PTH118
        places.append((place, sorted(files)))
    found = []
    for place, files in sorted(places):
        relative = os.path.relpath(place, folder)
        found += [os.path.join(relative, file) for file in files]  # noqa: PTH118
    return found


def _refuse_circle(path: bytes, folder: bytes) -> None:
    """Refuse a link to a folder on the way to it from ``folder``: its images would be read again and again."""
    if not os.path.islink(path):  # noqa: PTH114 - bytes
        return
    target = os.path.realpath(path).rstrip(b"/") + b"/"
    above = path
    while len(above) > len(folder):
        above = os.path.dirname(above)  # noqa: PTH120
        if (os.path.realpath(above) + b"/").startswith(target):
            raise DataError(f"{os.fsdecode(path)} is a link to a folder that it lies in itself. Remove it.")


def _is_image(file: bytes) -> bool:
    return file.lower().endswith(_ENDINGS)


_ENDINGS = tuple(extension.encode() for extension in EXTENSIONS)


def _sentence_for_missing(folder: Path, part: str) -> str:
    expected = f"Expected are {folder}/train/<class>/ and {folder}/val/<class>/ with images in them."
    if not folder.is_dir():
        return f"There is no folder {folder}. {expected}"
    return f"There is no folder {folder / part}. {expected}{_advice(folder, part)}"


def _advice(folder: Path, part: str) -> str:
    """What is most likely meant: a folder with another name, or one level further down."""
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
    names = {name.lower(): name for name in inside}
    other = next((names[name] for name in (part, *_ALSO_CALLED[part]) if name in names), None)
    if other:
        return f" Rename '{other}' to '{part}', or link it: {shlex.join(['ln', '-s', other, str(folder / part)])}"
    deeper = [folder / name for name in inside if (folder / name / part).is_dir()]
    return f" '{part}' lies in {deeper[0]}: move it up, or name that folder." if deeper else ""


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
