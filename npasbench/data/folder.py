"""``folder``: any images of the user's, ``train/<class>/`` to train on and ``val/<class>/`` to test.

Images of any size and kind become RGB squares of the card's ``image_size``. Parts that are small enough then are decoded
once, at their first use, and live in memory; the others are decoded as they are needed, with the same pixels.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from npasbench import card
from npasbench.data.dataset import DataSet, draw_of_each_class, refuse_too_few
from npasbench.data.digest import digest
from npasbench.data.files import Files
from npasbench.data.holding import held
from npasbench.data.listing import Listing, both_parts, classes_of
from npasbench.data.root import VARIABLE
from npasbench.errors import DataError, UsageError


def resolved(data: card.Data, root: Path) -> card.Data:
    """With the number of classes and the digest of the folder as it is now.

    Raises:
        DataError: if the folder is not there, is wrongly laid out, or is not the one that the card names.
        UsageError: if ``train_per_class`` is more than a class has.
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
        UsageError: as :func:`resolved`.
    """
    known, parts = _looked_at(data, root)
    return of_listings("folder", known, seed, place(data, root), parts)


def of_listings(name: str, data: card.Data, seed: int, folder: Path, parts: tuple[Listing, Listing]) -> DataSet:
    """The data set of these images below ``folder``; those to test are decoded when they are asked for."""
    train, test = parts
    names, labels = train.names, train.labels
    if data.train_per_class is not None:
        drawn = draw_of_each_class(labels, train.classes, data.train_per_class, seed)
        names, labels = names[drawn.numpy()], labels[drawn]
    size = data.image_size or 0
    to_train, to_test = (Files(folder, one, size, data.resize or size, data.digest) for one in (names, test.names))
    inputs = to_train if data.crop == "random-resized" else held(to_train)
    return DataSet(name, inputs, labels, to_test, test.labels, len(train.classes), normalise=data.normalise)


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
    if data.train_per_class is not None:
        refuse_too_few(parts[0].labels, parts[0].classes, data.train_per_class)
    return data.model_copy(update=found), parts


def _there(data: card.Data, root: Path) -> Path:
    where = place(data, root)
    if not where.is_dir():
        raise DataError(
            f"There is no folder {where}.{_nearest(where)} Put images there as {where}/train/<class>/ and "
            f"{where}/val/<class>/, name another data root with --data-root or {VARIABLE}, or another 'folder' in the card."
        )
    return where


def _nearest(where: Path) -> str:
    """The folder beside it that is called much like it, as a question."""
    try:
        beside = sorted(path.name for path in where.parent.iterdir() if path.is_dir())
    except OSError:
        return ""
    near = difflib.get_close_matches(where.name, beside, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _same(data: card.Data, found: dict[str, object], where: Path) -> None:
    if data.digest is not None and data.digest != found["digest"]:
        raise DataError(
            f"The images in {where} are not those that were planned with: their digest is {str(found['digest'])[:12]}, not "
            f"{data.digest[:12]}. Put them back as they were; with these images it is another task: start the 'run' command again."
        )
    if data.classes is not None and data.classes != found["classes"]:
        raise DataError(f"{where} has classes: {found['classes']}, but the card says {data.classes}.")
