"""Where the data sets lie that have to be brought along."""

from __future__ import annotations

import os
from pathlib import Path

from npasbench.errors import UsageError

VARIABLE = "NPASBENCH_DATA"


def data_root(given: Path | None = None) -> Path:
    """The folder as given, else the one that ``NPASBENCH_DATA`` names, else ``./data``; absolute.

    Raises:
        UsageError: if something else than a folder is there.
    """
    found = (given or Path(os.environ.get(VARIABLE) or "data")).expanduser().absolute()
    if found.exists() and not found.is_dir():
        raise UsageError(
            f"{found} is no folder. Name the folder that holds the data sets with --data-root or {VARIABLE}."
        )
    return found
