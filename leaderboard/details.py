"""What the accuracy cost: counts, side information, time and memory, one row a cell, sortable."""

from __future__ import annotations

from collections.abc import Iterator

from . import words
from .board import Board, Cell, Entry
from .figures import colour
from .measures import MEASURES
from .names import Names
from .standings import cell_item
from .statistics import Interval
from .tables import Column, Item, Part, Plain, Row, Sheet, Table


def details(board: Board, names: Names, csv: str) -> Table:
    """Every cell with numbers: NLL, calibration and costs. Counts are the largest over seeds, costs the median."""
    columns = (
        Column("Entry", text=True), Column("Budget"), Column("Accuracy", "%"), Column("NLL", "nats"), Column("ECE", "%"),
        *(measure.column for measure in MEASURES),
        Column("Certified", "runs", "Runs whose budget certificate passed"), Column("Device", text=True),
    )  # fmt: skip
    found = [
        (entry, entry.cell(budget)) for entry in board.entries for budget in board.budgets if entry.cell(budget).counted
    ]
    found.sort(key=lambda pair: (board.budgets.index(pair[1].budget), pair[0].label, pair[0].variant))
    rows = tuple(_row(board, entry, cell, names) for entry, cell in found)
    sheet = Sheet(_heads(), tuple(tuple(_line(entry, cell)) for entry, cell in found))
    caption = (
        "NLL and expected calibration error are means ± half of the 95 % interval. Counts are the largest over seeds, costs the "
        "median. Times and memory compare only on the same device."
    )
    return Table("details", caption, columns, rows, sheet, csv, searchable=True)


def devices(cell: Cell) -> str:
    """Where the counted runs ran; several are all named."""
    found = {str(run.record.provenance.get("device") or "unknown") for run in cell.counted if run.record}
    return words.plain(", ".join(sorted(found)))


def _row(board: Board, entry: Entry, cell: Cell, names: Names) -> Row:
    href = f"../{names.cell(board, entry, cell)}"
    accuracy = cell_item(board, entry, cell.budget, href)
    head = Item(entry.title, order=entry.title, href=href, swatch=colour(board, entry), badges=_marks(accuracy))
    budget = Item(words.budget(cell.budget), order=board.parameters(cell.budget))
    score = Item(accuracy.text, order=accuracy.order, spread=accuracy.spread, runs=accuracy.runs)
    return Row(
        (
            head, budget, score, _mean(cell.metric("nll"), 3, 1), _mean(cell.metric("ece"), 2, 100),
            *(measure.item(cell) for measure in MEASURES), _certificates(cell), Item(devices(cell), order=devices(cell)),
        )
    )  # fmt: skip


def _marks(item: Item) -> tuple[Part, ...]:
    return tuple(part for part in item.badges if part.tone not in ("lead", "tie"))


def _mean(interval: Interval | None, digits: int, scale: float) -> Item:
    if interval is None:
        return Item(words.MISSING)
    half = "" if interval.n == 1 else f"± {words.number(interval.half, digits, scale=scale)}"
    return Item(words.number(interval.mean, digits, scale=scale), order=interval.mean, spread=half)


def _passed(cell: Cell) -> int:
    return sum(1 for run in cell.counted if run.record and run.record.certificate and run.record.certificate.passed)


def _certificates(cell: Cell) -> Item:
    passed, every = _passed(cell), len(cell.counted)
    badges = (Part("failed", "bad"),) if cell.breaches else ()
    return Item(f"{passed} of {every}", order=passed / every, badges=badges, tone="" if passed == every else "unranked")


def _heads() -> tuple[str, ...]:
    means = ("nll", "nll_half", "ece", "ece_half")
    return ("label", "budget", "state", "seeds", *means, *(measure.key for measure in MEASURES), "certified", "device")


def _line(entry: Entry, cell: Cell) -> Iterator[Plain]:
    yield from (entry.title, words.plain(cell.budget), cell.kind, len(cell.counted))
    for name in ("nll", "ece"):
        interval = cell.metric(name)
        yield from (interval.mean, interval.half) if interval else (None, None)
    yield from (measure.value(cell) for measure in MEASURES)
    yield from (_passed(cell), devices(cell))
