"""What the page of published figures says: each with its source, and beside it what was measured here, if anything was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import words
from .board import Board
from .names import Names, safe_link
from .reported import Match, Reported, figures, matches
from .tables import Column, Fact, Item, Part, Plain, Row, Sheet, Table

CSV = "reported.csv"
_SHEET = (
    "dataset", "architecture", "method", "parameters", "budget", "metric", "value", "std", "note", "paper", "table", "task",
    "source_url", "read_at_source", "measured_task", "measured_label", "measured_budget", "measured", "measured_half",
    "difference",
)  # fmt: skip


@dataclass(frozen=True)
class ReportedPage:
    """The page."""

    tiles: tuple[Fact, ...]
    table: Table


def reported_page(boards: Sequence[Board], names: Names) -> ReportedPage:
    """Every published figure, and the measured cells that it compares with."""
    found = [(figure, matches(figure, boards)) for figure in figures()]
    joined = sum(1 for _, ours in found if ours)
    tiles = (
        Fact("published figures", words.count(len(found))),
        Fact("sources", words.count(len({figure.paper for figure, _ in found}))),
        Fact("measured here too", words.count(joined)),
    )
    columns = (
        Column("Method", text=True), Column("Data set", text=True), Column("Architecture", text=True),
        Column("Size", "parameters", "Millions, or a part of the dense network", key="size"), Column("Metric", text=True),
        Column("Published", "not run here", key="published"), Column("Measured here", key="measured"),
        Column("Difference", "to published", "Measured less published", key="difference"), Column("Source", text=True),
        Column("Kind of task", text=True, extra=True), Column("Note", text=True),
    )  # fmt: skip
    rows = tuple(row for figure, ours in found for row in _rows(figure, ours, names))
    lines = tuple(line for figure, ours in found for line in _lines(figure, ours))
    caption = (
        "Figures as their sources give them; nobody ran them here, their recipes differ from ours, and they are never ranked. "
        "A measured number stands beside one only where data set, architecture, method and budget agree."
    )
    filters = ("Data set", "Method", "Metric", "Paper", "Measured here")
    return ReportedPage(
        tiles, Table("reported", caption, columns, rows, Sheet(_SHEET, lines), CSV, searchable=True, filters=filters)
    )


def _rows(figure: Reported, ours: Sequence[Match], names: Names) -> list[Row]:
    """One row for a figure, or one for each cell that it compares with."""
    return [_row(figure, match, names) for match in ours] or [_row(figure, None, names)]


def _row(figure: Reported, match: Match | None, names: Names) -> Row:
    spread = f"± {words.number(figure.std, 2)}" if figure.std is not None else ""
    badges = (
        () if figure.read_at_source else (Part("second hand", "warn", "read in an index, not in the source itself"),)
    )
    source = Item(
        figure.paper, order=figure.paper, href=safe_link(figure.source_url), small=(Part(figure.table),), badges=badges
    )
    items = (
        Item(figure.method, order=figure.method), Item(figure.dataset, order=figure.dataset or None),
        Item(figure.architecture, order=figure.architecture or None), _size(figure),
        Item(figure.metric, order=figure.metric, tone="metric"),
        Item(words.number(figure.value, figure.digits), order=figure.value, spread=spread, half=figure.std, tone="unranked"),
        *_measured(figure, match, names), source, Item(figure.task, order=figure.task),
        Item(figure.note, order=figure.note or None, tone="metric"),
    )  # fmt: skip
    return Row(items, facets=(figure.dataset, figure.method, figure.metric, figure.paper, "yes" if match else "no"))


def _size(figure: Reported) -> Item:
    if figure.parameters is not None:
        return Item(f"{figure.parameters / 1e6:g} M", order=figure.parameters)
    return Item(f"{100 * figure.budget:g} %", order=figure.budget) if figure.budget is not None else Item("")


def _measured(figure: Reported, match: Match | None, names: Names) -> tuple[Item, Item]:
    if match is None:
        return Item(""), Item("")
    digits = max(figure.digits, 2)
    mean, half = match.measured.mean, match.measured.half
    shown = Item(
        words.number(mean, digits), order=mean, spread=f"± {words.number(half, digits)}", half=half,
        href=names.cell(match.board, match.entry, match.cell), runs=tuple(run.where for run in match.cell.counted),
        small=(Part(f"{match.entry.title} at {words.budget(match.cell.budget)} on {match.board.name}"),),
    )  # fmt: skip
    sign = "+" if match.difference > 0 else ""
    return shown, Item(f"{sign}{words.number(match.difference, digits)}", order=match.difference)


def _lines(figure: Reported, ours: Sequence[Match]) -> list[tuple[Plain, ...]]:
    told = (
        figure.dataset, figure.architecture, figure.method, figure.parameters, figure.budget, figure.metric, figure.value,
        figure.std, figure.note, figure.paper, figure.table, figure.task, safe_link(figure.source_url),
        "yes" if figure.read_at_source else "no",
    )  # fmt: skip
    cells: list[tuple[Plain, ...]] = [
        (
            one.board.name,
            one.entry.title,
            words.plain(one.cell.budget),
            one.measured.mean,
            one.measured.half,
            one.difference,
        )
        for one in ours
    ]
    return [(*told, *cell) for cell in cells or [(None,) * 6]]
