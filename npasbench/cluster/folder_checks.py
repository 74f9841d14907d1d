"""What the file system below the runs can do, of all that leases, checkpoints and results ask of it: tried."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from npasbench.cluster.checks import Check

_LITTLE, _TOO_LITTLE = 5e9, 2e8
_FEW_FILES = 20_000
_SKEW = 2.0
_REPLACEMENTS = 100
_CONTENT = b"x" * 20_000
_OF_ONE_MACHINE = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs")


def folder_checks(runs: Path) -> Iterator[Check]:
    """Look at the folder of all runs, or, before it is made, at the one that it will be made in."""
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not folder.is_dir():
        yield Check("folder", "wrong", f"{folder} is a file. Name a folder with --runs.")
        return
    where = f"{runs}" if folder == runs.absolute() else f"{runs} is not there yet; {folder}"
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
    except OSError as error:
        yield Check("folder", "wrong", f"{where} cannot be written to: {error.strerror}.")
        return
    try:
        yield Check("folder", "ok", f"{where} can be written to, on {file_system(folder) or 'an unknown file system'}")
        yield _space(folder)
        for name, trial, failing in _TRIALS:
            yield _tried(name, trial, failing, probe)
        yield _clock(probe)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def file_system(folder: Path) -> str:
    """The type of the file system of a folder, such as ``nfs4``; empty if unknown."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    path = folder.resolve()
    found = [(len(Path(at).parts), kind) for _, at, kind, *_ in mounts if path.is_relative_to(at)]
    return max(reversed(found), key=lambda one: one[0])[1] if found else ""


def is_of_one_machine(folder: Path) -> bool:
    """Whether other machines surely do not see a folder."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return file_system(there) in _OF_ONE_MACHINE


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    files = os.statvfs(folder).f_favail if hasattr(os, "statvfs") else 0
    said = f"{free / 2**30:,.1f} GiB free"
    if free < _TOO_LITTLE:
        return Check("space", "wrong", f"{said}: too little for the checkpoints of one run")
    if 0 < files < _FEW_FILES:
        return Check("space", "note", f"{said}, but only {files:,} more files; a run takes about 12")
    return Check("space", "note" if free < _LITTLE else "ok", said)


def _exclusive(folder: Path) -> str:
    path = folder / "exclusive"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return ""
    return "a file could be created twice"


def _replacing(folder: Path) -> str:
    """Put files into one place while another thread reads them: it must never find none, or a part of one."""
    path, over, odd = folder / "replaced", threading.Event(), []
    path.write_bytes(_CONTENT)

    def read() -> None:
        while not over.is_set():
            try:
                if path.read_bytes() != _CONTENT:
                    odd.append("a reader saw half a file")
            except OSError as error:
                odd.append(f"a reader saw no file ({error.strerror})")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(_REPLACEMENTS):
            new = folder / f"new-{number}"
            new.write_bytes(_CONTENT)
            new.replace(path)
    finally:
        over.set()
        reader.join()
    return odd[0] if odd else ""


def _linking(folder: Path) -> str:
    first, second = folder / "linked", folder / "link"
    first.write_bytes(b"first")
    os.link(first, second)
    try:
        os.link(first, second)
    except FileExistsError:
        return ""
    return "a link took the place of a file"


_Trial = Callable[[Path], str]
_TRIALS: tuple[tuple[str, _Trial, str], ...] = (
    ("exclusive files", _exclusive, "two workers may do the same run"),
    ("atomic renaming", _replacing, "results and checkpoints may be read half written"),
    ("hard links", _linking, "results cannot be written"),
)


def _tried(name: str, trial: _Trial, failing: str, folder: Path) -> Check:
    try:
        wrong = trial(folder)
    except OSError as error:
        wrong = str(error.strerror)
    return Check(name, "wrong", f"{wrong}: {failing}") if wrong else Check(name, "ok", "work")


def _clock(folder: Path) -> Check:
    """The file system's clock, by which leases grow old, against this machine's."""
    path = folder / "clock"
    before = time.time()
    path.touch()
    stamp, after = path.stat().st_mtime, time.time()
    skew = stamp - after if stamp > after else min(0.0, stamp - before)
    if abs(skew) <= _SKEW:
        return Check("clock", "ok", f"the file system's is within {_SKEW:g} seconds of this machine's")
    which = "ahead of" if skew > 0 else "behind"
    return Check(
        "clock",
        "note",
        f"the file system's is {abs(skew):,.0f} seconds {which} this machine's; leases go by the file system's alone",
    )
