"""What the accuracy cost: counts, side information, time and memory, one row a cell, sortable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import words
from .board import Board, Cell, Entry
from .figures import colour
from .measures import DIVERSITY, MEASURES, Metric, metrics_of
from .names import Names
from .standings import cell_item
from .tables import Column, Item, Part, Plain, Row, Sheet, Table


def details(board: Board, names: Names, csv: str) -> Table:
    """Every cell with numbers: other metrics and costs. Counts are the largest over seeds, costs the median."""
    found = [
        (entry, entry.cell(budget)) for entry in board.entries for budget in board.budgets if entry.cell(budget).counted
    ]
    found.sort(key=lambda pair: (board.budgets.index(pair[1].budget), pair[0].label, pair[0].variant))
    metrics = metrics_of(cell for _, cell in found)
    columns = (
        Column("Entry", text=True), Column("Budget"), Column("Accuracy", "%"),
        *(metric.column for metric in metrics), *(measure.column for measure in MEASURES),
        Column("Certified", "runs", "Runs whose budget certificate passed"), Column("Device", text=True),
    )  # fmt: skip
    rows = tuple(_row(board, entry, cell, metrics, names) for entry, cell in found)
    sheet = Sheet(_heads(metrics), tuple(tuple(_line(entry, cell, metrics)) for entry, cell in found))
    told = words.listed(("NLL", "expected calibration error", *(["diversity"] if DIVERSITY in metrics else [])))
    caption = (
        f"{told} are means ± half of the 95 % interval. Counts are the largest over seeds, "
        "costs the median. Times and memory compare only on the same device."
    )
    return Table("details", caption, columns, rows, sheet, csv, searchable=True)


def devices(cell: Cell) -> str:
    """Where the counted runs ran; several are all named."""
    found = {str(run.record.provenance.get("device") or "unknown") for run in cell.counted if run.record}
    return words.plain(", ".join(sorted(found)))


def _row(board: Board, entry: Entry, cell: Cell, metrics: Sequence[Metric], names: Names) -> Row:
    href = f"../{names.cell(board, entry, cell)}"
    accuracy = cell_item(board, entry, cell.budget, href)
    head = Item(entry.title, order=entry.title, href=href, swatch=colour(board, entry), badges=_marks(accuracy))
    budget = Item(words.budget(cell.budget), order=board.parameters(cell.budget))
    score = Item(accuracy.text, order=accuracy.order, spread=accuracy.spread, runs=accuracy.runs)
    return Row(
        (
            head, budget, score, *(metric.item(cell) for metric in metrics),
            *(measure.item(cell) for measure in MEASURES), _certificates(cell), Item(devices(cell), order=devices(cell)),
        )
    )  # fmt: skip


def _marks(item: Item) -> tuple[Part, ...]:
    return tuple(part for part in item.badges if part.tone not in ("lead", "tie"))


def _passed(cell: Cell) -> int:
    return sum(1 for run in cell.counted if run.record and run.record.certificate and run.record.certificate.passed)


def _certificates(cell: Cell) -> Item:
    passed, every = _passed(cell), len(cell.counted)
    badges = (Part("failed", "bad"),) if cell.breaches else ()
    return Item(f"{passed} of {every}", order=passed / every, badges=badges, tone="" if passed == every else "unranked")


def _heads(metrics: Sequence[Metric]) -> tuple[str, ...]:
    means = (head for metric in metrics for head in (metric.key, f"{metric.key}_half"))
    return ("label", "budget", "state", "seeds", *means, *(measure.key for measure in MEASURES), "certified", "device")


def _line(entry: Entry, cell: Cell, metrics: Sequence[Metric]) -> Iterator[Plain]:
    yield from (entry.title, words.plain(cell.budget), cell.kind, len(cell.counted))
    for metric in metrics:
        interval = cell.metric(metric.key)
        yield from (interval.mean, interval.half) if interval else (None, None)
    yield from (measure.value(cell) for measure in MEASURES)
    yield from (_passed(cell), devices(cell))
