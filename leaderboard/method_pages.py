"""What a method's page says: what it is, how to cite it, and all its cells over tasks and labels with their runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import words
from .board import Board, Cell, Entry
from .figures import colour
from .measures import EXCHANGED, SEARCH, Measure
from .names import Names, safe_link
from .sharing_map import SHARING_MAP, sharing_map
from .standings import cell_item
from .store import Run
from .tables import Column, Fact, Item, Link, Part, Row, Sheet, Table
from .task_pages import run_sheet

_LONGEST = 5_000
"""Characters of what a method says of itself."""


@dataclass(frozen=True)
class EntryView:
    """One label of the method on one task: its knobs, and its cells with a link to every run."""

    title: str
    swatch: str
    notice: str
    knobs: tuple[Fact, ...]
    table: Table
    maps: tuple[Link, ...]
    """Runs whose pages draw the sharing map, of the smallest and the largest budget that has one."""


@dataclass(frozen=True)
class MethodPage:
    """One method by name."""

    name: str
    summary: str
    facts: tuple[Fact, ...]
    cite: str
    cite_file: str
    sections: tuple[tuple[Link, tuple[EntryView, ...]], ...]
    runs: Sheet
    runs_csv: str


def method_names(boards: Sequence[Board]) -> tuple[str, ...]:
    """Every method that occurs, in alphabetical order."""
    return tuple(sorted({entry.definition.method for board in boards for entry in board.entries}))


def method_page(method: str, boards: Sequence[Board], names: Names) -> MethodPage:
    """A method's page."""
    mine = [(board, [entry for entry in board.entries if entry.definition.method == method]) for board in boards]
    mine = [(board, entries) for board, entries in mine if entries]
    runs = [run for _, entries in mine for entry in entries for cell in entry.cells.values() for run in cell.runs]
    told = _latest(runs)
    cite = str(told.get("method_cite") or "").strip()[:_LONGEST]
    sections = tuple(
        (
            Link(board.title, f"../{names.task(board)}", title=board.fingerprint[:12]),
            tuple(_entry(board, e, names) for e in entries),
        )
        for board, entries in mine
    )
    summary = words.brief(" ".join(str(told.get("method_summary") or "").split()), _LONGEST)
    csv = f"{names.methods[method]}.runs.csv"
    return MethodPage(
        words.plain(method), summary, tuple(_facts(runs, told, cite)), cite, f"{names.methods[method]}.bib",
        sections, run_sheet(runs), csv,
    )  # fmt: skip


def methods_table(boards: Sequence[Board], names: Names) -> Table:
    """All methods, with what each says about itself."""
    columns = (
        Column("Method", text=True),
        Column("In a sentence", text=True),
        Column("Entries", text=True),
        Column("Runs"),
    )
    rows, lines = [], []
    for method in method_names(boards):
        entries = [entry for board in boards for entry in board.entries if entry.definition.method == method]
        runs = [run for entry in entries for cell in entry.cells.values() for run in cell.runs]
        labels = sorted({words.plain(entry.label) for entry in entries})
        sentence = first_sentence(str(_latest(runs).get("method_summary") or ""))
        rows.append(
            Row(
                (
                    Item(words.plain(method), order=method, href=names.method(method)),
                    Item(sentence or words.MISSING, order=sentence or None, tone="prose"),
                    Item(", ".join(labels), order=", ".join(labels)),
                    Item(words.count(len(runs)), order=len(runs)),
                )
            )
        )
        lines.append((method, sentence, "; ".join(labels), len(runs)))
    sheet = Sheet(("method", "summary", "labels", "runs"), tuple(lines))
    return Table("methods", "Every method that has a run here.", columns, tuple(rows), sheet, "methods.csv")


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph, on one line."""
    line = words.brief(" ".join(text.split()), 400)
    return re.split(r"(?<=[.!?])\s+(?=[A-Z(])", line, maxsplit=1)[0]


def _latest(runs: Sequence[Run]) -> dict[str, Any]:
    """The provenance of the newest version's last result: what the method says of itself now."""
    known = [run.record for run in runs if run.record and run.record.provenance.get("method_summary")]
    latest = max(
        known, key=lambda r: (r.method_version, str(r.provenance.get("finished")), r.fingerprint), default=None
    )
    return latest.provenance if latest else {}


