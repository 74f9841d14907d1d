"""Tables as the templates show them: a number knows the runs it came from, and a template decides nothing."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass

from . import words

Plain = str | int | float | None


@dataclass(frozen=True)
class Part:
    """A piece of small print in a cell, with a tone that the style sheet knows."""

    text: str
    tone: str = ""
    title: str = ""


@dataclass(frozen=True)
class Link:
    """A link to a page of the site, or to a checked http address."""

    text: str
    href: str
    tone: str = ""
    title: str = ""


@dataclass(frozen=True)
class Fact:
    """A name and its value."""

    name: str
    value: str
    href: str = ""
    code: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Item:
    """One cell of a table."""

    text: str
    order: Plain = None
    """What it sorts by; None sorts last in both directions."""
    href: str = ""
    spread: str = ""
    """What follows the number, such as ``± 0.42``."""
    half: float | None = None
    """Half of the interval in the unit of ``order``, for what is saved from the page."""
    small: tuple[Part, ...] = ()
    badges: tuple[Part, ...] = ()
    tone: str = ""
    title: str = ""
    swatch: str = ""
    """The custom property of the style sheet that holds its colour in the charts."""
    links: tuple[Link, ...] = ()
    runs: tuple[str, ...] = ()
    """The run directories that the number came from."""

    @property
    def sort_key(self) -> str:
        """What the sorter reads; nothing for what is missing or NaN."""
        return _attribute(self.order)

    @property
    def half_key(self) -> str:
        """Half of the interval as the page's scripts read it; nothing where there is none."""
        return _attribute(self.half)


@dataclass(frozen=True)
class Column:
    """A column's head."""

    title: str
    small: str = ""
    help: str = ""
    text: bool = False
    """Whether it holds words and not numbers."""
    key: str = ""
    """Its name in addresses and in what is saved from the page; from the title where nothing is given."""
    extra: bool = False
    """Whether scripts hide it until it is picked."""

    @property
    def name(self) -> str:
        """The key, or one made of the title."""
        return self.key or re.sub(r"[^a-z0-9]+", "_", f"{self.title} {self.small}".lower()).strip("_")


@dataclass(frozen=True)
class Row:
    """A row: the first item heads it."""

    items: tuple[Item, ...]
    tone: str = ""
    anchor: str = ""
    facets: tuple[str, ...] = ()
    """Its value for each filter of the table."""

    @property
    def head(self) -> Item:
        """What heads the row."""
        return self.items[0]

    @property
    def cells(self) -> tuple[Item, ...]:
        """All items but the head."""
        return self.items[1:]


@dataclass(frozen=True)
class Sheet:
    """What a CSV file holds: one fact a column, numbers in full precision."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Plain, ...], ...]

    def text(self) -> str:
        """The file. NaN is ``NaN``, missing is empty; words that a spreadsheet would run as a formula are quoted."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_written(value) for value in row] for row in self.rows)
        return buffer.getvalue()


@dataclass(frozen=True)
class Table:
    """A table that sorts, and the sheet that can be downloaded."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sheet: Sheet
    csv: str = ""
    """Where the sheet lies, beside the page."""
    searchable: bool = False
    """Whether it has a tool bar: a filter for its words, filters, a column picker, and what is shown as a file."""
    filters: tuple[str, ...] = ()
    """What the rows' facets are, such as ``Budget``."""


def _attribute(value: Plain) -> str:
    if isinstance(value, str):
        return words.brief(value, 200)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _written(value: Plain) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return "NaN" if isinstance(value, float) and math.isnan(value) else repr(value)
