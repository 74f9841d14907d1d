"""Runs that a worker has not to itself: those that another holds, and those that were begun and left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from npasbench.plan import RunSpec
from npasbench.running.lease import RENEW_EVERY, Lease
from npasbench.running.rundir import RunDirectory

_LOOK_EVERY = 2.0


def left_by_others(specs: Sequence[RunSpec], root: Path) -> Iterator[RunSpec]:
    """Runs that were begun, are not ended and are held by nobody: of workers that were killed or whose node is gone."""
    for spec in specs:
        directory = RunDirectory.of(root, spec)
        if directory.log_file.exists() and directory.open_to_work() and not Lease.is_held(directory.lease_file):
            yield spec


def wait_for_holders(specs: Sequence[RunSpec], root: Path, should_stop: Callable[[], bool]) -> bool:
    """Wait until every open run of ``specs`` is in the hands of a living worker, or free; True if one is free.

    A node that died leaves its leases behind. Its job may start again elsewhere before they are stale, and must not
    take its own run for somebody else's: a holder counts as living once its lease has been renewed.
    """
    pulses = {file: pulse for file in _held(specs, root) if (pulse := _pulse(file)) is not None}
    until = time.monotonic() + RENEW_EVERY * 12
    while pulses and time.monotonic() < until and not should_stop():
        time.sleep(_LOOK_EVERY)
        pulses = {file: pulse for file, pulse in pulses.items() if _pulse(file) == pulse and Lease.is_held(file)}
    directories = [RunDirectory.of(root, spec) for spec in specs]
    return any(one.open_to_work() and not Lease.is_held(one.lease_file) for one in directories)


def _held(specs: Sequence[RunSpec], root: Path) -> list[Path]:
    directories = [RunDirectory.of(root, spec) for spec in specs]
    return [one.lease_file for one in directories if one.open_to_work() and Lease.is_held(one.lease_file)]


def _pulse(lease: Path) -> float | None:
    try:
        return lease.stat().st_mtime
    except OSError:
        return None
