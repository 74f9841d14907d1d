"""Print the tables of docs/methods.md from the published records in this folder: python results/places.py

A cell is one method at one budget of one task. Its mark says what the tests of the leaderboard tell of it:

* ``#`` earns its place: it beats narrow, and nobody that is no dearer beats it.
* ``+`` beats narrow, but so does somebody that is no dearer and beats it too.
* ``=`` cannot be told from narrow, ``-`` is beaten by it. ``.`` is not ranked: refused, skipped, or seeds were lost.

No dearer is who needs at most 5 % more epochs of training, those of a search or a teacher included, and at most 5 % more
multiply-adds of an example. Every decision is corrected for all that are made at the budget.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from npasbench.leaderboard.board import Board, Cell, Entry
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.store import collect

HERE = Path(__file__).parent
SLACK = 1.05
MARKS = "#+=-"


def main() -> None:
    """How many cells of each mark a label has in all tasks, then one table for each task."""
    store = collect(HERE)
    if store.problems:
        raise SystemExit("\n".join(store.problems))
    every = boards(store.runs)
    print("### All tasks\n")
    count(every)
    for board in every:
        print(f"### {board.name}\n")
        show(board)


def count(every: Sequence[Board]) -> None:
    """A row for each label that is ranked somewhere, those that earn the most first."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for board in every:
        for entry in board.entries:
            found[entry.label].update(mark(board, entry, budget) for budget in board.budgets)
    print("| | " + " | ".join(f"`{sign}`" for sign in MARKS) + " |")
    print("|---|" + "---|" * len(MARKS))
    for label in sorted(found, key=lambda label: (*(-found[label][sign] for sign in MARKS), label)):
        if found[label].keys() & set(MARKS):
            print(f"| {label} | " + " | ".join(str(found[label][sign] or "") for sign in MARKS) + " |")
    print()


def show(board: Board) -> None:
    """A row for each entry that is ranked somewhere, those that earn the most first."""
    found = {entry: [mark(board, entry, budget) for budget in board.budgets] for entry in board.entries}
    told = [entry for entry, marks in found.items() if set(marks) != {"."}]
    told.sort(key=lambda entry: (*(-found[entry].count(sign) for sign in "#+="), entry.label))
    print("| | " + " | ".join(board.budgets) + " | trainings | MACs |")
    print("|---|" + "---|" * (len(board.budgets) + 2))
    for entry in told:
        marks = " | ".join(f"`{one}`" for one in found[entry])
        costs = " | ".join(
            spread([cost(board, entry, budget)[kind] for budget in ranked(board, entry)]) for kind in (0, 1)
        )
        print(f"| {entry.title} | {marks} | {costs} |")
    print()


def mark(board: Board, entry: Entry, budget: str) -> str:
    """What is told of an entry at a budget."""
    if entry is board.reference and entry.ranked_at(budget):
        return "="
    compared = board.comparison(entry, budget)
    if compared is None or not entry.ranked_at(budget):
        return "."
    if compared.verdict != "higher":
        return "-" if compared.verdict == "lower" else "="
    return "+" if any(beats(board, other, entry, budget) for other in board.rankings[budget].entries) else "#"


def beats(board: Board, one: Entry, other: Entry, budget: str) -> bool:
    """Whether one is no dearer than the other and told to be above it."""
    ranking = board.rankings[budget]
    ours, theirs = ranking.position[one], ranking.position[other]
    costs = zip(cost(board, one, budget), cost(board, other, budget), strict=True)
    return bool(ranking.decided.above[ours, theirs]) and all(mine <= SLACK * yours for mine, yours in costs)


def cost(board: Board, entry: Entry, budget: str) -> tuple[float, float]:
    """How many times the card's epochs are trained, and multiply-adds of one example as a part of the dense network's."""
    cell = entry.cell(budget)
    epochs = 1 + median(cell, "search_epochs") / board.card["recipe"]["epochs"]
    return epochs, median(cell, "macs") / dense_macs(board)


def dense_macs(board: Board) -> float:
    """The multiply-adds of the dense network."""
    (dense,) = (entry for entry in board.entries if entry.label == "dense")
    return max(median(dense.cell(budget), "macs") for budget in ranked(board, dense))


def median(cell: Cell, key: str) -> float:
    """Over the seeds; 0 where it was not measured, as of a search where there is none."""
    return statistics.median(run.record.costs.get(key) or 0.0 for run in cell.counted if run.record)


def ranked(board: Board, entry: Entry) -> list[str]:
    """The budgets at which an entry is ranked."""
    return [budget for budget in board.budgets if entry.ranked_at(budget)]


def spread(values: list[float]) -> str:
    """The least and the greatest."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
