"""Claims: a worker takes a run by creating its lease file, renews it, and loses it if it stops renewing.

The lease file is created with O_EXCL, so one worker wins. Its modification time is its pulse. A lease is stale when
its holder ran on this machine and is gone, or when the pulse is older than :data:`STALE_AFTER` by the file system's own
clock. A stale lease is renamed to a unique name, so that again one wins.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npasbench.errors import LeaseLost
from npasbench.running.files import writing

RENEW_EVERY = 10.0
STALE_AFTER = 90.0
_CLOCK_KEPT = 30.0


@dataclass
class Lease:
    """A run held by this process; :meth:`renew` keeps it, :meth:`release` gives it back."""

    path: Path
    token: str

    @classmethod
    def claim(cls, path: Path) -> Lease | None:
        """Take the run, or None if somebody else holds it.

        Raises:
            RunError: if the folder cannot be written to.
        """
        token = uuid.uuid4().hex
        content = json.dumps({"token": token, **_identity()})
        with writing(path):
            handle = _create(path)
        if handle is None and _take_over(path):
            with writing(path):
                handle = _create(path)
        if handle is None:
            return None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        return cls(path, token)

    def is_mine(self) -> bool:
        """Whether this worker still holds the run."""
        return _read(self.path).get("token") == self.token

    def check(self) -> None:
        """Raise :class:`LeaseLost` if another worker has taken the run over."""
        if not self.is_mine():
            raise LeaseLost(f"{self.path.parent} was taken over by another worker; this one leaves it alone.")

    def renew(self) -> None:
        """Give a sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Give the run back, if it is still held."""
        if self.is_mine():
            self.path.unlink(missing_ok=True)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether a living worker holds the run."""
        seen = _stat(path)
        return seen is not None and not _is_stale(path, seen, _read(path), surely=False)


@contextlib.contextmanager
def kept_alive(lease: Lease) -> Any:
    """Renew a lease from a background thread while the block runs."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_EVERY):
            lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()


def _create(path: Path) -> int | None:
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None


def _take_over(path: Path) -> bool:
    """Move a stale lease out of the way; True if the place is free now."""
    seen = _stat(path)
    if seen is None:
        return True
    content = _read(path)
    if not _is_stale(path, seen, content, surely=True):
        return False
    aside = path.with_name(f".stale-{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if not _is_the_same(aside, seen, content):  # somebody was quicker and this is their fresh lease: put it back
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return True


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_the_same(path: Path, seen: os.stat_result, content: dict[str, Any]) -> bool:
    """Whether it is the very file that was seen; one that was just created holds no token yet."""
    now = _stat(path)
    return (
        now is not None
        and (now.st_ino, now.st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns)
        and _read(path).get("token") == content.get("token")
    )


def _is_stale(path: Path, seen: os.stat_result, content: dict[str, Any], *, surely: bool) -> bool:
    """Whether its holder is gone. By the kept clock this is a guess, good for showing; ``surely`` asks the file system."""
    if content.get("machine") == _machine() and content.get("pid"):
        return _started(int(content["pid"])) != content.get("started")
    if not _is_old(seen, _kept_clock(path.parent, seen.st_dev)):
        return False
    return not surely or _is_old(seen, _clock(path.parent))


def _is_old(seen: os.stat_result, now: float) -> bool:
    return now - seen.st_mtime > STALE_AFTER


_clocks: dict[int, tuple[float, float]] = {}


def _kept_clock(folder: Path, device: int) -> float:
    """As :func:`_clock`, asked of each file system once in a while and counted on in between; it does not run ahead."""
    read, at = _clocks.get(device, (0.0, -_CLOCK_KEPT))
    if time.monotonic() - at >= _CLOCK_KEPT:
        read, at = _clock(folder), time.monotonic()
        _clocks[device] = read, at
    return read + time.monotonic() - at


def _clock(folder: Path) -> float:
    """The file system's clock, which all workers share."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _identity() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


@functools.cache
def _machine() -> str:
    """This machine, boot and process namespace: within it a process number means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, or None if it is gone: tells a reused number from the holder."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return _alive(pid)
    return None if fields[0] == "Z" else fields[19]


def _alive(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return "alive" if not Path("/proc/self/stat").exists() else None
