"""ImageNet-1k (Russakovsky et al., IJCV 2015), as torchvision unpacks it: ``train/<wnid>/`` and ``val/<wnid>/``.

1,281,167 training images, and the 50,000 of the validation set to test. Nothing is downloaded. torchvision's ``meta.bin``
is looked at if it is there.
"""

from __future__ import annotations

import functools
from pathlib import Path

from npasbench import card
from npasbench.data.dataset import DataSet
from npasbench.data.folder import of_listings
from npasbench.data.listing import Listing, both_parts
from npasbench.data.root import VARIABLE
from npasbench.errors import DataError, UsageError

CLASSES = 1000
COUNTS = (1_281_167, 50_000)
"""Images to train on and to test."""
_SMALLEST = 732
"""Training images of its smallest classes."""
ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_FOLDER = "imagenet"
_META = "meta.bin"


def split(data: card.Data, seed: int, root: Path) -> DataSet:
    """All training images, or ``train_per_class`` of each class, drawn by the seed; the validation images to test.

    Raises:
        DataError: if the set is not under ``root``, or not whole.
        UsageError: if ``train_per_class`` is too large.
    """
    where = place(root)
    return of_listings("imagenet", data, seed, where, _listed(where))


def fits(data: card.Data) -> None:
    """Refuse what the set cannot be given, without a look at its files.

    Raises:
        UsageError: if ``train_per_class`` is too large.
    """
    if (data.train_per_class or 0) > _SMALLEST:
        raise UsageError(
            f"train_per_class is {data.train_per_class:,}, but ImageNet's smallest classes have only {_SMALLEST} training "
            f"images. Give at most {_SMALLEST}."
        )


def check(name: str, root: Path) -> None:  # noqa: ARG001 - there is one ImageNet
    """See that the set is under ``root`` and whole.

    Raises:
        DataError: naming what is missing and how to get it.
    """
    _whole(place(root))


def place(root: Path) -> Path:
    """The folder ``imagenet`` of the data root, or the data root itself, whichever holds ``train`` and ``val``.

    Raises:
        DataError: if neither does.
    """
    expected = root / _FOLDER
    for where in (expected, root):
        if (where / "train").is_dir() and (where / "val").is_dir():
            return where
    archives = [file for file in ARCHIVES if (expected / file).is_file()]
    lacking = [f"{part}/" for part in ("train", "val") if not (expected / part).is_dir()]
    raise DataError(
        f"There is no ImageNet in {root}: expected are {expected}/train/<wnid>/ and {expected}/val/<wnid>/, but "
        f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not there. Name another folder with --data-root or "
        f"{VARIABLE}, or {_how_to_get(expected, archives)}"
    )


@functools.lru_cache(maxsize=1)
def _listed(where: Path) -> tuple[Listing, Listing]:
    """Looked at once a process: it has more than a million files."""
    return _whole(where)


def _whole(where: Path) -> tuple[Listing, Listing]:
    parts = both_parts(where)
    wnids = parts[0].classes
    known = _wnids(where)
    if len(wnids) != CLASSES:
        lacking = sorted(known - set(wnids))
        named = (
            f" {lacking[0]} is missing{f' with {len(lacking) - 1:,} more' if len(lacking) > 1 else ''}."
            if lacking
            else ""
        )
        raise DataError(
            f"{where}/train and val have {len(wnids):,} class folders; ImageNet has {CLASSES:,}, one a wnid.{named} Unpack the "
            "archives of both anew."
        )
    if known and (others := sorted(set(wnids) - known)):
        raise DataError(f"{where}/train/{others[0]} is no class of {where / _META}. Remove what is not ImageNet's.")
    for name, part, count in zip(("train", "val"), parts, COUNTS, strict=True):
        if len(part.names) != count:
            raise DataError(
                f"{where / name} holds {len(part.names):,} images; ImageNet has {count:,}. Remove the folder and unpack its "
                "archive anew."
            )
    return parts


def _wnids(where: Path) -> set[str]:
    """The classes that torchvision's meta file lists; none if there is no such file."""
    from torchvision.datasets.imagenet import load_meta_file

    if not (where / _META).is_file():
        return set()
    try:
        return set(load_meta_file(where)[0])
    except Exception as error:
        raise DataError(f"{where / _META} cannot be read: {str(error).splitlines()[0]}. Remove it.") from None


def _how_to_get(where: Path, archives: list[str]) -> str:
    have = (
        f"unpack {', '.join(archives)}" if len(archives) == len(ARCHIVES) else f"put {', '.join(ARCHIVES)} in {where}"
    )
    line = f"from torchvision.datasets import ImageNet; [ImageNet({str(where)!r}, part) for part in ('train', 'val')]"
    source = "" if len(archives) == len(ARCHIVES) else " (from https://image-net.org, after signing in) and unpack them"
    return f'{have}{source}, as this does:\n  python -c "{line}"'
