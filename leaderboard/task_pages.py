"""What the index and the task pages say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import words
from .anytime import Anytime, anytime
from .board import Board, Leader
from .details import details
from .figures import Figure, accuracy_figure, colour, difference_figure
from .names import Names
from .standings import spread, standings
from .store import Run
from .tables import Column, Fact, Item, Link, Part, Plain, Row, Sheet, Table


@dataclass(frozen=True)
class TaskCard:
    """A task on the index: who leads where, and the curve."""

    title: str
    name: str
    fingerprint: str
    href: str
    leaders: Table
    figure: Figure | None
    notices: tuple[str, ...]


@dataclass(frozen=True)
class IndexPage:
    """The first page."""

    tiles: tuple[Fact, ...]
    tasks: tuple[TaskCard, ...]
    methods: Table
    problems: tuple[str, ...]


@dataclass(frozen=True)
class TaskPage:
    """All results of one task under one fingerprint."""

    title: str
    name: str
    fingerprint: str
    description: str
    facts: tuple[Fact, ...]
    notices: tuple[str, ...]
    others: tuple[Link, ...]
    figure: Figure | None
    difference: Figure | None
    tables: tuple[tuple[str, Table], ...]
    anytime: Anytime | None
    runs: Sheet
    runs_csv: str
    card: str
    """The card as JSON."""


def index_page(boards: Sequence[Board], methods: Table, problems: tuple[str, ...], names: Names) -> IndexPage:
    """The index."""
    entries = [entry for board in boards for entry in board.entries]
    states = [run.state for board in boards for run in board.runs]
    measured = states.count("done")
    tiles = [
        _tile("task", len(boards)),
        _tile("method", len({entry.definition.method for entry in entries})),
        _tile("trained network", measured + states.count("over-budget")),
        *(_tile(f"{state} run", states.count(state)) for state in ("failed", "corrupt") if states.count(state)),
        *((Fact("still to run", words.count(open_), tone="few"),) if (open_ := _open(states)) else ()),
    ]
    return IndexPage(tuple(tiles), tuple(_task_card(board, names) for board in boards), methods, problems)


def task_page(board: Board, boards: Sequence[Board], names: Names) -> TaskPage:
    """A task's page."""
    page = names.tasks[board.key]
    others = tuple(
        Link(f"fingerprint {other.fingerprint[:12]}", f"../{names.task(other)}")
        for other in boards
        if other.task == board.task and other is not board
    )
    tables = (
        ("Accuracy by budget", standings(board, names, f"{page}.accuracy.csv")),
        ("What it costs", details(board, names, f"{page}.costs.csv")),
    )
    return TaskPage(
        board.title, board.name, words.plain(board.fingerprint), str(board.card.get("description") or "").strip(),
        tuple(_facts(board)), board.notices, others, accuracy_figure(board), difference_figure(board), tables,
        anytime(board, names, f"{page}.anytime.csv"),
        run_sheet(board.runs), f"{page}.runs.csv", json.dumps(dict(board.card), indent=1),
    )  # fmt: skip


def run_sheet(runs: Iterable[Run]) -> Sheet:
    """Every run as a line of CSV."""
    every = list(runs)
    divers = any(run.record and "diversity" in run.record.metrics for run in every)
    metrics = ("accuracy", "nll", "ece", *(("diversity",) if divers else ()))
    columns = ("task", "task_fingerprint", "label", "method", "method_version", "budget", "budget_parameters", "seed", "state",
               "trial", "parameters", *metrics, "fingerprint", "directory")  # fmt: skip
    return Sheet(columns, tuple(_run_line(run, metrics) for run in every))


def _run_line(run: Run, metrics: tuple[str, ...]) -> tuple[Plain, ...]:
    one, record = run.identity, run.record
    found = record.metrics if record else {}
    return (
        one.task, one.task_fingerprint, one.label, one.method, one.method_version, one.budget, one.budget_parameters, one.seed,
        run.state, "yes" if run.trial else "no", record.parameters.get("total") if record else None,
        *(found.get(name) for name in metrics), one.fingerprint, run.where,
    )  # fmt: skip


