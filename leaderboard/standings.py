"""The table that people come for: entries x budgets, each with its interval, its seeds and its difference to narrow."""

from __future__ import annotations

import math
from collections.abc import Iterable

from . import words
from .board import REFERENCE, Board, Cell, Entry
from .comparing import LEVEL, Comparison, least_p
from .figures import colour
from .names import Names
from .statistics import TELLING_SEEDS, Interval
from .tables import Column, Item, Part, Row, Sheet, Table
from .ties import Place

_SHEET = (
    "label", "method", "method_version", "budget", "budget_parameters", "state", "ranked", "seeds", "accuracy", "low", "high",
    "letters", "rank_first", "rank_last", "difference_to_narrow", "difference_low", "difference_high", "common_seeds", "p",
    "p_corrected", "family", "reason",
)  # fmt: skip
_LONGEST = 300
_SHARED = "entries share a letter exactly if they cannot be told apart"
_MARKS = {"higher": "▲", "lower": "▼", "tie": "=", "too few": "?"}
_MEANING = {
    "higher": "higher than {0}",
    "lower": "lower than {0}",
    "tie": "cannot be told from {0}",
    "too few": "too few seeds to tell from {0}",
}


def standings(board: Board, names: Names, csv: str) -> Table:
    """Accuracy of every entry at every budget; rows in order of :func:`deciding_budget`."""
    decisive = deciding_budget(board)
    entries = sorted(board.entries, key=lambda entry: _place(entry, decisive))
    columns = [Column("Entry", text=True)]
    columns += [Column(words.budget(one), f"{words.count(board.parameters(one))} parameters") for one in board.budgets]
    rows = tuple(_row(board, entry, names) for entry in entries)
    sheet = Sheet(_SHEET, tuple(_line(board, entry, budget) for entry in entries for budget in board.budgets))
    score = f"{board.score[0].upper()}{board.score[1:]}"
    caption = f"{score} in percent, mean ± half of the 95 % interval over seeds. {_second_line(board)}"
    if decisive:
        caption += f" Rows stand in order of their mean at {words.budget(decisive)}."
    caption = " ".join((caption, *few(board)))
    return Table("standings", caption, tuple(columns), rows, sheet, csv)


def deciding_budget(board: Board) -> str:
    """The budget that orders the rows: the smallest that most entries are ranked at, or nothing."""
    ranked = {budget: sum(entry.ranked_at(budget) for entry in board.entries) for budget in board.budgets}
    most = max(ranked.values(), default=0)
    return next((budget for budget in board.budgets if ranked[budget] == most), "") if most else ""


def cell_item(board: Board, entry: Entry, budget: str, href: str) -> Item:
    """One cell: its number with interval, seeds and difference, or a word for why there is no number."""
    cell = entry.cell(budget)
    interval = cell.accuracy
    badges = tuple(_badges(board, entry, cell))
    if interval is None:
        return _without_number(cell, href, badges)
    standing = board.standing(entry, budget)
    return Item(
        words.percent(interval.mean),
        order=interval.mean,
        href=href,
        spread=spread(interval),
        small=(*_difference(board, entry, budget), _seeds(board, interval)),
        badges=badges,
        tone=standing or ("" if entry.ranked_at(budget) else "unranked"),
        title=_range(interval),
        runs=tuple(run.where for run in cell.counted),
    )


def spread(interval: Interval) -> str:
    """``± 0.42``, or nothing where one seed gives no interval."""
    return "" if math.isnan(interval.half) else f"± {words.percent(interval.half)}"


def reason(cell: Cell) -> str:
    """Why a cell has no number, or none that ranks, in the words of its runs."""
    if not cell.lacks:
        return _told(cell, (cell.kind,))
    why = _told(cell, tuple(cell.lost))
    return f"{cell.lacks}: {why}" if why else cell.lacks


def _told(cell: Cell, outcomes: tuple[str, ...]) -> str:
    """What the first run says of which such was the end."""
    told = (
        run.fault or (run.record.reason if run.record else run.error) for run in cell.runs if run.outcome in outcomes
    )
    return words.brief(next((text for text in told if text), ""), _LONGEST)


def smallest(cell: Cell) -> int | None:
    """The smallest number of parameters that a refused method can be built with, where known."""
    return next((run.record.smallest for run in cell.runs if run.record and run.record.smallest), None)


def _second_line(board: Board) -> str:
    if board.reference is None:
        return f"No entry of the method {REFERENCE} has one clear definition here, so there are no differences to it."
    name = board.reference.title
    return (
        f"Below it: paired difference to {name} on common seeds with its 95 % interval, and the number of seeds n. Letters and "
        "marks are those of tests corrected for all comparisons made at the budget; the intervals are not."
    )


