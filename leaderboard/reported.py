"""Published figures, which nobody measured here, and the measured cells that they compare with."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from .board import Board, Cell, Entry
from .statistics import Interval

_METHODS = {
    "dense": ("dense", 1),
    "deterministic": ("dense", 1),
    "deep ensemble": ("deep-ensemble", 4),
    "ensemble": ("deep-ensemble", 4),
    "batchensemble": ("batch-ensemble", 4),
    "mimo": ("mimo", 3),
    "ssn": ("ssn", 1),
}
"""How the papers' methods are called here, and how many members they have where the paper names no size."""
_ENSEMBLES = ("batch-ensemble", "mimo")
"""Ensembles inside one network: their task has that network as its only member."""
_METRICS = {"accuracy (%)": ("accuracy", 0.01, 0.0), "error (%)": ("accuracy", -0.01, 1.0), "NLL": ("nll", 1.0, 0.0),
            "ECE": ("ece", 1.0, 0.0)}  # fmt: skip
"""How a figure's metric follows from a measured one: which, and factor and offset from the figure to it."""
_SAME_SIZE = 0.01
"""Counts in papers are rounded: they agree if they differ by less than this part."""


@dataclass(frozen=True)
class Reported:
    """One figure as its source gives it, restated; nothing is known of a field that is None or empty."""

    paper: str
    table: str
    task: str
    dataset: str
    architecture: str
    method: str
    parameters: int | None
    budget: float | None
    """A fraction of the dense network."""
    metric: str
    value: float
    digits: int
    """Decimals that the source gives."""
    std: float | None
    note: str
    source_url: str
    read_at_source: bool
    """Whether the source itself was read, and not an index of it."""


@dataclass(frozen=True)
class Match:
    """A measured cell of the same data set, architecture, method and budget, in the figure's unit."""

    board: Board
    entry: Entry
    cell: Cell
    measured: Interval
    difference: float
    """Measured less published."""


@cache
def figures() -> tuple[Reported, ...]:
    """Every figure that the package brings, in the file's order."""
    text = (resources.files(__package__ or __name__) / "reported" / "figures.csv").read_text(encoding="utf-8")
    return tuple(_read(row) for row in csv.DictReader(text.splitlines()))


def matches(figure: Reported, boards: Iterable[Board]) -> tuple[Match, ...]:
    """The measured cells that a figure compares with; what does not rank compares with nothing."""
    metric = _METRICS.get(figure.metric)
    method = _method(figure)
    if metric is None or method is None or not figure.dataset or not figure.architecture:
        return ()
    found = []
    for board in boards:
        if _plain(_data_set(board)) == _plain(figure.dataset) and _architecture_agrees(board, figure, *method):
            for entry in board.entries:
                if entry.definition.method == method[0]:
                    found += [match for cell in entry.cells.values() if (match := _match(board, entry, cell, figure))]
    return tuple(found)


def _match(board: Board, entry: Entry, cell: Cell, figure: Reported) -> Match | None:
    name, factor, offset = _METRICS[figure.metric]
    measured = cell.accuracy if name == "accuracy" else cell.metric(name)
    if measured is None or not entry.ranked_at(cell.budget) or not _budget_agrees(board, entry, cell, figure):
        return None
    ends = sorted((end - offset) / factor for end in (measured.low, measured.high))
    shown = Interval((measured.mean - offset) / factor, ends[0], ends[1], measured.n)
    return Match(board, entry, cell, shown, shown.mean - figure.value)


def _budget_agrees(board: Board, entry: Entry, cell: Cell, figure: Reported) -> bool:
    """By the count of parameters where the source gives one, else by the fraction; a dense network has its own size."""
    if figure.parameters:
        counts = [run.record.parameters.get("total", 0) for run in cell.counted if run.record]
        return bool(counts) and math.isclose(max(counts), figure.parameters, rel_tol=_SAME_SIZE)
    fraction = board.fraction(cell.budget)
    wanted = 1.0 if entry.definition.method == "dense" and figure.budget is None else figure.budget
    return fraction is not None and wanted is not None and math.isclose(fraction, wanted, rel_tol=_SAME_SIZE)


def _architecture_agrees(board: Board, figure: Reported, method: str, size: int) -> bool:
    """Whether the board has the figure's architecture: once, or as often as an ensemble has networks."""
    members = [_plain(str(member)) for member in _members(board)]
    copies = 1 if method in _ENSEMBLES else size
    return members == [_plain(figure.architecture)] * copies


def _method(figure: Reported) -> tuple[str, int] | None:
    """Our name of the figure's method, and how many networks it has."""
    match = re.fullmatch(r"(.*?)(?: \(size=(\d+)\))?", figure.method)
    known = _METHODS.get(match[1].lower()) if match else None
    if match is None or known is None:
        return None
    return known[0], int(match[2]) if match[2] else known[1]


def _data_set(board: Board) -> str:
    data = board.card.get("data")
    return str(data.get("set") or "") if isinstance(data, dict) else ""


def _members(board: Board) -> Sequence[object]:
    members = board.card.get("members")
    return members if isinstance(members, (list, tuple)) else ()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(row: dict[str, str]) -> Reported:
    return Reported(
        row["paper"], row["table"], row["task"], row["dataset"], row["architecture"], row["method"],
        int(row["parameters"]) if row["parameters"] else None, float(row["budget"]) if row["budget"] else None,
        row["metric"], float(row["value"]), len(row["value"].partition(".")[2]), float(row["std"]) if row["std"] else None,
        row["note"], row["source_url"], row["read_at_source"] == "yes",
    )  # fmt: skip