def _task_card(board: Board, names: Names) -> TaskCard:
    page = names.task(board)
    csv = f"{names.tasks[board.key]}.leaders.csv"
    figure = accuracy_figure(board)
    return TaskCard(
        board.title, board.name, board.fingerprint[:12], page, _leaders(board, names, csv), figure, board.notices
    )


def _leaders(board: Board, names: Names, csv: str) -> Table:
    columns = (Column("Budget"), Column("Leader", text=True), Column("Accuracy", "%"))
    rows = tuple(_leader_row(board, budget, names) for budget in board.budgets)
    sheet = Sheet(
        ("budget", "leader", "accuracy", "low", "high", "seeds", "tied"),
        tuple(_leader_line(board, b) for b in board.budgets),
    )
    return Table(
        "leaders", "The highest mean at each budget, and who cannot be told from it.", columns, rows, sheet, csv
    )


def _leader_row(board: Board, budget: str, names: Names) -> Row:
    head = Item(words.budget(budget), order=board.parameters(budget))
    leader = board.leaders.get(budget)
    if leader is None:
        return Row((head, Item("no ranking", tone="empty", title="fewer than two entries with 3 seeds"), Item("")))
    cell = leader.entry.cell(budget)
    mean = cell.accuracy
    href = names.cell(board, leader.entry, cell)
    small = (Part(_tied(leader)),)
    swatch = colour(board, leader.entry)
    who = Item(leader.entry.title, order=leader.entry.title, href=href, swatch=swatch, small=small)
    score = Item(words.percent(mean.mean), order=mean.mean, spread=spread(mean)) if mean else Item(words.MISSING)
    return Row((head, who, score))


def _tied(leader: Leader) -> str:
    if not leader.told:
        return "too few seeds to tell from the others"
    return (
        f"tied with {words.listed(entry.title for entry in leader.tied)}"
        if leader.tied
        else "ahead of all others ranked"
    )


def _leader_line(board: Board, budget: str) -> tuple[Plain, ...]:
    leader = board.leaders.get(budget)
    mean = leader.entry.cell(budget).accuracy if leader else None
    if leader is None or mean is None:
        return (budget, None, None, None, None, None, None)
    return (
        budget,
        leader.entry.title,
        mean.mean,
        mean.low,
        mean.high,
        mean.n,
        "; ".join(one.title for one in leader.tied),
    )


def _facts(board: Board) -> Iterator[Fact]:
    card: dict[str, Any] = dict(board.card)
    recipe, data = _section(card, "recipe"), _section(card, "data")
    dense = next((run.identity.dense_parameters for run in board.runs), None)
    yield Fact("Fingerprint", words.plain(board.fingerprint), code=True)
    yield Fact("Dense network", f"{words.count(dense)} parameters")
    told = {
        "Version": card.get("version"),
        "Architecture": ", ".join(map(str, card.get("members") or ())),
        "Data": data.get("set"),
        "Training images": f"{data['train_per_class']} a class" if data.get("train_per_class") else None,
        "Protocol": data.get("protocol"),
        "Training": f"{recipe.get('epochs')} epochs, batches of {recipe.get('batch_size')}" if recipe else None,
        "Precision": recipe.get("precision"),
        "Seeds": board.seeds or None,
        "Accounting": card.get("accounting"),
    }
    yield from (Fact(name, words.plain(value)) for name, value in told.items() if value)


def _section(card: dict[str, Any], name: str) -> dict[str, Any]:
    found = card.get(name)
    return found if isinstance(found, dict) else {}


def _tile(noun: str, n: int) -> Fact:
    return Fact(
        noun if n == 1 else f"{noun}s", words.count(n), tone="bad" if noun.startswith(("failed", "corrupt")) else ""
    )


def _open(states: Sequence[str]) -> int:
    return sum(1 for state in states if state in ("running", "interrupted", "waiting"))
