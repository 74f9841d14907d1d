"""What the accuracy cost: counts, side information, time and memory, one row a cell, sortable and filterable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import words
from .board import Board, Cell, Entry
from .figures import colour
from .measures import DIVERSITY, MEASURES, Metric, metrics_of
from .names import Names
from .standings import cell_item, ranks, reason
from .tables import Column, Item, Part, Plain, Row, Sheet, Table
from .verification import MEANING, weakest

_STATES = {"over-budget": "over budget", "corrupt": "unreadable", "contradictory": "contradicts itself"}
SAID = {"higher": "higher", "lower": "lower", "tie": "cannot be told apart", "too few": "too few seeds to tell"}
_TONES = {
    "measured": "good", "failed": "bad", "corrupt": "bad", "contradictory": "bad", "trial": "warn", "over-budget": "warn",
}  # fmt: skip


def details(board: Board, names: Names, csv: str) -> Table:
    """Every cell that was run: its state, other metrics and costs. Counts are the largest over seeds, costs the median."""
    found = [(entry, entry.cells[budget]) for budget in board.budgets for entry in _ordered(board, budget)]
    metrics = metrics_of(cell for _, cell in found)
    columns = (
        Column("Entry", text=True), Column("Budget"), Column("State", text=True), Column("Accuracy", "%", key="accuracy"),
        Column("n", "seeds", "Seeds that the numbers come from", key="n"),
        Column("Ties", "letters", "Entries share a letter at a budget exactly if they cannot be told apart", text=True, key="ties"),
        Column("Difference", "to the control, points", "Paired on common seeds, with half of its 95 % interval", key="difference"),
        *(metric.column for metric in metrics), *(measure.column for measure in MEASURES),
        Column("Certified", "runs", "Runs whose budget certificate passed", key="certified"),
        Column("Verified", "", "How far somebody else than who made it has verified it", text=True),
        Column("Method", text=True, extra=True), Column("Device", text=True, extra=True),
    )  # fmt: skip
    rows = tuple(_row(board, entry, cell, metrics, names) for entry, cell in found)
    sheet = Sheet(_heads(metrics), tuple(tuple(_line(board, entry, cell, metrics)) for entry, cell in found))
    told = words.listed(("NLL", "expected calibration error", *(["diversity"] if DIVERSITY in metrics else [])))
    caption = (
        f"Accuracy, {told} are means ± half of the 95 % interval. Counts are the largest over seeds, "
        "costs the median. Times and memory compare only on the same device."
    )
    filters = ("Method", "Budget", "State")
    return Table("costs", caption, columns, rows, sheet, csv, searchable=True, filters=filters)


def devices(cell: Cell) -> str:
    """Where the counted runs ran; several are all named."""
    found = {str(run.record.provenance.get("device") or "unknown") for run in cell.counted if run.record}
    return words.brief(", ".join(sorted(found)), 200)


def _ordered(board: Board, budget: str) -> list[Entry]:
    """The entries that were run at a budget: by mean, and those without one last."""
    there = [entry for entry in board.entries if budget in entry.cells]

    def place(entry: Entry) -> tuple[bool, float, str, int]:
        mean = entry.cells[budget].accuracy
        return mean is None, -mean.mean if mean else 0.0, entry.label, entry.variant

    return sorted(there, key=place)


def _row(board: Board, entry: Entry, cell: Cell, metrics: Sequence[Metric], names: Names) -> Row:
    href = f"../{names.cell(board, entry, cell)}"
    accuracy = cell_item(board, entry, cell.budget, href)
    method = words.plain(entry.definition.method)
    head = Item(entry.title, order=entry.title, href=href, swatch=colour(board, entry), badges=_marks(accuracy))
    budget = Item(words.budget(cell.budget), order=board.parameters(cell.budget))
    state = _state(cell, accuracy)
    numbers = (
        _numbers(board, entry, cell, metrics) if cell.counted else (Item(""),) * (len(MEASURES) + len(metrics) + 6)
    )
    items = (head, budget, state, *numbers, Item(method, order=method), Item(devices(cell), order=devices(cell)))
    return Row(items, facets=(method, budget.text, state.text))


def _numbers(board: Board, entry: Entry, cell: Cell, metrics: Sequence[Metric]) -> tuple[Item, ...]:
    mean, letters, verified = cell.accuracy, tie_letters(board, entry, cell.budget), weakest(cell)
    score = Item(words.MISSING)
    if mean:
        half = None if mean.n == 1 else mean.half
        spread = f"± {words.percent(half)}" if half is not None else ""
        runs = tuple(run.where for run in cell.counted)
        score = Item(words.percent(mean.mean), order=mean.mean, spread=spread, half=half, runs=runs)
    return (
        score, Item(str(len(cell.counted)), order=len(cell.counted)), Item(letters, order=letters or None),
        difference_item(board, entry, cell.budget),
        *(metric.item(cell) for metric in metrics), *(measure.item(cell) for measure in MEASURES), _certificates(cell),
        Item(verified, order=verified or None, title=MEANING.get(verified, "")),
    )  # fmt: skip


def tie_letters(board: Board, entry: Entry, budget: str) -> str:
    """The letters that an entry shares with those that it cannot be told from; nothing where it is not ranked."""
    place = board.place(entry, budget)
    return (place.letters or ranks(place)) if place else ""


def difference_item(board: Board, entry: Entry, budget: str) -> Item:
    """The paired difference to the control with half of its interval and what it says; nothing where there is none."""
    compared = board.comparison(entry, budget)
    if compared is None:
        return Item("")
    gap, verdict = compared.difference, compared.verdict
    half = None if gap.n == 1 else gap.half
    spread = f"± {words.percent(half)}" if half is not None else ""
    title = f"{words.seeds(gap.n)} in common: {SAID[verdict]}"
    return Item(
        words.signed(gap.mean),
        order=gap.mean,
        spread=spread,
        half=half,
        tone=verdict.replace(" ", "-"),
        title=title,
    )


def _state(cell: Cell, accuracy: Item) -> Item:
    """What the cell is, and why where it has no number that ranks."""
    text = _STATES.get(cell.kind, cell.kind)
    if cell.counted and cell.lacks:
        return Item(
            text, order=text, tone="warn", title=reason(cell), small=(Part(f"not ranked: {cell.lacks}", "reason"),)
        )
    if cell.counted and cell.kind in ("measured", "trial"):
        return Item(text, order=text, tone=_TONES.get(cell.kind, ""))
    why = accuracy.small if accuracy.text == cell.kind else (Part(reason(cell), "reason"),) if reason(cell) else ()
    return Item(text, order=text, tone=_TONES.get(cell.kind, "empty"), title=reason(cell), small=why)


def _marks(item: Item) -> tuple[Part, ...]:
    return tuple(part for part in item.badges if part.tone not in ("lead", "tie", "letter", "few"))


def _passed(cell: Cell) -> int:
    return sum(1 for run in cell.counted if run.record and run.record.certificate and run.record.certificate.passed)


def _certificates(cell: Cell) -> Item:
    passed, every = _passed(cell), len(cell.counted)
    badges = (Part("failed", "bad"),) if cell.breaches else ()
    return Item(f"{passed} of {every}", order=passed / every, badges=badges, tone="" if passed == every else "unranked")


def _heads(metrics: Sequence[Metric]) -> tuple[str, ...]:
    means = (head for name in ("accuracy", *(metric.key for metric in metrics)) for head in (name, f"{name}_half"))
    costs = (measure.key for measure in MEASURES)
    return ("label", "method", "budget", "state", "reason", "seeds", "ties", "difference_to_narrow", "difference_half", *means,
            *costs, "certified", "verified", "device")  # fmt: skip


def _line(board: Board, entry: Entry, cell: Cell, metrics: Sequence[Metric]) -> Iterator[Plain]:
    gap = board.difference(entry, cell.budget)
    method = words.plain(entry.definition.method)
    yield from (entry.title, method, words.plain(cell.budget), cell.kind, reason(cell), len(cell.counted))
    yield from (tie_letters(board, entry, cell.budget), gap.mean if gap else None, gap.half if gap else None)
    for interval in (cell.accuracy, *(cell.metric(metric.key) for metric in metrics)):
        yield from (interval.mean, interval.half) if interval else (None, None)
    yield from (measure.value(cell) for measure in MEASURES)
    yield from (_passed(cell), weakest(cell), devices(cell))
