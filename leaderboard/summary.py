"""The results in a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from . import words
from .standings import deciding_budget, reason, smallest

if TYPE_CHECKING:
    from rich.table import Table as Grid
    from rich.text import Text

    from .board import Board, Cell, Entry
    from .site import SiteSummary

_WIDEST = 200
_UNRANKED = (
    "Not ranked: cells with too few of the task's seeds (3 of 10), or of which some failed or were refused (2 lost)."
)


def show(summary: SiteSummary, file: IO[str]) -> None:
    """Print a table for each task, and what was found wrong."""
    from rich.console import Console

    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDEST
    for board in summary.boards:
        console.print(_grid(board))
        if any(cell.lacks for entry in board.entries for cell in entry.cells.values()):
            console.print(_UNRANKED, style="dim")
        for notice in board.notices:
            console.print(f"! {notice}", style="yellow")
    for problem in summary.problems:
        console.print(f"! {words.plain(problem)}", style="red")


def as_json(summary: SiteSummary) -> dict[str, Any]:
    """What ``--json`` prints."""
    tasks = [
        {"task": board.task, "fingerprint": board.fingerprint, "notices": board.notices, "cells": list(_cells(board))}
        for board in summary.boards
    ]
    return {"index": str(summary.index), "pages": summary.pages, "problems": summary.problems, "tasks": tasks}


def _grid(board: Board) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    title = Text(
        f"{board.name} · {words.plain(board.fingerprint[:8])} · accuracy in %, mean ± 95 % interval, tie letter"
    )
    grid = Grid(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("entry", no_wrap=True)
    for budget in board.budgets:
        grid.add_column(Text(words.budget(budget)), justify="right", no_wrap=True)
    for entry in _ordered(board):
        grid.add_row(Text(entry.title), *(_cell(board, entry, budget) for budget in board.budgets))
    return grid


def _ordered(board: Board) -> list[Entry]:
    decisive = deciding_budget(board)

    def place(entry: Entry) -> tuple[float, str]:
        interval = entry.cell(decisive).accuracy if entry.ranked_at(decisive) else None
        return -(interval.mean if interval else -1.0), entry.title

    return sorted(board.entries, key=place)


def _cell(board: Board, entry: Entry, budget: str) -> Text:
    from rich.text import Text

    cell = entry.cell(budget)
    interval = cell.accuracy
    if interval is None:
        least = smallest(cell)
        said = f"needs {words.count(least)}" if cell.kind == "refused" and least else cell.kind
        return Text(said, style="dim")
    leader = board.leaders.get(budget)
    style = (
        {"leader": "bold green", "tied": "green", "": ""}[board.standing(entry, budget)]
        if leader and leader.told
        else ""
    )
    half = f" ± {words.percent(interval.half)}" if interval.n > 1 else ""
    place = board.place(entry, budget) if leader and leader.told else None
    letters = f" {place.letters}" if place and place.letters else ""
    return Text(f"{words.percent(interval.mean)}{half}{letters}{_mark(cell)}", style=style)


def _mark(cell: Cell) -> str:
    if cell.lacks:
        n, every = len(cell.scores), len(cell.seeds)
        return f" ({sum(cell.lost.values())} lost)" if cell.lost else f" ({n} of {every})" if every else f" ({n})"
    return {"trial": " (trial)", "over-budget": " (over)"}.get(cell.kind, "")


def _cells(board: Board) -> Iterator[dict[str, Any]]:
    for entry in board.entries:
        for budget in board.budgets:
            cell = entry.cell(budget)
            mean, place, compared = cell.accuracy, board.place(entry, budget), board.comparison(entry, budget)
            gap = compared.difference if compared else None
            yield {
                "label": entry.label, "definition": entry.variant or None, "method": entry.definition.method, "budget": budget,
                "state": cell.kind, "ranked": entry.ranked_at(budget), "standing": board.standing(entry, budget) or None,
                "letters": (place and place.letters) or None, "ranks": place and [place.first, place.last],
                "seeds": mean.n if mean else 0, "accuracy": mean and [mean.mean, mean.low, mean.high],
                "difference_to_narrow": gap and [gap.mean, gap.low, gap.high],
                "told_from_narrow": compared and {"verdict": compared.verdict, "p": compared.p, "corrected": compared.corrected,
                                                  "family": compared.family},
                "reason": reason(cell),
            }  # fmt: skip
