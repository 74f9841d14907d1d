"""Which runs are trained again: drawn from those that are new, by a seed that whoever sent them could not know."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.running.verification import digest

from . import store

if TYPE_CHECKING:
    from npasbench.running.record import Record

    from .store import Run


@dataclass(frozen=True)
class Lots:
    """What was drawn, and from how many."""

    seed: str
    """The same seed draws the same runs from the same records."""
    wished: int
    drawn: tuple[str, ...]
    """Fingerprints."""
    able: int
    """How many runs could have been drawn."""
    unable: Mapping[str, int]
    """How many could not, by the reason."""
    known: int = 0
    """How many were passed over since they are not new."""

    @property
    def short_of(self) -> int:
        """How many runs fewer were drawn than was wished."""
        return self.wished - len(self.drawn)


def unforeseen() -> str:
    """A seed that nobody knows beforehand."""
    return secrets.token_hex(8)


def lines_at(path: Path) -> frozenset[str]:
    """Digests of the results at a path, none of an empty folder; whatever has another one is new or was changed.

    Raises:
        UsageError: if there is no such path.
    """
    if path.is_dir() and not any(path.iterdir()):
        return frozenset()
    return frozenset(digest(store.line(run)) for run in store.everything(path, []) if run.record)


def draw(
    records: Iterable[tuple[Run, Record]],
    wished: int,
    seed: str,
    known: frozenset[str],
    unable: Callable[[Run, Record], str],
) -> Lots:
    """Draw as many runs as are wished, each run once, from those whose results are not ``known``.

    ``unable`` says why a run cannot be trained again, or nothing.
    """
    new: dict[str, tuple[Run, Record]] = {}
    passed: set[str] = set()
    for run, record in records:
        if digest(store.line(run)) in known:
            passed.add(record.fingerprint)
        else:
            new.setdefault(record.fingerprint, (run, record))
    why = {fingerprint: unable(*one) for fingerprint, one in sorted(new.items())}
    able = [fingerprint for fingerprint, reason in why.items() if not reason]
    random.Random(seed).shuffle(able)
    reasons = Counter(reason for reason in why.values() if reason)
    return Lots(seed, wished, tuple(able[:wished]), len(able), reasons, len(passed - new.keys()))
