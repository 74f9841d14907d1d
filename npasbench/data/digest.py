"""A folder's images as one SHA-256: it changes if an image is added, removed, renamed, moved or changed in a bit.

Reading a large folder takes minutes, so a class's sum is kept by the names, sizes and times of its files. Where the
images lie is no part of it: a copy elsewhere has the same digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from npasbench.data.listing import Listing
from npasbench.errors import DataError, WriteError
from npasbench.running.files import atomic

_CHUNK = 2**20
_READERS = 8

Kept = dict[str, tuple[str, str]]
"""For each class folder what its files looked like, and the sum of their contents."""
_DIGESTS = "digests"


def digest(folder: Path, parts: Sequence[Listing]) -> str:
    """SHA-256, in hexadecimal, of the listed images below ``folder``: of their names and contents.

    Raises:
        DataError: naming a file that cannot be read.
    """
    kept = read_kept(folder)
    try:
        new = {name: _of_a_class(folder, files, kept.get(name)) for name, files in by_class(parts)}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Mend or remove it.") from None
    if new != kept:
        keep(folder, new)
    return _sum_of(f"{name}\0{content}" for name, (_, content) in sorted(new.items()))


def by_class(parts: Sequence[Listing]) -> Iterator[tuple[str, list[str]]]:
    """Each part's class folders, as ``train/cat``, and the files in them."""
    for part in parts:
        names = [os.fsdecode(name) for name in part.names]
        for name, files in groupby(names, key=lambda file: "/".join(file.split("/")[:2])):
            yield name, list(files)


def _of_a_class(folder: Path, files: list[str], kept: tuple[str, str] | None) -> tuple[str, str]:
    looks = seen(folder, files)
    if kept is not None and kept[0] == looks:
        return looks, kept[1]
    with ThreadPoolExecutor(_READERS) as pool:
        contents = list(pool.map(lambda file: _content(folder / file), files))
    return looks, _sum_of(f"{file}\0{content}" for file, content in zip(files, contents, strict=True))


def seen(folder: Path, files: Sequence[str]) -> str:
    """What files look like from outside, as one sum: it changes if one of them is written to."""
    return _sum_of(f"{file}\0{_look(folder / file)}" for file in files)


def _look(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"


def _content(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _sum_of(lines: Iterator[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


# What is kept between two looks at a folder


def _file(folder: Path, what: str) -> Path:
    """Beside the user's other caches: the data root may be read-only, or another's."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "npasbench" / what / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"


def read_kept(folder: Path, what: str = _DIGESTS) -> Kept:
    """What was kept of a folder; nothing if that cannot be read."""
    try:
        content = json.loads(_file(folder, what).read_text(encoding="utf-8"))
        return {name: (str(looks), str(total)) for name, (looks, total) in content.items()}
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):  # RuntimeError: no home folder
        return {}


def keep(folder: Path, new: Kept, what: str = _DIGESTS) -> None:
    """Keep this of a folder, if there is a place for it."""
    with contextlib.suppress(OSError, RuntimeError, WriteError):  # it is only slower the next time
        path = _file(folder, what)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(json.dumps(new).encode())
