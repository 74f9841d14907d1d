"""What a run's page is made of, as a digest: a page that would come out the same is not rendered again."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import npasbench

from .board import Board, Cell, Entry
from .names import Names
from .store import Run

_LIMIT = 50_000_000
"""Bytes; a run whose files are larger is rendered each time."""


def around(board: Board, entry: Entry, cell: Cell, names: Names) -> str:
    """What the pages of all runs of a cell have in common, and the code that makes them, for :func:`made_of`."""
    pages = (names.task(board), names.method(entry.definition.method), names.cell(board, entry, cell))
    siblings = [(names.run(one), one.identity.seed, one.outcome, one.accuracy, one.trial) for one in cell.runs]
    return json.dumps([_code(), pages, board.name, entry.title, cell.budget, siblings, _card(board)])


def made_of(around: str, run: Run, names: Names) -> str:
    """A digest of all that the page shows, and of the code that shows it; empty if it cannot be told."""
    content = _content(run)
    if not content:
        return ""
    own = (names.run(run), run.state, run.error, run.fault, run.verified, run.where.partition(":")[0])
    told = json.dumps([around, content, own])
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _content(run: Run) -> str:
    """Of what the run itself left."""
    if run.directory is None:
        return run.digest
    one = run.directory
    digest = hashlib.sha256()
    for file in (one.result_file, one.spec_file, one.metrics_file, one.failure_file):
        try:
            if file.is_file():
                if file.stat().st_size > _LIMIT:
                    return ""
                digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
        except OSError:
            return ""
    return digest.hexdigest()


@cache
def _code() -> str:
    """The code and the templates of the site."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *here.glob("templates/*.j2")])
    digest = hashlib.sha256(npasbench.__version__.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _card(board: Board) -> str:
    return hashlib.sha256(json.dumps(dict(board.card), sort_keys=True, default=str).encode()).hexdigest()