def _place(entry: Entry, budget: str) -> tuple[bool, float, str, int]:
    interval = entry.cell(budget).accuracy if entry.ranked_at(budget) else None
    return interval is None, -interval.mean if interval else 0.0, entry.label, entry.variant


def _row(board: Board, entry: Entry, names: Names) -> Row:
    method = words.plain(entry.definition.method)
    small = [] if method == entry.label else [Part(method)]
    small += [Part("the control")] if entry is board.reference else []
    badges = (Part("ambiguous", "warn", "this label stands for more than one definition"),) if entry.variant else ()
    page = f"../{names.method(entry.definition.method)}"
    head = Item(
        entry.title, order=entry.title, href=page, small=tuple(small), badges=badges, swatch=colour(board, entry)
    )
    items = [cell_item(board, entry, budget, _href(board, entry, budget, names)) for budget in board.budgets]
    return Row((head, *items), tone="reference" if entry is board.reference else "")


def _href(board: Board, entry: Entry, budget: str, names: Names) -> str:
    return f"../{names.cell(board, entry, entry.cells[budget])}" if budget in entry.cells else ""


def few(board: Board) -> tuple[str, ...]:
    """Sentences about the budgets at which there are too few seeds to tell anybody from anybody, or from the control."""
    return (*_untold_leaders(board), *_untold_control(board))


def _untold_leaders(board: Board) -> Iterable[str]:
    at: dict[int, list[str]] = {}
    for budget, leader in board.leaders.items():
        if not leader.told:
            at.setdefault(len(leader.entry.cell(budget).scores), []).append(words.budget(budget))
    for n, where in at.items():
        yield (
            f"At {words.listed(where)} the leader has {words.seeds(n)}: the smallest p that a sign-flip test of so few can reach "
            f"is {words.p(least_p(n))}, so nobody can be told from it."
        )
    if board.provisional and at:
        of = f" of the task’s {board.seeds}" if board.seeds else ""
        yield f"To be ranked takes {min(TELLING_SEEDS, board.seeds or TELLING_SEEDS)}{of} seeds."


def _untold_control(board: Board) -> Iterable[str]:
    at: dict[int, list[str]] = {}
    for budget in board.budgets:
        compared = [one for entry in board.entries if (one := board.comparison(entry, budget))]
        if compared and all(one.verdict == "too few" for one in compared):
            at.setdefault(max(one.difference.n for one in compared), []).append(words.budget(budget))
    for n, where in at.items():
        yield (
            f"At {words.listed(where)} nothing can be told from {board.reference.title if board.reference else REFERENCE}: with "
            f"{words.seeds(n)} in common the smallest p is 2/2^{n} = {words.p(least_p(n))}, which never reaches {LEVEL}."
        )


def _difference(board: Board, entry: Entry, budget: str) -> Iterable[Part]:
    compared = board.comparison(entry, budget)
    if compared is None or board.reference is None:
        return
    verdict, interval = compared.verdict, compared.difference
    ends = "" if math.isnan(interval.low) else f" [{words.signed(interval.low)}, {words.signed(interval.high)}]"
    title = f"{words.seeds(interval.n)} in common; {_MEANING[verdict].format(board.reference.title)}{_tested(compared)}"
    yield Part(f"{_MARKS[verdict]} {words.signed(interval.mean)}{ends}", verdict.replace(" ", "-"), title)


def _tested(compared: Comparison) -> str:
    if compared.p is None:
        return ""
    many = f", {words.p(compared.corrected)} corrected for {compared.family} comparisons" if compared.family > 1 else ""
    return f": p {words.p(compared.p)}{many}"


def _seeds(board: Board, interval: Interval) -> Part:
    if interval.n < board.seeds:
        return Part(f"n {interval.n} of {board.seeds}", "few", f"the task asks for {words.seeds(board.seeds)}")
    return Part(f"n {interval.n}", title=words.seeds(interval.n))


