"""``npasbench figure``: one chart of the site as a file for a paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.budget import canonical
from npasbench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from .board import Board, Entry
    from .figures import Figure

KINDS = ("curve", "difference", "pareto", "anytime")
AGAINST = {"count": "parameters", "macs": "macs", "time": "train_seconds"}


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--task", required=True, help="The task, by name; with @FINGERPRINT where it has several.")
@click.option("--kind", type=click.Choice(KINDS), default="curve", show_default=True, help="What is drawn.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    help="Only this budget; may be given several times. An anytime figure takes one.",
)
@click.option(
    "--entry",
    "entries",
    multiple=True,
    help="Only this entry; may be given several times. By default all; of more than ten in a curve or difference those "
    "with the highest means and the control.",
)
@click.option(
    "--against",
    type=click.Choice(tuple(AGAINST)),
    help="What accuracy is weighed against: pareto (count), anytime (macs).",
)
@click.option(
    "--size",
    nargs=2,
    type=click.FloatRange(1, 40),
    default=(5.5, 3.6),
    show_default=True,
    help="Width and height in inches.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file: .svg, .pdf or .png.")
def figure(
    runs: Path, task: str, kind: str, budgets: tuple[str, ...], entries: tuple[str, ...], against: str | None,
    size: tuple[float, float], out: Path,
) -> None:  # fmt: skip
    """Draw results below RUNS as a figure for a paper, in the site's colours and order.

    A curve is accuracy against budget, a difference is paired with the control narrow, a pareto figure shows the front of
    accuracy against a cost, and an anytime figure what an ensemble's members reach. Points far from all others are left out,
    and their number is said. The same results give the same bytes.

    \b
    Example:
      npasbench figure results --task digits15-wrn-10-1 --kind difference --out difference.pdf
    """
    from . import words
    from .drawing import draw
    from .figures import out_of_view
    from .grouping import boards
    from .prominent import at_first
    from .store import collect

    store = collect(runs)
    board = _board(boards(store.runs), task)
    made = _figure(board, kind, budgets, entries, against)
    draw(made, out, *size)
    for problem in store.problems:
        click.echo(f"! {words.brief(problem, 600)}", err=True)
    if kind in ("curve", "difference") and not entries and (said := at_first(board)):
        click.echo(f"{said.replace('shown at first', 'drawn')} Name others with --entry.")
    for number, where in zip(out_of_view(made), ("below", "above"), strict=True):
        if number:
            said = words.plural(number, f"point {where} the axis is", f"points {where} the axis are")
            click.echo(f"{said} not drawn; the axis's title says so too.")
    click.echo(out)
    if store.problems:
        click.get_current_context().exit(1)


def _board(boards: tuple[Board, ...], task: str) -> Board:
    name, _, fingerprint = task.partition("@")
    found = [board for board in boards if board.task == name and board.fingerprint.startswith(fingerprint)]
    if not any(board.task == name for board in boards):
        raise UnknownName("task", name, {board.task for board in boards})
    if len(found) != 1:
        known = ", ".join(f"{board.task}@{board.fingerprint[:12]}" for board in boards if board.task == name)
        raise UsageError(
            f"'{task}' is {len(found)} boards, and a figure shows one. Name it with its fingerprint: {known}."
        )
    return found[0]


def _figure(board: Board, kind: str, budgets: tuple[str, ...], names: tuple[str, ...], against: str | None) -> Figure:
    from .anytime import predicted
    from .anytime_figures import anytime_figure
    from .ensembles import LATENCY, MACS
    from .figures import accuracy_figure, difference_figure
    from .pareto import pareto_figure

    if against and kind in ("curve", "difference"):
        raise UsageError(f"--against is for pareto and anytime figures; a {kind} is drawn against the budget.")
    if kind == "anytime" and (against == "count" or len(budgets) > 1):
        raise UsageError("An anytime figure shows one budget, against macs or time.")
    entries = _entries(board, names)
    part = replace(board, budgets=_budgets(board, budgets))
    made: Figure | None
    if kind == "anytime":
        budget, found = predicted(board, part.budgets[0] if budgets else "")
        kept = [(entry, every) for entry, every in found if not entries or entry in entries]
        made = anytime_figure(board, budget, kept, LATENCY if against == "time" else MACS)
    elif kind == "pareto":
        made = pareto_figure(part, AGAINST[against or "count"], entries)
    else:
        made = (accuracy_figure if kind == "curve" else difference_figure)(part, entries)
    if made is None:
        raise UsageError(f"There is nothing to draw: no {kind} of {board.name} has enough numbers for what was asked.")
    return made


def _budgets(board: Board, given: tuple[str, ...]) -> tuple[str, ...]:
    """The board's budgets among those given, in its order; all if none is given."""
    wanted = [text if text in board.budgets else canonical(text) for text in given]
    for text, budget in zip(given, wanted, strict=True):
        if budget not in board.budgets:
            raise UsageError(f"{board.name} has no results at budget {text}. Known: {', '.join(board.budgets)}.")
    return tuple(budget for budget in board.budgets if not wanted or budget in wanted)


def _entries(board: Board, given: tuple[str, ...]) -> tuple[Entry, ...]:
    titles = [entry.title for entry in board.entries]
    for name in given:
        if name not in titles:
            raise UnknownName("entry", name, titles)
    return tuple(entry for entry in board.entries if entry.title in given)
