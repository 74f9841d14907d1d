"""Words that verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npasbench.running.rundir import RunDirectory


def plural(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def what_is_wrong(directory: RunDirectory) -> str:
    """Why a run's result cannot be read, naming its file; empty if it can."""
    from npasbench.errors import RunError
    from npasbench.running import record

    try:
        record.read(directory.result_file)
    except RunError as error:
        return str(error)
    return ""
