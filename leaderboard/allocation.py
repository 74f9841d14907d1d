"""What a record says of its banks: groups of layers and the parts that each layer reads. Checked, for anyone can write it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_Size = Annotated[int, Field(ge=1, le=10**12)]
_Place = Annotated[int, Field(ge=0, le=10**12)]
_Shape = Annotated[list[_Size], Field(max_length=12)]
_Interval = Annotated[list[_Place], Field(min_length=2, max_length=2)]
_MOST_INTERVALS = 20_000


class Layer(BaseModel):
    """One layer of a group."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    layer: int = 0
    """Its place in the network."""
    name: Annotated[str, Field(max_length=500)]
    shape: _Shape
    templates: Annotated[int, Field(ge=1, le=10**6)] = 1
    start: _Place | None = None
    end: _Place | None = None
    reads: Annotated[list[_Interval], Field(max_length=2000)] = []
    resized_from: _Shape | None = None
    copies: Any = None
    """Set if it is resized by copies."""

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The parts of the bank that it reads; none in a dense group."""
        if self.start is not None and self.end is not None:
            return [(self.start, self.end)]
        return [(start, end) for start, end in self.reads]


class Group(BaseModel):
    """Layers that share a bank, or one layer with weights of its own (``dense``)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    group: Annotated[int, Field(ge=0, le=10**6)]
    dense: bool = False
    bank_size: _Size
    layers: Annotated[list[Layer], Field(max_length=2000)]

    @model_validator(mode="after")
    def _layers_read_the_bank(self) -> Self:
        for layer in self.layers:
            if not self.dense and not layer.intervals:
                raise ValueError("a layer of a shared bank says what it reads")
            if any(not start < end <= self.bank_size for start, end in layer.intervals):
                raise ValueError("an interval lies within its bank and ends after its start")
        return self

    @property
    def in_order(self) -> list[Layer]:
        """Layers as they stand in the network."""
        return sorted(self.layers, key=lambda layer: layer.layer)


class _Allocation(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    groups: Annotated[list[Group], Field(max_length=2000)]


@dataclass(frozen=True)
class Part:
    """A part of a bank and how many layers read it."""

    start: int
    end: int
    readers: int


def groups_of(allocation: dict[str, Any]) -> tuple[Group, ...]:
    """The groups of a record's allocation; none if it has none or if anything about them cannot be true."""
    try:
        groups = _Allocation.model_validate(allocation).groups
    except (ValidationError, RecursionError):
        return ()
    intervals = sum(len(layer.intervals) for group in groups for layer in group.layers)
    return tuple(groups) if intervals <= _MOST_INTERVALS else ()


def profile(group: Group) -> list[Part]:
    """The bank from its first entry to its last, in parts that are read by equally many layers."""
    change: Counter[int] = Counter()
    for layer in group.layers:
        for start, end in _joined(layer.intervals):
            change[start] += 1
            change[end] -= 1
    parts, at, readers = [], 0, 0
    for place in sorted({*(place for place, by in change.items() if by), group.bank_size}):
        if place > at:
            parts.append(Part(at, place, readers))
        at, readers = place, readers + change[place]
    return parts


def _joined(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places without overlaps: a layer that reads a place twice is one reader."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
