"""What a record says of held-out and of corrupted images, against itself and its card."""

from __future__ import annotations

from collections.abc import Iterator

from npasbench.card import Card
from npasbench.running.metric_checks import TOLERANCE, metric_faults
from npasbench.running.reading import short
from npasbench.running.record import Record


def says_more(record: Record, card: Card | None) -> bool:
    """Whether there is anything to check: most protocols hold nothing out."""
    asked = card is not None and (card.data.protocol == "holdout-best" or card.data.corrupted)
    return bool(record.held_out or record.corrupted or asked)


def protocol_faults(record: Record, card: Card | None) -> Iterator[str]:
    """Whatever cannot be; ``card`` is the record's own, if it is at hand."""
    if record.state not in ("done", "over-budget"):
        if record.held_out or record.corrupted:
            yield f"a run that was {record.state} has been tested"
        return
    yield from _held_out(record, card)
    yield from _corrupted(record, card)


def _held_out(record: Record, card: Card | None) -> Iterator[str]:
    held = record.held_out
    if card is not None and (card.data.protocol == "holdout-best") != (held is not None):
        told = "names no epoch" if held is None else f"names epoch {held.epoch}"
        yield f"the card's protocol is {card.data.protocol}, and the record {told} that was best on held-out images"
    if held is None:
        return
    if card is not None and held.epoch > card.recipe.epochs:
        yield f"epoch {held.epoch:,} was tested of {card.recipe.epochs:,}"
    right = held.accuracy * held.examples
    if abs(right - round(right)) > 1e-6 * max(1.0, right):
        yield f"an accuracy of {held.accuracy} is no whole number of {held.examples:,} held-out images"


def _corrupted(record: Record, card: Card | None) -> Iterator[str]:
    found = record.corrupted
    if card is not None and card.data.corrupted != (found is not None):
        yield f"the card asks for {'' if card.data.corrupted else 'no '}corrupted images, and the record disagrees"
    if found is None:
        return
    if bool(found.absent) == bool(found.metrics):
        yield (
            "corrupted images are said to be absent and tested"
            if found.absent
            else "corrupted: neither figures nor why"
        )
    if bool(found.metrics) != bool(found.corruptions):
        yield "corrupted: a mean and its parts go together"
        return
    for name, one in found.corruptions.items():
        yield from (f"corrupted, {short(name, 40)}: {fault}" for fault in metric_faults(one))
    for name, mean in found.metrics.items():
        parts = [one.get(name) for one in found.corruptions.values()]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not abs(sum(known) / len(known) - mean) <= TOLERANCE * max(1.0, abs(mean)):
            yield f"corrupted: {short(name, 40)} is {mean}, not the mean of {len(parts)} corruptions"
