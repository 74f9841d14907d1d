"""BibTeX of the papers behind what a page shows, each once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .store import Run

_LONGEST = 20_000


def cited(runs: Iterable[Run]) -> str:
    """The citations of the runs' methods in order of the method's name; of a method the newest version's."""
    newest: dict[str, tuple[int, str, str]] = {}
    for run in runs:
        record = run.record
        cite = str(record.provenance.get("method_cite") or "").strip() if record else ""
        if record and cite:
            told = (record.method_version, str(record.provenance.get("finished")), cite[:_LONGEST])
            newest[record.method] = max(newest.get(record.method, told), told)
    # Two methods of one paper bring the same text, but for white space.
    once = {re.sub(r"\s+", " ", cite): cite for _, (_, _, cite) in sorted(newest.items())}
    return "\n\n".join(once.values())
