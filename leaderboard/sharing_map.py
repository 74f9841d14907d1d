"""The sharing map: which part of its bank each layer reads, as a table whose last column is a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import words
from .allocation import Group, Layer, Part, groups_of, profile

SHARING_MAP = "sharing-map"
"""The anchor of the map on a run's page."""
WIDTH, HEIGHT = 1000, 10
"""Units of a picture; the page stretches them."""
_LEAST = 2.0
"""The narrowest bar, so that the smallest layer can be seen."""
_ROOM = 8.0
"""The narrowest template whose boundaries are drawn."""
_MOST_BOUNDARIES = 200
_NAMED_INTERVALS = 3
_LONGEST_NAME = 120
_MANY_LAYERS = 40


@dataclass(frozen=True)
class LayerView:
    """A row: the layer in words, and its bars and the boundaries between its templates as SVG paths."""

    name: str
    shape: str
    resized: str
    templates: str
    reads: str
    bars: str
    cuts: str


@dataclass(frozen=True)
class GroupView:
    """The picture of one group: its rows, the places named along the bank, and how often each part is read."""

    title: str
    rows: tuple[LayerView, ...]
    ticks: tuple[str, ...]
    readers: str
    read: str
    unread: str
    unused: str
    compact: bool


@dataclass(frozen=True)
class OwnView:
    """A layer whose weights are its own."""

    name: str
    shape: str
    size: str


@dataclass(frozen=True)
class SharingMap:
    """All groups of a run."""

    groups: tuple[GroupView, ...]
    own: tuple[OwnView, ...]


def sharing_map(allocation: dict[str, Any]) -> SharingMap | None:
    """The map of a record's allocation; None if it has none that can be drawn."""
    groups = groups_of(allocation)
    shared = tuple(_group(group) for group in groups if not group.dense)
    own = tuple(_own(group, layer) for group in groups if group.dense for layer in group.in_order)
    return SharingMap(shared, own) if shared else None


def _group(group: Group) -> GroupView:
    size, parts = group.bank_size, profile(group)
    readers = [part.readers for part in parts]
    least, most = min(readers), max(readers)
    noun = "layer shares" if len(group.layers) == 1 else "layers share"
    return GroupView(
        title=f"Group {group.group}: {len(group.layers):,} {noun} a bank of {words.count(size)} entries",
        rows=tuple(_layer(layer, size) for layer in group.in_order),
        ticks=tuple(words.count(size * quarter // 4) for quarter in range(5)),
        readers=f"{words.count(least)} to {words.plural(most, 'layer')}",
        read="".join(_read(part, size, most) for part in parts if part.readers),
        unread=_bars(((part.start, part.end) for part in parts if not part.readers), size),
        unused=_unused(parts, size),
        compact=len(group.layers) > _MANY_LAYERS,
    )


def _layer(layer: Layer, size: int) -> LayerView:
    return LayerView(
        name=_name(layer),
        shape=_shape(layer.shape),
        resized=_resized(layer),
        templates=words.count(layer.templates),
        reads=_reads(layer),
        bars=_bars(layer.intervals, size),
        cuts="".join(f"M{_x(place, size)} 0v{HEIGHT}" for place in _boundaries(layer, size)),
    )


def _own(group: Group, layer: Layer) -> OwnView:
    return OwnView(_name(layer), _shape(layer.shape), words.count(group.bank_size))


# In words


def _name(layer: Layer) -> str:
    return words.plain(layer.name)[:_LONGEST_NAME]


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def _resized(layer: Layer) -> str:
    if layer.resized_from is not None:
        return f"resized from {_shape(layer.resized_from)}"
    return "resized by copies" if layer.copies is not None else ""


def _reads(layer: Layer) -> str:
    named = ", ".join(f"{start:,}–{end:,}" for start, end in layer.intervals[:_NAMED_INTERVALS])
    more = len(layer.intervals) - _NAMED_INTERVALS
    return f"{named} and {more:,} more" if more > 0 else named


def _unused(parts: Iterable[Part], size: int) -> str:
    unused = sum(part.end - part.start for part in parts if not part.readers)
    if not unused:
        return "Every entry is read by some layer."
    share = 100 * unused / size
    return (
        f"{words.plural(unused, 'entry', 'entries')} ({share:.2f} %) {'is' if unused == 1 else 'are'} read by no layer."
    )


# In pictures


def _x(place: float, size: int) -> str:
    return f"{WIDTH * place / size:.2f}".rstrip("0").rstrip(".")


def _bars(intervals: Iterable[tuple[int, int]], size: int) -> str:
    """A bar for each interval, over the whole height."""
    return "".join(_bar(start, end, size, 0.0) for start, end in intervals)


def _bar(start: int, end: int, size: int, top: float) -> str:
    width = max(_LEAST, WIDTH * (end - start) / size)
    left = min(WIDTH * start / size, WIDTH - width)
    return f"M{_x(left, WIDTH)} {_x(top, WIDTH)}h{_x(width, WIDTH)}V{HEIGHT}h-{_x(width, WIDTH)}z"


def _read(part: Part, size: int, most: int) -> str:
    """A bar as high as the part is often read."""
    return _bar(part.start, part.end, size, HEIGHT * (1 - part.readers / most))


def _boundaries(layer: Layer, size: int) -> list[float]:
    """Where a template ends and the next begins, if templates are wide enough to be told apart."""
    intervals = layer.intervals
    template = sum(end - start for start, end in intervals) / layer.templates
    if WIDTH * template / size < _ROOM:
        return []
    places = [start + template * i for start, end in intervals for i in range(round((end - start) / template))]
    return places[1:_MOST_BOUNDARIES]
