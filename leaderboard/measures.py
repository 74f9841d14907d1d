"""What is measured beside accuracy: how a cell's other metrics, counts and costs are read from its records and written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from npasbench.running.record import Record

from . import words
from .board import Cell
from .statistics import Interval
from .tables import Column, Item


@dataclass(frozen=True)
class Metric:
    """A metric of the test set beside accuracy: a mean over seeds with its interval."""

    key: str
    column: Column
    digits: int
    scale: float = 1.0
    missing: str = words.MISSING

    def item(self, cell: Cell) -> Item:
        """The cell's mean and half of its interval, ready to be shown."""
        return mean_item(cell.metric(self.key), self.digits, self.scale, self.missing)


NLL = Metric("nll", Column("NLL", "nats", key="nll"), 3)
ECE = Metric("ece", Column("ECE", "%", key="ece"), 2, 100)
DIVERSITY = Metric(
    "diversity",
    Column(
        "Diversity",
        "disagreement / error",
        "How often two members predict differently, over how often the ensemble is wrong",
    ),
    3,
    missing="",
)


def metrics_of(cells: Iterable[Cell]) -> tuple[Metric, ...]:
    """What is shown beside accuracy: diversity only where some record has it."""
    return (NLL, ECE, *((DIVERSITY,) if any(cell.metric(DIVERSITY.key) for cell in cells) else ()))


def mean_item(interval: Interval | None, digits: int, scale: float = 1.0, missing: str = words.MISSING) -> Item:
    """A mean with half of its interval, of which one seed has none."""
    if interval is None:
        return Item(missing)
    half = "" if interval.n == 1 else f"± {words.number(interval.half, digits, scale=scale)}"
    number = words.number(interval.mean, digits, scale=scale)
    return Item(number, order=interval.mean, spread=half, half=None if interval.n == 1 else interval.half)


@dataclass(frozen=True)
class Measure:
    """A column: what is read from each record, how seeds are put together, and how it is written."""

    key: str
    column: Column
    read: Callable[[Record], float | None]
    digits: int
    scale: float = 1.0
    together: Callable[[list[float]], float] = statistics.median
    missing: str = words.MISSING
    """What stands where there is no value."""

    def value(self, cell: Cell) -> float | None:
        """The cell's value; None where no run has one."""
        read = [self.read(run.record) for run in cell.counted if run.record]
        found = [value for value in read if value is not None]
        return self.together(found) if found else None

    def item(self, cell: Cell) -> Item:
        """The cell's value, ready to be shown."""
        value = self.value(cell)
        return Item(
            self.missing if value is None else words.number(value, self.digits, scale=self.scale),
            order=value,
            runs=tuple(run.where for run in cell.counted),
        )


def _cost(key: str) -> Callable[[Record], float | None]:
    return lambda record: record.costs.get(key)


EXCHANGED = Measure(
    "exchanged_bytes",
    Column("Exchanged", "KiB a step", "Gradients that data-parallel training exchanges in each step"),
    _cost("exchanged_bytes"),
    1,
    2**-10,
)
SEARCH = (
    Measure("search_seconds", Column("Search", "s", "Median over seeds; empty without a search"),
            _cost("search_seconds"), 1, missing=""),
    Measure("search_epochs", Column("Search", "epochs", "Epochs trained in the search; empty without a search"),
            _cost("search_epochs"), 0, missing=""),
    Measure("search_flops", Column("Search", "GFLOPs", "Forward and backward of the search's training; empty without a search"),
            _cost("search_flops"), 1, 1e-9, missing=""),
)  # fmt: skip
"""What a search costs: nothing stands where there was none, since that is not a cost of zero."""
MEASURES = (
    Measure("parameters", Column("Count", "parameters", "Trained scalars needed at inference, everything included"),
            lambda record: record.parameters.get("total"), 0, together=max),
    Measure("effective_parameters", Column("Effective", "parameters", "The count without entries that provably do nothing"),
            lambda record: record.effective_parameters, 0, together=max),
    Measure("side_information_bits", Column("Side information", "bits", "Stored but not trained: masks, indices, assignments"),
            lambda record: record.side_information_bits, 0, together=max),
    Measure("macs", Column("MACs", "millions", "Multiply-adds of one example's forward pass"), _cost("macs"), 2, 1e-6),
    Measure("step_seconds", Column("Step", "ms", "One training step"), _cost("step_seconds"), 2, 1e3),
    Measure("generation_seconds", Column("Generation", "ms", "Making all weights once"), _cost("generation_seconds"), 2, 1e3),
    Measure("peak_memory_bytes", Column("Peak memory", "MiB"), _cost("peak_memory_bytes"), 1, 2**-20),
    EXCHANGED,
    Measure("train_seconds", Column("Training", "s", "Median over seeds"), _cost("train_seconds"), 1),
    *SEARCH[:2],
)  # fmt: skip
"""What a task's table of costs shows; of a search the time and the epochs, which compare with training's."""
