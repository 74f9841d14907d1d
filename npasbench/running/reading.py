"""Reading what strangers wrote: plain files of bounded size, strict JSON of bounded depth, arrays that are bits."""

from __future__ import annotations

import io
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from npasbench.errors import RunError

MEGABYTE = 1_000_000
LIMITS = {
    "result.json": 5 * MEGABYTE,
    "spec.json": MEGABYTE,
    "failure.json": 5 * MEGABYTE,
    "metrics.jsonl": 50 * MEGABYTE,
    "correct.npy": 10 * MEGABYTE,
    "log.txt": 50 * MEGABYTE,
}
"""Bytes that a file of a run directory may have."""
_MOST_NUMBER = 10**18
_DEPTH = 32
_TEXT = 200_000


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a plain file.

    Raises:
        RunError: if it is not a plain file, is larger than ``limit`` bytes, or cannot be read.
    """
    try:
        fault = fault_of(path, limit)
        if fault:
            raise RunError(f"{path} {fault}.")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None


def fault_of(path: Path, limit: int | None) -> str:
    """Why a file is not to be opened, as the end of a sentence; nothing if it may be. OSError if it is not there."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if limit is not None and found.st_size > limit:
        return f"has {found.st_size:,} bytes; more than {limit:,} are not read"
    return ""


def parse_json(data: bytes, where: str) -> Any:
    """JSON in UTF-8 in which no key stands twice in one object; NaN is read as NaN.

    Raises:
        RunError: with what is wrong, after ``where``.
    """
    try:
        text = data.decode("utf-8")
        content = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(content, ensure_ascii=False).encode("utf-8")  # halves of characters are no text
    except RecursionError:
        raise RunError(f"{where} cannot be read: it is nested too deeply.") from None
    except UnicodeError:
        raise RunError(f"{where} cannot be read: it is not text in UTF-8.") from None
    except ValueError as error:
        known = str(error).startswith("Exceeds the limit")
        raise RunError(
            f"{where} cannot be read: {'a number in it has more than 4,300 digits' if known else error}."
        ) from None
    return content


def read_json(path: Path, limit: int | None = None) -> Any:
    """What a JSON file of a run directory holds.

    Raises:
        RunError: as :func:`read_bytes` and :func:`parse_json`.
    """
    return parse_json(read_bytes(path, limit or LIMITS.get(path.name, MEGABYTE)), str(path))


def bounded(value: Any) -> Any:
    """The value, whatever JSON it is, unless it is nested too deeply or holds an enormous text or number.

    Raises:
        ValueError: saying which.
    """
    inner, depth = [value], 0
    while inner:
        if depth > _DEPTH:
            raise ValueError(f"it is nested more than {_DEPTH} levels deep")
        inner, depth = _inside(inner), depth + 1
    return value


def _inside(values: list[Any]) -> list[Any]:
    """What some values hold, of those that hold anything. Every number of every record comes along here."""
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is dict:
            found += value
            found += value.values()
        elif kind is list:
            found += value
        elif kind is str and len(value) > _TEXT:
            raise ValueError(f"a text in it has {len(value):,} characters; at most {_TEXT:,} are read")
        elif kind is int and abs(value) > _MOST_NUMBER:
            raise ValueError(f"a whole number in it is beyond {_MOST_NUMBER:,}")
    return found


def short(text: object, most: int = 100) -> str:
    """Text from a stranger, fit for a sentence: on one line, printable, cut where it is long."""
    written = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split())[: most + 1])
    return written if len(written) <= most else f"{written[:most]}..."


def read_bits(path: Path) -> bytes:
    """The bytes of ``correct.npy``: one dimension of unsigned bytes, and nothing after them.

    Raises:
        RunError: if it is anything else.
    """
    import numpy as np

    data = read_bytes(path, LIMITS["correct.npy"])
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    except Exception as error:  # the header is a Python literal, which can be wrong in any way
        raise RunError(f"{path} cannot be read: {short(error)}.") from None
    packed = data[file.tell() :]
    if kind != np.dtype(np.uint8) or len(shape) != 1 or shape[0] != len(packed):
        claim = f"an array of shape {short(shape)} and type {short(kind)}"
        raise RunError(f"{path} says that it holds {claim}, and has {len(packed):,} bytes of it.")
    return packed


def fault_in(folder: Path, root: Path) -> str:
    """What stands in a run directory that is not to be opened, in a sentence; nothing if it may be read.

    No link may lead out of ``root``, and files are plain and of bounded size.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if entry.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                    return f"{short(path, 300)} is a link that leads out of {root}. Put a copy in its place."
                if (entry.name in LIMITS or not entry.is_dir()) and (fault := fault_of(path, LIMITS.get(entry.name))):
                    return f"{short(path, 300)} {fault}. Take it out, or make it anew."
    except (OSError, RuntimeError) as error:
        return f"{short(folder, 300)} cannot be read: {short(error)}."
    return ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise ValueError(f"the key '{short(twice)}' stands twice in one object")
    return content
