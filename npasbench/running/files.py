"""Writing files so that a reader never sees half of one, and a full disk loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from npasbench.errors import WriteError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Write to a temporary file beside ``path``, flush it to the disk, then put it in place in one step.

    Raises:
        WriteError: if the folder cannot be written to or the disk is full; what stood at ``path`` is untouched.
    """
    temporary = _beside(path)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def publish(path: Path, content: bytes, *, sync_folder: bool = True) -> bool:
    """Put a complete file at ``path`` unless one is there already; False if one was.

    Without ``sync_folder`` a power cut may take it away again, until something else is published beside it.

    Raises:
        WriteError: as :func:`atomic`.
    """
    temporary = _beside(path)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            if sync_folder:
                _sync_folder(path.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into a sentence."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        advice = "Free some space" if error.errno == 28 else "Check the place and its permissions"
        raise WriteError(
            f"{path} cannot be written: {error.strerror}. {advice}, then run the same command again."
        ) from error


def unfinished(folder: Path) -> list[Path]:
    """What was being written into a folder by processes that were killed, or is by some that still live."""
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    return []


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
