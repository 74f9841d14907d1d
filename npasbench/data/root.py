"""Where the data sets lie that have to be brought along."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "NPASBENCH_DATA"


def data_root(given: Path | None = None) -> Path:
    """The folder as given, else the one that ``NPASBENCH_DATA`` names, else ``./data``; absolute."""
    return (given or Path(os.environ.get(VARIABLE) or "data")).expanduser().absolute()
