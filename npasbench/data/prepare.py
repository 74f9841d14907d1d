"""Bringing a data set under the data root: torchvision downloads CIFAR, and unpacks ImageNet's archives if they lie there.

Everything is unpacked beside its place and moved there when it is whole, but for CIFAR, each of whose files has a known MD5
sum.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import shutil
import sys
import tarfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path

from npasbench import card
from npasbench.data import check, cifar, corrupted, imagenet
from npasbench.data.checking import WHOLE, Tell, look
from npasbench.errors import DataError

_IMAGENET = "https://image-net.org/download.php"
_OFFLINE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def prepare(data: card.Data, root: Path, *, decode: bool, tell: Tell = lambda done, of: None) -> str:  # noqa: ARG005
    """Make a set ready, if that can be done; what :func:`look` says of it then, and what was done.

    Nothing is done to a set that is there.

    Raises:
        DataError: what is still missing or damaged, and why it could not be prepared.
        UsageError: as :func:`npasbench.data.check`.
    """
    try:
        check(data, root)
    except DataError as missing:
        if data.set not in _WAYS:
            raise
        done = f"; {_fetched(data, root, str(missing))}"
    else:
        done = ""
    return look(data, root, decode=decode, tell=tell) + done


def _fetched(data: card.Data, root: Path, missing: str) -> str:
    """What was done to bring a set here; a :class:`DataError` says what was ``missing`` too."""
    try:
        with _told(root):
            return _WAYS[data.set](data.set, root)
    except DataError as error:
        raise DataError(f"{missing}\n  It could not be prepared: {error}") from None


def prepare_corrupted(data: card.Data, root: Path) -> str:
    """The same for a set's corrupted test images: their archive is unpacked if it lies in ``root``.

    Raises:
        DataError: as :func:`prepare`.
    """
    folder = root / corrupted.FOLDERS[data.set]
    archive = root / f"{folder.name}.tar"
    if not folder.is_dir() and archive.is_file():
        with _told(root), _beside(folder) as unpacked:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            (unpacked / folder.name).replace(folder)
    corrupted.read(data, root)
    return WHOLE


def _download_cifar(name: str, root: Path) -> str:
    from torchvision.datasets.utils import download_and_extract_archive

    known = cifar.torchvision_class(name)
    root.mkdir(parents=True, exist_ok=True)
    try:
        download_and_extract_archive(known.url, str(root), filename=known.filename, md5=known.tgz_md5)
    except _OFFLINE as error:
        raise DataError(
            f"{known.url} cannot be fetched from this machine ({getattr(error, 'reason', None) or error}). Do the above where "
            f"there is a network, then copy {root / known.base_folder} here."
        ) from None
    return f"was downloaded from {known.url}"


def _unpack_imagenet(name: str, root: Path) -> str:
    """torchvision makes ``meta.bin``, ``train`` and ``val`` of the official archives."""
    from torchvision.datasets import imagenet as torchvisions

    places = (root / name, root)
    archives = list(imagenet.ARCHIVES)
    base = next((place for place in places if any((place / archive).is_file() for archive in archives)), places[0])
    if not (base / torchvisions.META_FILE).is_file():
        _needs(base, archives, archives[0])
        torchvisions.parse_devkit_archive(base)
    for part, archive in zip(("train", "val"), archives[1:], strict=True):
        if (base / part).is_dir():
            continue
        _needs(base, archives, archive)
        with _beside(base / part) as unpacked:
            unpacked.rmdir()
            parse = torchvisions.parse_train_archive if part == "train" else torchvisions.parse_val_archive
            parse(base, folder=unpacked.name)
            unpacked.replace(base / part)
    return f"was unpacked in {base}; the archives can be removed"


def _needs(base: Path, archives: list[str], archive: str) -> None:
    """Say where an archive comes from that is not there: no program may download it."""
    if not (base / archive).is_file():
        raise DataError(
            f"{archive} is not in {base}. ImageNet-1k cannot be downloaded by a program: register at {_IMAGENET}, put "
            f"{', '.join(archives)} into {base} and run the same command again. Or link images that are unpacked already: "
            f"{base}/train/<class>/ and {base}/val/<class>/."
        )


def preparable(data: card.Data, root: Path) -> bool:
    """Whether :func:`prepare` can do anything for a set that is missing: download it, or unpack what lies there."""
    if data.set == "imagenet":
        return any((place / archive).is_file() for place in (root / data.set, root) for archive in imagenet.ARCHIVES)
    return data.set in _WAYS


def preparable_corrupted(data: card.Data, root: Path) -> bool:
    """The same of :func:`prepare_corrupted`."""
    folder = root / corrupted.FOLDERS[data.set]
    return not folder.is_dir() and (root / f"{folder.name}.tar").is_file()


_WAYS = {"cifar10": _download_cifar, "cifar100": _download_cifar, "imagenet": _unpack_imagenet}


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place`` that does not outlive the block; what an earlier attempt left is removed."""
    folder = place.with_name(f".{place.name}.unpacking")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    """What goes wrong becomes a sentence; what torchvision prints goes to the standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(
                f"The disk that holds {root} is full. Make room, or name another with --data-root."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(
                f"{error.filename or root} cannot be written. Name another folder with --data-root."
            ) from None
        raise DataError(f"{root}: {error}. Run the same command again.") from None
    except (RuntimeError, tarfile.TarError, EOFError) as error:
        raise DataError(f"An archive in {root} is damaged: {error} Remove it and run the same command again.") from None
