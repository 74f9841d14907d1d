"""What pages and anchors are called: slugs that cannot leave their folder, unique, and the same each time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from .board import Board, Cell, Entry
from .store import Run

Key = TypeVar("Key", bound=Hashable)


def slug(text: str) -> str:
    """Lower-case letters, digits and single dashes or dots; never empty, never starting with a dot."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.]+|\.\.+", "-", ascii_text).strip("-.")[:60].strip("-.") or "x"


def unique(wanted: Mapping[Key, str]) -> dict[Key, str]:
    """A slug for each key, numbered where two would be the same; the order of the mapping decides."""
    taken: dict[str, int] = {}
    names: dict[Key, str] = {}
    for key, text in wanted.items():
        base = name = slug(text)
        while name in taken:
            taken[base] += 1
            name = f"{base}-{taken[base]}"
        taken[name] = 1
        names[key] = name
    return names


def safe_link(address: object) -> str:
    """The address if it is an http or https link, else nothing."""
    try:
        parts = urlsplit(str(address).strip())
    except ValueError:
        return ""
    return str(address).strip() if parts.scheme in ("http", "https") and parts.netloc else ""


@dataclass(frozen=True)
class Names:
    """Every page's name. Addresses are relative to the site's root."""

    tasks: Mapping[tuple[str, str], str]
    methods: Mapping[str, str]
    runs: Mapping[str, str]
    cells: Mapping[tuple[tuple[str, str], str, int, str], str]

    @classmethod
    def of(cls, boards: Iterable[Board]) -> Names:
        """Names for all boards, their methods, runs and cells."""
        every = list(boards)
        entries = [(board, entry) for board in every for entry in board.entries]
        tasks = unique({board.key: f"{board.task[:48]}-{board.fingerprint[:8]}" for board in every})
        methods = unique({name: name for name in sorted({entry.definition.method for _, entry in entries})})
        runs = {
            where: f"{tasks[board.key]}/{name}"
            for board in every
            for where, name in unique({run.where: _run(run) for run in board.runs}).items()
        }
        cells = unique(
            {
                (
                    board.key,
                    entry.label,
                    entry.variant,
                    budget,
                ): f"{tasks[board.key]}-{entry.label[:30]}-{entry.variant}-{budget}"[-60:]
                for board, entry in entries
                for budget in entry.cells
            }
        )
        return cls(tasks, methods, runs, cells)

    def task(self, board: Board) -> str:
        """A task's page."""
        return f"tasks/{self.tasks[board.key]}.html"

    def compare(self, board: Board) -> str:
        """A task's page of two entries side by side."""
        return f"compare/{self.tasks[board.key]}.html"

    def method(self, name: str) -> str:
        """A method's page."""
        return f"methods/{self.methods[name]}.html"

    def run(self, run: Run) -> str:
        """A run's page."""
        return f"runs/{self.runs[run.where]}.html"

    def anchor(self, board: Board, entry: Entry, cell: Cell) -> str:
        """Where a cell stands on its method's page."""
        return f"cell-{self.cells[board.key, entry.label, entry.variant, cell.budget]}"

    def cell(self, board: Board, entry: Entry, cell: Cell) -> str:
        """A cell on its method's page: where each of its runs is listed."""
        return f"{self.method(entry.definition.method)}#{self.anchor(board, entry, cell)}"


def _run(run: Run) -> str:
    identity = run.identity
    return f"{identity.label[:30]}-{identity.budget[:12]}-seed{identity.seed}-{identity.fingerprint[:8]}"
