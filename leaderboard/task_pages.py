"""What the task pages say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import words
from .anytime import Anytime, anytime
from .board import Board
from .citations import cited
from .details import details
from .figures import Figure, accuracy_figure, difference_figure
from .names import Names
from .pareto import ParetoPanel, pareto
from .prominent import at_first
from .standings import standings
from .store import Run
from .tables import Fact, Link, Plain, Sheet, Table


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
    first: str
    """Which entries its charts show at first; empty if all."""
    difference: Figure | None
    tables: tuple[tuple[str, Table], ...]
    pareto: tuple[ParetoPanel, ...]
    anytime: Anytime | None
    compare: str
    runs: Sheet
    runs_csv: str
    card: str
    """The card as JSON."""
    cited: str
    """The papers of its methods as BibTeX."""
    cited_file: str


def task_page(board: Board, boards: Sequence[Board], names: Names) -> TaskPage:
    """A task's page."""
    page = names.tasks[board.key]
    others = tuple(
        Link(f"fingerprint {other.fingerprint[:12]}", f"../{names.task(other)}")
        for other in boards
        if other.task == board.task and other is not board
    )
    tables = (
        ("Accuracy by budget", replace(standings(board, names, f"{page}.accuracy.csv"), searchable=True)),
        ("What it costs", details(board, names, f"{page}.costs.csv")),
    )
    return TaskPage(
        board.title, board.name, words.plain(board.fingerprint), str(board.card.get("description") or "").strip(),
        tuple(_facts(board)), board.notices, others, accuracy_figure(board), at_first(board),
        difference_figure(board), tables,
        pareto(board, names), anytime(board, names, f"{page}.anytime.csv"), f"../{names.compare(board)}",
        run_sheet(board.runs), f"{page}.runs.csv", json.dumps(dict(board.card), indent=1), cited(board.runs), f"{page}.bib",
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
        run.outcome, "yes" if run.trial else "no", record.parameters.get("total") if record else None,
        *(found.get(name) for name in metrics), one.fingerprint, run.where,
    )  # fmt: skip


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
