"""What is possible of results, and still asks for a second look: seeds that nobody asked for, and seeds that agree too well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from npasbench.running.reading import short

from . import words

if TYPE_CHECKING:
    from npasbench.card import Card
    from npasbench.running.record import Record

    from .store import Run

_FEW = 10
"""With fewer examples right, or wrong, two networks may well agree on which."""
_NAMED = 5

Found = Sequence[tuple["Run", "Record"]]


def doubts(found: Found, card_of: Callable[[Record], Card | None]) -> Iterator[str]:
    """A sentence for each cell that asks for a second look."""
    cells: dict[tuple[str, ...], list[tuple[Run, Record]]] = defaultdict(list)
    for run, record in found:
        cells[record.task, record.task_fingerprint, record.label, record.budget].append((run, record))
    for cell in cells.values():
        yield from _uncalled(cell, card_of(cell[0][1]))
        yield from _repeated(cell)


def _uncalled(cell: Found, card: Card | None) -> Iterator[str]:
    """Seeds that are not the card's: of many seeds the best could have been chosen."""
    _, first = cell[0]
    if card is None or card.fingerprint != first.task_fingerprint:
        return
    seeds = sorted({record.seed for _, record in cell} - set(card.seeds))
    if seeds:
        said = "seed {} is not one of the card's" if len(seeds) == 1 else "seeds {} are not of the card's"
        yield f"{_named(first)}: {said.format(_listed(seeds))}, {_range(card.seeds)}."


def _repeated(cell: Found) -> Iterator[str]:
    """Seeds with exactly the same results."""
    _, first = cell[0]
    alike = _seeds_by(cell, _bits)
    told: set[int] = set()
    for seeds in alike.values():
        told.update(seeds)
        yield (
            f"{_named(first)}: seeds {_listed(seeds)} predict exactly the same test examples right. Networks trained from "
            "different seeds do not; it is a copied result, or a method that draws nothing."
        )
    for seeds in _seeds_by(cell, _nll).values():
        if not told.issuperset(seeds):
            yield (
                f"{_named(first)}: seeds {_listed(seeds)} have the same NLL to the last digit. Networks trained from different "
                "seeds do not; it is a copied result, or a method that draws nothing."
            )


def _seeds_by(cell: Found, told: Callable[[Run, Record], object]) -> Mapping[object, list[int]]:
    """The seeds that tell the same, where several do."""
    seeds: dict[object, set[int]] = defaultdict(set)
    for run, record in cell:
        if record.state in ("done", "over-budget") and (value := told(run, record)) is not None:
            seeds[value].add(record.seed)
    return {value: sorted(several) for value, several in seeds.items() if len(several) > 1}


def _bits(run: Run, record: Record) -> str | None:
    """Correctness bits, unless nearly all are right or nearly all wrong."""
    accuracy, examples = record.metrics.get("accuracy"), record.test_examples or 0
    if accuracy is None or not _FEW <= accuracy * examples <= examples - _FEW:
        return None
    return run.bits


def _nll(_: Run, record: Record) -> float | None:
    return record.metrics.get("nll") or None


def _named(record: Record) -> str:
    return " ".join(short(part, 60) for part in (record.task, record.label, record.budget))


def _listed(seeds: Iterable[int]) -> str:
    every = [f"{seed}" for seed in seeds]
    return words.listed(every if len(every) <= _NAMED else [*every[:_NAMED], f"{len(every) - _NAMED:,} more"])


def _range(seeds: Sequence[int]) -> str:
    """``0 to 9``, or the seeds by name."""
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return _listed(ordered)
