"""What the first page says: who leads at which budget, how entries do across tasks, and every task at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import words
from .across import ambiguous, kind_of, scopes
from .across_table import DEFINITIONS, ScopeView, scope_view
from .board import Board, Entry, Leader
from .figures import Figure, accuracy_figure, colour
from .names import Names
from .standings import few, spread
from .tables import Column, Fact, Item, Part, Plain, Row, Sheet, Table

_NAMED = 3
"""So many entries in front of all tasks are named in a cell; more are counted."""


@dataclass(frozen=True)
class TaskCard:
    """A task on the index: who leads where, and the curve."""

    title: str
    name: str
    kind: str
    fingerprint: str
    href: str
    leaders: Table
    figure: Figure | None
    notices: tuple[str, ...]


@dataclass(frozen=True)
class IndexPage:
    """The first page."""

    tiles: tuple[Fact, ...]
    leads: Table | None
    scopes: tuple[ScopeView, ...]
    definitions: tuple[tuple[str, str], ...]
    """What the numbers of the scopes are."""
    left_out: str
    """Which tasks are in no comparison across tasks, and why."""
    tasks: tuple[TaskCard, ...]
    methods: Table
    problems: tuple[str, ...]

    @property
    def sheets(self) -> Iterator[tuple[str, Sheet]]:
        """The files beside the page."""
        tables = (
            self.leads,
            *(scope.table for scope in self.scopes),
            *(task.leaders for task in self.tasks),
            self.methods,
        )
        return ((table.csv, table.sheet) for table in tables if table)


def index_page(boards: Sequence[Board], methods: Table, problems: tuple[str, ...], names: Names) -> IndexPage:
    """The index."""
    entries = [entry for board in boards for entry in board.entries]
    states = [run.outcome for board in boards for run in board.runs]
    measured = states.count("done")
    tiles = [
        _tile("task", len(boards)),
        _tile("method", len({entry.definition.method for entry in entries})),
        _tile("trained network", measured + states.count("over-budget")),
        *(
            _tile(f"{state} run", states.count(state))
            for state in ("failed", "corrupt", "contradictory")
            if states.count(state)
        ),
        *((Fact("still to run", words.count(open_), tone="few"),) if (open_ := _open(states)) else ()),
    ]
    views = tuple(scope_view(scope, names) for scope in scopes(boards)) if len(boards) > 1 else ()
    cards = tuple(_task_card(board, names) for board in boards)
    return IndexPage(
        tuple(tiles), _leads(boards, names), views, DEFINITIONS, _left_out(boards), cards, methods, problems
    )


def _left_out(boards: Sequence[Board]) -> str:
    why = {
        "there are results under more than one fingerprint": [words.plain(task) for task in ambiguous(boards)],
        "they are scored on held-out training images": sorted({board.name for board in boards if board.tuning}),
    }
    return " ".join(f"Left out, since {one}: {words.listed(tasks)}." for one, tasks in why.items() if tasks)


def _leads(boards: Sequence[Board], names: Names) -> Table | None:
    """Tasks x budgets: who leads, alone or not; above them who is in front in every task of a kind, and in all."""
    ranked = [board for board in boards if board.leaders and not board.tuning]
    if not ranked:
        return None
    at = {budget: board.fraction(budget) or 0.0 for board in ranked for budget in board.leaders}
    budgets = sorted(at, key=lambda budget: (at[budget], budget))
    rows = [_front_row("All tasks", ranked, budgets)] if len(ranked) > 1 else []
    kinds = {
        kind: [board for board in ranked if kind_of(board) == kind] for kind in sorted({kind_of(b) for b in ranked})
    }
    for kind, found in kinds.items():
        rows += [_front_row(f"All of kind {kind}", found, budgets)] if 1 < len(found) < len(ranked) else []
        rows += [_task_row(board, kind, budgets, names) for board in found]
    sheet = Sheet(
        ("task", "task_fingerprint", "kind", "budget", "leader", "told_from_all", "tied", "too_few_seeds"),
        tuple(_lead_line(board, budget) for board in ranked for budget in board.leaders),
    )
    caption = (
        "The highest mean at each budget, and from how many it cannot be told of the others that have seeds enough. In front is "
        "who leads or cannot be told from the leader; the upper rows name who is in front in every task that has a ranking at "
        "the budget."
    )
    columns = (Column("Task", text=True), *(Column(words.budget(budget), text=True) for budget in budgets))
    return Table("leads", caption, columns, tuple(rows), sheet, "leads.csv")


def _front_row(title: str, boards: Sequence[Board], budgets: Sequence[str]) -> Row:
    return Row((Item(title, small=(Part("in front in every one"),)), *(_front(boards, budget) for budget in budgets)))


def _front(boards: Sequence[Board], budget: str) -> Item:
    leaders = [leader for board in boards if (leader := board.leaders.get(budget))]
    if not leaders:
        return Item(words.MISSING, tone="empty")
    tasks = Part(words.plural(len(leaders), "task"))
    if not all(leader.told for leader in leaders):
        return Item("too few seeds", tone="empty", small=(tasks,))
    common = set.intersection(*({_name(one) for one in _in_front(leader)} for leader in leaders))
    found = sorted(words.plain(label) for label, _ in common)
    if not found:
        return Item("nobody", tone="empty", small=(tasks,))
    text = words.listed(found) if len(found) <= _NAMED else words.plural(len(found), "entry", "entries")
    return Item(text, order=len(found), small=(tasks,), title="" if len(found) <= _NAMED else words.listed(found))


def _in_front(leader: Leader) -> list[Entry]:
    return [leader.entry, *(one for one in leader.tied if one not in leader.few)]


def _name(entry: Entry) -> tuple[str, str]:
    return entry.label, entry.definition.method


def _task_row(board: Board, kind: str, budgets: Sequence[str], names: Names) -> Row:
    head = Item(board.name, order=board.name, href=names.task(board), small=(Part(kind),))
    return Row((head, *(_lead(board, budget, names) for budget in budgets)))


def _lead(board: Board, budget: str, names: Names) -> Item:
    leader = board.leaders.get(budget)
    if leader is None:
        return Item(words.MISSING, tone="empty")
    tied, able = len(leader.tied) - len(leader.few), _able(board, budget, leader)
    said = f"tied with {tied} of {able}" if tied else "above all others"
    small = Part(said if leader.told and able else "too few seeds to tell", title=_tied(board, budget, leader))
    return Item(
        leader.entry.title, order=leader.entry.title, href=names.cell(board, leader.entry, leader.entry.cell(budget)),
        small=(small,), tone="leader" if leader.told and able and not tied else "",
    )  # fmt: skip


def _lead_line(board: Board, budget: str) -> tuple[Plain, ...]:
    leader = board.leaders[budget]
    alone = "yes" if leader.told and not leader.tied else "no"
    return (
        board.name,
        words.plain(board.fingerprint),
        kind_of(board),
        words.plain(budget),
        leader.entry.title,
        alone,
        *_named(leader),
    )


def _named(leader: Leader) -> tuple[str, str]:
    """Who is tied with the leader, and who has too few seeds in common with it to be told."""
    tied = "; ".join(one.title for one in leader.tied if one not in leader.few)
    return tied, "; ".join(one.title for one in leader.few)


def _task_card(board: Board, names: Names) -> TaskCard:
    csv = f"{names.tasks[board.key]}.leaders.csv"
    return TaskCard(
        board.title, board.name, kind_of(board), board.fingerprint[:12], names.task(board), _leaders(board, names, csv),
        accuracy_figure(board), board.notices,
    )  # fmt: skip


def _leaders(board: Board, names: Names, csv: str) -> Table:
    columns = (Column("Budget"), Column("Leader", text=True), Column("Accuracy", "%"))
    rows = tuple(_leader_row(board, budget, names) for budget in board.budgets)
    sheet = Sheet(
        ("budget", "leader", "accuracy", "low", "high", "seeds", "tied", "too_few_seeds"),
        tuple(_leader_line(board, b) for b in board.budgets),
    )
    caption = " ".join(("The highest mean at each budget, and who cannot be told from it.", *few(board)))
    return Table("leaders", caption, columns, rows, sheet, csv)


def _leader_row(board: Board, budget: str, names: Names) -> Row:
    head = Item(words.budget(budget), order=board.parameters(budget))
    leader = board.leaders.get(budget)
    if leader is None:
        return Row((head, Item("no ranking", tone="empty", title="fewer than two entries are ranked"), Item("")))
    cell = leader.entry.cell(budget)
    mean = cell.accuracy
    href = names.cell(board, leader.entry, cell)
    small = (Part(_tied(board, budget, leader)),)
    swatch = colour(board, leader.entry)
    who = Item(leader.entry.title, order=leader.entry.title, href=href, swatch=swatch, small=small)
    score = Item(words.percent(mean.mean), order=mean.mean, spread=spread(mean)) if mean else Item(words.MISSING)
    return Row((head, who, score))


def _tied(board: Board, budget: str, leader: Leader) -> str:
    """From whom a leader cannot be told, by name."""
    if not leader.told:
        return "too few seeds to tell"
    tied = [one.title for one in _in_front(leader)[1:]]
    every = len(tied) == _able(board, budget, leader) > 1
    said = "above all others" if not tied else f"tied with {f'all {len(tied)} others' if every else words.listed(tied)}"
    return "; ".join((said, *_few(leader)))


def _able(board: Board, budget: str, leader: Leader) -> int:
    """How many others have seeds enough to be told from the leader."""
    return len(board.rankings[budget].entries) - 1 - len(leader.few)


def _few(leader: Leader) -> list[str]:
    return [f"too few seeds to tell from {words.listed(one.title for one in leader.few)}"] if leader.few else []


def _leader_line(board: Board, budget: str) -> tuple[Plain, ...]:
    leader = board.leaders.get(budget)
    mean = leader.entry.cell(budget).accuracy if leader else None
    if leader is None or mean is None:
        return (words.plain(budget), None, None, None, None, None, None, None)
    return (words.plain(budget), leader.entry.title, mean.mean, mean.low, mean.high, mean.n, *_named(leader))


def _tile(noun: str, n: int) -> Fact:
    return Fact(
        noun if n == 1 else f"{noun}s",
        words.count(n),
        tone="bad" if noun.startswith(("failed", "corrupt", "contradictory")) else "",
    )


def _open(states: Sequence[str]) -> int:
    return sum(1 for state in states if state in ("running", "interrupted", "waiting"))
