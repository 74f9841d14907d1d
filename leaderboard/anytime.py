"""The anytime section of a task's page: which members to ask at which cost, by budget in two charts and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import words
from .anytime_figures import Found, anytime_figure
from .board import Board, Cell, Entry
from .details import devices
from .ensembles import LATENCY, MACS, Cost, Prediction, envelope, predictions
from .figures import Figure, colour
from .measures import mean_item
from .names import Names
from .standings import deciding_budget, spread
from .tables import Column, Item, Plain, Row, Sheet, Table

_COLUMNS = (
    Column("Entry", text=True),
    Column("Members", "asked together", text=True),
    Column("MACs", "millions", "Multiply-adds of one example's forward pass through these members"),
    Column("Latency", "ms", "Measured time of a prediction for one example by these members"),
    Column("Accuracy", "%"),
    Column("NLL", "nats"),
    Column("ECE", "%"),
    Column("Envelope", "of accuracy against", text=True),
)
_SHEET = (
    "label", "budget", "state", "members", "asked", "of", "seeds", "accuracy", "low", "high", "nll", "ece", "macs",
    "latency_seconds", "on_macs_envelope", "on_latency_envelope",
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One budget's two charts, and the subsets on their envelopes."""

    title: str
    opened: bool
    macs: Figure | None
    latency: Figure | None
    table: Table


@dataclass(frozen=True)
class Anytime:
    """The section."""

    panels: tuple[Panel, ...]
    sheet: Sheet
    """Every subset."""
    csv: str
    devices: str
    """Where latency was measured."""


@dataclass(frozen=True)
class _Line:
    """One prediction, and the envelopes that it stands on."""

    entry: Entry
    cell: Cell
    prediction: Prediction
    on: tuple[Cost, ...]


def anytime(board: Board, names: Names, csv: str) -> Anytime | None:
    """The section; None if no entry has members that can be asked apart."""
    every = {budget: _found(board, budget) for budget in board.budgets}
    told = {budget: found for budget, found in every.items() if any(_has_subsets(each) for _, each in found)}
    if not told:
        return None
    decisive = deciding_budget(board)
    opened = decisive if decisive in told else next(iter(told))
    lines = {budget: list(_lines(budget, found)) for budget, found in told.items()}
    panels = tuple(
        _panel(board, budget, found, lines[budget], names, budget == opened) for budget, found in told.items()
    )
    every_line = [line for budget in told for line in lines[budget]]
    sheet = Sheet(_SHEET, tuple(tuple(_written(line)) for line in every_line))
    where = sorted({devices(line.cell) for line in every_line if line.prediction.latency is not None})
    return Anytime(panels, sheet, csv, "; ".join(where))


def predicted(board: Board, budget: str = "") -> tuple[str, Found]:
    """The entries with numbers at a budget, or at the one that a page opens; none where no entry has members apart."""
    every = {one: _found(board, one) for one in ([budget] if budget else board.budgets)}
    told = {one: found for one, found in every.items() if any(_has_subsets(each) for _, each in found)}
    opened = deciding_budget(board)
    return (opened, told[opened]) if opened in told else next(iter(told.items()), (budget, []))


def _panel(board: Board, budget: str, found: Found, lines: Sequence[_Line], names: Names, opened: bool) -> Panel:
    rows = tuple(_row(board, line, names) for line in lines if line.on)
    caption = "The subsets on an envelope: means over seeds ± half of the 95 % interval; costs are the median."
    macs, latency = (anytime_figure(board, budget, found, cost) for cost in (MACS, LATENCY))
    table = Table("anytime", caption, _COLUMNS, rows, Sheet((), ()), searchable=True)
    return Panel(words.budget(budget), opened, macs, latency, table)


def _found(board: Board, budget: str) -> Found:
    """Every entry with numbers, in order of the label."""
    entries = sorted(board.entries, key=lambda entry: (entry is not board.reference, entry.label, entry.variant))
    return [(entry, each) for entry in entries if (each := predictions(entry.cell(budget)))]


def _has_subsets(every: Sequence[Prediction]) -> bool:
    return any(one.members for one in every)


def _lines(budget: str, found: Found) -> Iterator[_Line]:
    for entry, every in found:
        best = [(cost, envelope(every, cost)) for cost in (MACS, LATENCY)]
        for one in sorted(every, key=_price):
            yield _Line(entry, entry.cell(budget), one, tuple(cost for cost, kept in best if one in kept))


def _price(one: Prediction) -> tuple[float, int]:
    price = MACS.of(one)
    return math.inf if price is None else price, len(one.members)


def _row(board: Board, line: _Line, names: Names) -> Row:
    entry, cell, one = line.entry, line.cell, line.prediction
    href = f"../{names.cell(board, entry, cell)}"
    runs = tuple(run.where for run in cell.counted)
    asked = " + ".join(one.members) or "all at once"
    on = " and ".join(cost.name for cost in line.on)
    return Row(
        (
            Item(entry.title, order=entry.title, href=href, swatch=colour(board, entry)),
            Item(asked, order=asked, tone="asked", title=f"{len(one.members)} of {one.of}" if one.members else ""),
            *(Item(words.number(cost.of(one), cost.digits), order=cost.of(one), runs=runs) for cost in (MACS, LATENCY)),
            Item(words.percent(one.accuracy.mean), order=one.accuracy.mean, spread=spread(one.accuracy), runs=runs,
                 tone="" if entry.ranked_at(cell.budget) else "unranked"),
            mean_item(one.nll, 3), mean_item(one.ece, 2, 100), Item(on, order=on),
        )
    )  # fmt: skip


def _written(line: _Line) -> Iterator[Plain]:
    one = line.prediction
    yield from (
        line.entry.title,
        words.plain(line.cell.budget),
        line.cell.kind,
        "; ".join(one.members),
        len(one.members),
    )
    yield from (one.of, one.accuracy.n, one.accuracy.mean, one.accuracy.low, one.accuracy.high)
    yield from (interval.mean if interval else None for interval in (one.nll, one.ece))
    yield from (one.macs, one.latency, *("yes" if cost in line.on else "no" for cost in (MACS, LATENCY)))
