"""Whether a set is whole: of images in files, whether each can be decoded.

Decoding takes long, so what a class's files looked like when all of them could be decoded is kept beside the digests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from npasbench import card
from npasbench.data import check, digest, folder, imagenet
from npasbench.data.listing import EXTENSIONS, Listing, both_parts
from npasbench.errors import DataError

WHOLE = "is here and whole"
_NAMED = 5
_KEPT = "decoded"
_AT_ONCE = 1024

Tell = Callable[[int, int], None]
"""Told how many images have been decoded, and of how many."""


def look(data: card.Data, root: Path, *, decode: bool, tell: Tell = lambda done, of: None) -> str:  # noqa: ARG005
    """What was found of a set that is there; its images are decoded if ``decode``.

    Raises:
        DataError: as :func:`npasbench.data.check`, and naming images that cannot be decoded.
        UsageError: as :func:`npasbench.data.check`.
    """
    check(data, root)
    if data.set not in ("folder", "imagenet"):
        return WHOLE
    where = folder.place(data, root) if data.set == "folder" else imagenet.place(root)
    parts = both_parts(where)
    train, val = (f"{len(part.names):,}" for part in parts)
    said = f"{train} + {val} images of {len(parts[0].classes):,} classes"
    if not decode:
        return f"{said} listed, not decoded{_left_out(parts)}"
    _decode(where, parts, tell)
    return f"{WHOLE}: {said}, each of which can be decoded{_left_out(parts)}"


def _left_out(parts: Sequence[Listing]) -> str:
    """The end of a sentence, where there are files that are not read."""
    others = [file for part in parts for file in part.others]
    if not others:
        return ""
    files = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
    return f"; {files} not read, such as {others[0]}: images lie in a class folder and end in {', '.join(EXTENSIONS)}"


def _decode(where: Path, parts: Sequence[Listing], tell: Tell) -> None:
    """Decode what has changed since it was decoded last, class after class."""
    kept = digest.read_kept(where, _KEPT)
    by_class = dict(digest.by_class(parts))
    total, done, wrong = sum(map(len, by_class.values())), 0, list[str]()
    readers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with ThreadPoolExecutor(readers) as pool:
            for name, files in by_class.items():
                seen = digest.seen(where, files)
                found = list[str]()
                if kept.get(name, ("", ""))[0] != seen:
                    for start in range(0, len(files), _AT_ONCE):
                        part = files[start : start + _AT_ONCE]
                        found += [one for one in pool.map(lambda file: _fault(where / file), part) if one]
                        tell(done + start + len(part), total)
                done += len(files)
                wrong += found
                if not found:
                    kept[name] = (seen, "")
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Mend or remove it.") from None
    finally:
        digest.keep(where, {name: kept[name] for name in by_class if name in kept}, _KEPT)
    if wrong:
        more = f"\n  and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise DataError("\n  ".join(wrong[:_NAMED]) + more)


def _fault(path: Path) -> str:
    """Why an image cannot be decoded; nothing if it can."""
    from npasbench.data.decoding import read_rgb

    try:
        read_rgb(str(path))
    except DataError as error:
        return str(error)
    return ""
