"""``folder``: any images of the user's, ``train/<class>/`` to train on and ``val/<class>/`` to test.

Images of any size and kind become RGB squares of the card's ``image_size``. Sets that are small enough then are decoded
once and live in memory; the others are decoded as they are needed, with the same pixels.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from npasbench import card
from npasbench.data.dataset import DataSet, Inputs, draw_of_each_class
from npasbench.data.digest import digest
from npasbench.data.files import Files, Names
from npasbench.data.listing import Listing, both_parts, classes_of
from npasbench.data.loading import Loader, Request, loaders
from npasbench.data.root import VARIABLE
from npasbench.errors import DataError, UsageError

IN_MEMORY = 2**31
"""Bytes that the images of one part may take, three for each pixel, to be held in memory."""
_AT_ONCE = 256
_WORTH_A_PROCESS = 1000
"""So many images are decoded in the time that a process takes to start."""


def resolved(data: card.Data, root: Path) -> card.Data:
    """With the number of classes and the digest of the folder as it is now.

    Raises:
        DataError: if the folder is not there, is wrongly laid out, or is not the one that the card names.
    """
    return _looked_at(data, root)[0]


def count_classes(data: card.Data, root: Path) -> int:
    """The number of classes of the folder as it is now, without a look at its images.

    Raises:
        DataError: if the folder is not there, or wrongly laid out.
    """
    return len(classes_of(_there(data, root), "train"))


def check(data: card.Data, root: Path) -> None:
    """See that the folder is there, as it was planned with. Raises as :func:`resolved`."""
    resolved(data, root)


def split(data: card.Data, seed: int, root: Path) -> DataSet:
    """All training images, or ``train_per_class`` of each class, drawn by the seed; those of ``val`` to test.

    Raises:
        DataError: as :func:`resolved`, and naming an image that cannot be read.
        UsageError: if ``train_per_class`` is too large.
    """
    known, parts = _looked_at(data, root)
    return of_listings("folder", known, seed, place(data, root), parts)


def of_listings(name: str, data: card.Data, seed: int, folder: Path, parts: tuple[Listing, Listing]) -> DataSet:
    """The data set of these images below ``folder``."""
    train, test = parts
    names, labels = train.names, train.labels
    if data.train_per_class is not None:
        drawn = draw_of_each_class(labels, len(train.classes), data.train_per_class, seed)
        names, labels = names[drawn.numpy()], labels[drawn]
    size = data.image_size or 0
    files = [Files(folder, one, size, data.resize or size) for one in (names, test.names)]
    inputs = [files[0] if data.crop == "random-resized" else _held(files[0], data), _held(files[1], data)]
    return DataSet(name, inputs[0], labels, inputs[1], test.labels, len(train.classes), normalise=data.normalise)


def place(data: card.Data, root: Path) -> Path:
    """Where the images lie.

    Raises:
        UsageError: if the card names no folder.
    """
    if data.folder is None:
        raise UsageError("The set 'folder' needs a folder: write folder = \"my-images\" under [data].")
    return (root / Path(data.folder).expanduser()).absolute()


def _looked_at(data: card.Data, root: Path) -> tuple[card.Data, tuple[Listing, Listing]]:
    where = _there(data, root)
    parts = both_parts(where)
    found = {"classes": len(parts[0].classes), "digest": digest(where, parts)}
    _same(data, found, where)
    return data.model_copy(update=found), parts


def _there(data: card.Data, root: Path) -> Path:
    where = place(data, root)
    if not where.is_dir():
        raise DataError(
            f"There is no folder {where}. Put images there as {where}/train/<class>/ and {where}/val/<class>/, name another "
            f"data root with --data-root or {VARIABLE}, or another 'folder' in the card."
        )
    return where


def _same(data: card.Data, found: dict[str, object], where: Path) -> None:
    if data.digest is not None and data.digest != found["digest"]:
        raise DataError(
            f"The images in {where} are not those that were planned with: their digest is {str(found['digest'])[:12]}, not "
            f"{data.digest[:12]}. Put them back as they were; with these images it is another task, to be planned anew."
        )
    if data.classes is not None and data.classes != found["classes"]:
        raise DataError(f"{where} has classes: {found['classes']}, but the card says {data.classes}.")


def _held(files: Files, data: card.Data) -> Inputs:
    """The images in memory, uint8, if they are small enough."""
    count, *shape = files.shape
    if count * torch.Size(shape).numel() > IN_MEMORY:
        return files
    names, kind = files.names.tobytes(), str(files.names.dtype)
    return _decoded(files.folder, names, kind, files.size, files.resize, data.digest)


@functools.lru_cache(maxsize=2)
def _decoded(folder: Path, names: bytes, kind: str, size: int, resize: int, content: str | None) -> Tensor:  # noqa: ARG001
    """All images, uint8 ``[N, 3, size, size]``, kept for the next runs of this process, which must not change them."""
    listed: Names = np.frombuffer(names, dtype=kind)
    files = Files(folder, listed, size, resize)
    images = torch.empty(files.shape, dtype=torch.uint8)
    beside = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = Loader(files, torch.device("cpu"), min(loaders(beside), len(files) // _WORTH_A_PROCESS))
    starts = range(0, len(files), _AT_ONCE)
    try:
        requests = (Request(range(start, min(start + _AT_ONCE, len(files)))) for start in starts)
        for start, part in zip(starts, loader.load(requests), strict=True):
            images[start : start + len(part)] = part
    finally:
        loader.close()
    return images