def _facts(runs: Sequence[Run], told: dict[str, Any], cite: str) -> Iterator[Fact]:
    versions = sorted({run.identity.method_version for run in runs})
    yield Fact("Version" if len(versions) == 1 else "Versions", ", ".join(map(str, versions)))
    if told.get("method_origin"):
        yield Fact("Comes from", words.brief(told["method_origin"], 300))
    sources = sorted({str(run.record.provenance.get("method_source")) for run in runs if run.record} - {"None"})
    if sources:
        name = "Source, SHA-256" if len(sources) == 1 else f"Sources, SHA-256 ({len(sources)} differ)"
        yield Fact(name, ", ".join(words.plain(source)[:16] for source in sources), code=True)
    if paper := _paper(cite):
        yield Fact("Paper", paper, href=paper)


def _paper(cite: str) -> str:
    """The address of a citation, from its url or its DOI; nothing that is not http(s)."""
    found = dict(re.findall(r"\b(url|doi)\s*=\s*[{\"]([^}\"\s]+)[}\"]", cite, flags=re.IGNORECASE))
    fields = {key.lower(): value for key, value in found.items()}
    return safe_link(fields.get("url")) or (safe_link(f"https://doi.org/{fields['doi']}") if "doi" in fields else "")


def _entry(board: Board, entry: Entry, names: Names) -> EntryView:
    cells = [entry.cells[budget] for budget in board.budgets if budget in entry.cells]
    costs = (EXCHANGED, *(SEARCH if any(SEARCH[0].value(cell) is not None for cell in cells) else ()))
    columns = (
        Column("Budget"),
        Column("Accuracy", "%"),
        Column("Parameters", "trained"),
        *(cost.column for cost in costs),
        Column("Runs by seed", "accuracy in percent", text=True),
    )
    rows = tuple(_row(board, entry, cell, names, costs) for cell in cells)
    knobs = tuple(
        Fact(words.brief(key), words.brief(json.dumps(value), 300), code=True)
        for key, value in entry.definition.settings.items()
    )
    notice = "This label stands for more than one definition; its rows are not ranked." if entry.variant else ""
    table = Table("", "", columns, rows, Sheet((), ()))
    return EntryView(entry.title, colour(board, entry), notice, knobs, table, _maps(cells, names))


def _maps(cells: Sequence[Cell], names: Names) -> tuple[Link, ...]:
    drawn = [run for cell in cells if (run := _mapped(cell))]
    ends = drawn if len(drawn) < 2 else [drawn[0], drawn[-1]]
    return tuple(
        Link(f"at {words.budget(run.identity.budget)}, seed {run.identity.seed}", f"../{names.run(run)}#{SHARING_MAP}")
        for run in ends
    )


def _mapped(cell: Cell) -> Run | None:
    """The first seed that has a sharing map."""
    return next((run for run in cell.runs if run.record and sharing_map(run.record.allocation)), None)


def _row(board: Board, entry: Entry, cell: Cell, names: Names, costs: Sequence[Measure]) -> Row:
    sizes = [run.record.parameters.get("total") for run in cell.counted if run.record]
    size = max((one for one in sizes if one is not None), default=None)
    head = Item(
        words.budget(cell.budget),
        order=board.parameters(cell.budget),
        small=(Part(words.count(board.parameters(cell.budget))),),
    )
    runs = Item("", links=tuple(_chip(run, names) for run in cell.runs))
    numbers = (Item(words.count(size), order=size), *(cost.item(cell) for cost in costs))
    items = (head, cell_item(board, entry, cell.budget, ""), *numbers, runs)
    return Row(items, anchor=names.anchor(board, entry, cell))


def _chip(run: Run, names: Names) -> Link:
    if run.outcome == "done":
        text, tone = words.percent(run.accuracy), "trial" if run.trial else ""
    else:
        text, tone = run.outcome, "bad" if run.outcome in ("failed", "corrupt", "contradictory") else "few"
    return Link(
        f"{run.identity.seed}: {text}", f"../{names.run(run)}", tone, f"seed {run.identity.seed}, {run.outcome}"
    )
