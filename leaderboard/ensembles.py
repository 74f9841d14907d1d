"""What an ensemble's members predict alone and together, over the seeds of a cell, and which of that is worth its cost."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from npasbench.running.record import MemberResult, Record, SubsetResult

from . import words
from .board import Cell
from .statistics import Interval, mean_interval

_MOST_SUBSETS = 4096
Indices = tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """What some members predict together, by the mean of their probabilities. Means over seeds; costs are the median."""

    members: tuple[str, ...]
    """By name; none where members cannot be had apart, and all predict at once."""
    of: int
    """How many members there are to choose from."""
    accuracy: Interval
    nll: Interval | None
    ece: Interval | None
    macs: float | None
    latency: float | None
    """Seconds for one example."""


@dataclass(frozen=True)
class Cost:
    """What a prediction costs, in the unit that it is shown in."""

    name: str
    axis: str
    unit: str
    digits: int
    scale: float
    read: Callable[[Prediction], float | None]

    def of(self, prediction: Prediction) -> float | None:
        """The cost, scaled; None if it is not known or no number."""
        value = self.read(prediction)
        return value * self.scale if value is not None and math.isfinite(value * self.scale) else None


MACS = Cost("MACs", "MACs of one example (millions)", "million MACs", 2, 1e-6, lambda one: one.macs)
LATENCY = Cost("latency", "latency of one example (ms)", "ms", 2, 1e3, lambda one: one.latency)


def subsets_of(record: Record) -> dict[Indices, SubsetResult]:
    """The subsets by the indices of their members; none if it is no ensemble or what it says cannot be true."""
    every = range(len(record.members))
    found = {tuple(subset.members): subset for subset in record.subsets[: _MOST_SUBSETS + 1]}
    true = all(indices and sorted({*indices}) == [*indices] and indices[-1] in every and indices[0] in every
               for indices in found)  # fmt: skip
    return found if true and len(every) > 1 and len(found) == len(record.subsets) <= _MOST_SUBSETS else {}


def member_names(members: Sequence[MemberResult]) -> tuple[str, ...]:
    """Their names, with numbers from 1 where several have the same."""
    names = [words.plain(member.name) for member in members]
    times = Counter(names)
    return tuple(f"{name} ({place})" if times[name] > 1 else name for place, name in enumerate(names, start=1))


def predictions(cell: Cell) -> tuple[Prediction, ...]:
    """Every subset of members that all counted runs with subsets have; a cell without any predicts at one cost."""
    records = [run.record for run in cell.counted if run.record]
    by_run = [subsets for record in records if (subsets := subsets_of(record))]
    if not by_run:
        return tuple(_whole(cell, records))
    names = next(member_names(record.members) for record in records if subsets_of(record))
    common = sorted(set.intersection(*({*subsets} for subsets in by_run)), key=lambda indices: (len(indices), indices))
    told = [_together(indices, [subsets[indices] for subsets in by_run], names) for indices in common]
    return tuple(one for one in told if one)


def envelope(every: Iterable[Prediction], cost: Cost) -> tuple[Prediction, ...]:
    """The upper envelope, the cheapest first: predictions with a higher mean than all that cost no more."""
    priced = [(price, one) for one in every if (price := cost.of(one)) is not None and math.isfinite(one.accuracy.mean)]
    kept: list[Prediction] = []
    for _, one in sorted(priced, key=lambda pair: (pair[0], -pair[1].accuracy.mean)):
        if not kept or one.accuracy.mean > kept[-1].accuracy.mean:
            kept.append(one)
    return tuple(kept)


def _together(indices: Indices, seeds: Sequence[SubsetResult], names: Sequence[str]) -> Prediction | None:
    accuracy, nll, ece = (_mean(one.metrics.get(key) for one in seeds) for key in ("accuracy", "nll", "ece"))
    if accuracy is None or indices[-1] >= len(names):
        return None
    macs, latency = (
        statistics.median(values) for values in zip(*((one.macs, one.latency_seconds) for one in seeds), strict=True)
    )
    return Prediction(tuple(names[index] for index in indices), len(names), accuracy, nll, ece, macs, latency)


def _whole(cell: Cell, records: Sequence[Record]) -> Iterator[Prediction]:
    macs = [value for record in records if (value := record.costs.get("macs")) is not None]
    if cell.accuracy:
        middle = statistics.median(macs) if macs else None
        yield Prediction((), 0, cell.accuracy, cell.metric("nll"), cell.metric("ece"), middle, None)


def _mean(values: Iterable[float | None]) -> Interval | None:
    return mean_interval([value for value in values if value is not None])
