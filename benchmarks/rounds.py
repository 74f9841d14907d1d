"""Interleaved rounds and paired ratios: how every figure in benchmarks/README.md is measured.

In each round every contestant runs once, in an order that rotates; a ratio is taken within the round, so that a machine
that slows down slows both. The interval of the median is the distribution-free one from order statistics.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import quantile_test


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios with its 95 % interval, and the contestant's median time in seconds."""

    name: str
    median: float
    low: float
    high: float
    seconds: float
    rounds: int

    def line(self, limit: float | None = None) -> str:
        """One row of a table; the lower end of the interval is what must not exceed the limit."""
        verdict = "" if limit is None else f"  {'ok' if self.low <= limit else 'OVER'} (at most {limit})"
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name:<28} {self.median:.3f} {interval}  {self.seconds * 1e3:9.2f} ms  n={self.rounds}{verdict}"


def timed(call: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def compare(contestants: Mapping[str, Callable[[], object]], against: str, rounds: int, warmup: int = 2) -> list[Ratio]:
    """Each contestant's time over that of ``against``, over ``rounds`` interleaved rounds."""
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.disable()
    for turn in range(rounds):
        shift = turn % len(names)
        order = names[shift:] + names[:shift]
        for name in order if turn % 2 == 0 else reversed(order):
            times[name].append(timed(contestants[name]))
        gc.collect()
    gc.enable()
    return [ratio(name, times[name], times[against]) for name in names]


def ratio(name: str, times: list[float], reference: list[float]) -> Ratio:
    """The paired ratios of two lists of times."""
    paired = np.asarray(times) / np.asarray(reference)
    if name and np.allclose(paired, 1):
        return Ratio(name, 1.0, 1.0, 1.0, float(np.median(times)), len(times))
    interval = quantile_test(paired, p=0.5).confidence_interval(0.95)
    return Ratio(
        name, float(np.median(paired)), float(interval.low), float(interval.high), float(np.median(times)), len(times)
    )


def report(
    title: str, contestants: Mapping[str, Callable[[], object]], rounds: int, limits: Mapping[str, float]
) -> None:
    """One table of paired ratios to the first contestant."""
    print(f"\n{title}: median of paired ratios with 95 % interval")
    for row in compare(contestants, next(iter(contestants)), rounds):
        print(row.line(limits.get(row.name)), flush=True)
