"""The task cards that results may be of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.errors import CardError

if TYPE_CHECKING:
    from npasbench.card import Card
    from npasbench.running.record import Record


class Cards:
    """The cards that results may be of: those that the user names, and those installed."""

    def __init__(self, files: Sequence[str]) -> None:
        from npasbench.card import read_card
        from npasbench.registry import Registry

        self._given = [read_card(Path(file)) for file in files]
        self._registry = Registry()
        self._installed: dict[str, Card | None] = {}

    def of(self, record: Record) -> Card | None:
        """The card of a record's fingerprint; else one of its task's name."""
        candidates = [one for one in (*self._given, self._named(record.task)) if one]
        exact = [one for one in candidates if one.fingerprint == record.task_fingerprint]
        named = [one for one in candidates if one.name == record.task]
        return next(iter([*exact, *named]), None)

    def _named(self, name: str) -> Card | None:
        from npasbench.card import Card

        if name not in self._installed:
            try:
                known = name in self._registry.names(Card)
                self._installed[name] = self._registry.card(name) if known else None
            except CardError:
                self._installed[name] = None
        return self._installed[name]
