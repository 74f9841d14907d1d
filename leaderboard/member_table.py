"""A run's members, each alone, and what they predict together."""

from __future__ import annotations

from collections.abc import Mapping

from npasbench.running.record import Record

from . import words
from .ensembles import member_names, subsets_of
from .tables import Column, Item, Row, Sheet, Table

_COLUMNS = (
    Column("Member", text=True),
    Column("Accuracy", "%"),
    Column("NLL", "nats"),
    Column("ECE", "%"),
    Column("MACs", "millions"),
    Column("Latency", "ms"),
)


def member_table(record: Record) -> Table | None:
    """Every member and the ensemble; None for a single network."""
    if not record.members:
        return None
    together = subsets_of(record).get(tuple(range(len(record.members))))
    macs, latency = (together.macs, together.latency_seconds) if together else (record.costs.get("macs"), None)
    names = member_names(record.members)
    rows = [
        _row(name, one.metrics, one.macs, one.latency_seconds) for name, one in zip(names, record.members, strict=True)
    ]
    ensemble = _row(f"all {len(names)} together", record.metrics, macs, latency, tone="reference")
    caption = "Together they predict by the mean of their probabilities. MACs and latency are those of one example."
    return Table("members", caption, _COLUMNS, (*rows, ensemble), Sheet((), ()))


def _row(name: str, metrics: Mapping[str, float], macs: float | None, latency: float | None, *, tone: str = "") -> Row:
    return Row(
        (
            Item(name),
            Item(words.percent(metrics.get("accuracy"))),
            Item(words.number(metrics.get("nll"), 3)),
            Item(words.percent(metrics.get("ece"))),
            Item(words.number(macs, 2, scale=1e-6)),
            Item(words.number(latency, 2, scale=1e3)),
        ),
        tone=tone,
    )