def _range(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{words.seeds(interval.n)}: no interval"
    return f"95 % interval {words.percent(interval.low)} to {words.percent(interval.high)}, {words.seeds(interval.n)}"


def _badges(board: Board, entry: Entry, cell: Cell) -> Iterable[Part]:
    yield from _rank(board, entry, cell.budget)
    if cell.accuracy is None:
        return
    if cell.kind == "trial":
        yield Part("trial", "warn", "from a tree with uncommitted changes; not ranked")
    if over := cell.number_of("over-budget"):
        title = f"{words.plural(over, 'run')} of {len(cell.runs)} ended over the budget; not ranked. {reason(cell)}"
        yield Part("over budget", "bad", title)
    if cell.breaches:
        yield Part("certificate failed", "bad", f"{words.plural(cell.breaches, 'run')}; not ranked")
    if cell.lacks:
        yield Part(cell.lacks, "warn", f"not ranked: {reason(cell).rstrip('.')}. {_rule(cell)}")
    dirty = sum(1 for run in cell.runs if run.outcome == "done" and run.trial)
    if cell.kind == "measured" and dirty:
        yield Part(f"{dirty} trial", "warn", "trial runs beside clean ones are not counted")
    if cell.unasked:
        title = "runs of seeds that the task does not name are not counted"
        yield Part(f"{words.plural(cell.unasked, 'other seed')}", "warn", title)
    for outcome in ("failed", "corrupt", "contradictory", "running", "waiting", "interrupted", "refused", "skipped"):
        if (found := cell.number_of(outcome)) and (outcome not in cell.lost or not cell.lacks):
            tone = "bad" if outcome in ("failed", "corrupt", "contradictory") else "warn"
            yield Part(f"{found} {outcome}", tone, f"of {words.plural(len(cell.runs), 'run')}")


def _rule(cell: Cell) -> str:
    if cell.lost:
        return "An entry is ranked only where none of the task's seeds was lost."
    return f"An entry is ranked with {cell.needed} of the task's seeds or more."


def _rank(board: Board, entry: Entry, budget: str) -> Iterable[Part]:
    standing, leader = board.standing(entry, budget), board.leaders.get(budget)
    if leader is None:
        return
    place = board.place(entry, budget)
    if place and leader.told:
        yield (
            Part(place.letters, "letter", f"{_SHARED}; {ranks(place)}")
            if place.letters
            else Part(ranks(place), "letter")
        )
    if standing == "leader" and not leader.told:
        yield Part("highest", "few", f"fewer than {TELLING_SEEDS} seeds: too few to tell from the others")
    elif standing == "leader":
        alone = (
            "told from all others"
            if not leader.tied
            else f"cannot be told from {words.plural(len(leader.tied), 'other')}"
        )
        yield Part("leads", "lead", f"highest mean at this budget; {alone}")
    elif standing == "tied" and leader.told:
        if entry in leader.few:
            yield Part("too few seeds", "few", "too few seeds in common with the leader to tell")
        else:
            p = words.p(board.rankings[budget].p(leader.entry, entry))
            yield Part("tied", "tie", f"cannot be told from the leader: p {p}, corrected for all pairs")


def ranks(place: Place) -> str:
    """``rank 1`` or ``ranks 1 to 4``: what the told-apart pairs leave open."""
    return f"rank {place.first}" if place.first == place.last else f"ranks {place.first} to {place.last}"


def _without_number(cell: Cell, href: str, badges: tuple[Part, ...]) -> Item:
    if cell.kind == "missing":
        return Item(words.MISSING, tone="empty", small=(Part("not run"),))
    said = {"measured": "no accuracy", "corrupt": "unreadable", "contradictory": "contradicts itself"}.get(
        cell.kind, cell.kind
    )
    least = smallest(cell)
    if cell.kind == "refused" and least:
        detail = f"needs {words.count(least)}"
    elif cell.kind in ("running", "waiting"):
        detail = words.plural(len(cell.runs), "run")
    else:
        detail = reason(cell)
    tone = "bad" if cell.kind in ("failed", "corrupt", "contradictory") else "empty"
    return Item(
        said, href=href, tone=tone, title=reason(cell), badges=badges, small=(Part(detail, "reason"),) if detail else ()
    )


def _line(board: Board, entry: Entry, budget: str) -> tuple[str | int | float | None, ...]:
    cell, definition = entry.cell(budget), entry.definition
    mean, place, compared = cell.accuracy, board.place(entry, budget), board.comparison(entry, budget)
    gap = compared.difference if compared else None
    return (
        entry.title, words.plain(definition.method), definition.version, words.plain(budget), board.parameters(budget), cell.kind,
        "yes" if entry.ranked_at(budget) else "no", mean.n if mean else 0,
        *((mean.mean, mean.low, mean.high) if mean else (None, None, None)),
        *((place.letters, place.first, place.last) if place else (None, None, None)),
        *((gap.mean, gap.low, gap.high, gap.n) if gap else (None, None, None, None)),
        *((compared.p, compared.corrected, compared.family) if compared else (None, None, None)),
        reason(cell),
    )  # fmt: skip
