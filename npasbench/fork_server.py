"""The process that other processes are forked from, started so that it finds the modules that its parent finds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import forkserver

_SAFE_PATH = "PYTHONSAFEPATH"


def start(preload: Sequence[str]) -> None:
    """Start it, unless it runs, and have it import modules once for all that are forked from it.

    Python would let it look for modules in the current folder first, where a clone of this repository is taken for the
    package; so it, and whatever it starts, looks there no more. Modules that its children need reach them by their
    parent's own path.
    """
    forkserver.set_forkserver_preload(list(preload))
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
