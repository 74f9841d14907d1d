"""How numbers and names are written: fixed decimals so that columns align, a dash for what is missing, NaN as NaN."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

from npasbench.budget import canonical
from npasbench.errors import UsageError

MISSING = "–"


def number(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    """A number with fixed decimals and thousands separators."""
    if value is None:
        return MISSING
    scaled = value * scale
    if not math.isfinite(scaled):
        return "NaN" if math.isnan(scaled) else ("∞" if scaled > 0 else "−∞")
    return f"{scaled:,.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A fraction in percent, without the sign."""
    return number(value, 2, scale=100)


def signed(value: float | None) -> str:
    """A difference of fractions in percentage points, with its sign."""
    text = percent(value)
    return f"+{text}" if value is not None and value > 0 else text


def p(value: float | None) -> str:
    """A p value in two digits: 0.43, 0.012, < 0.001."""
    if value is None or math.isnan(value):
        return number(value, 2)
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: int | float | None) -> str:
    """A whole number with thousands separators."""
    return number(value, 0)


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return number(value, 0)
    if value == 0:
        return "0 s"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if abs(value) < limit:
            return f"{_significant(value * scale)} {unit}"
    return f"{_significant(value / 3600)} h"


def size(value: float | None) -> str:
    """Bytes in the unit that suits them."""
    if value is None or not math.isfinite(value):
        return number(value, 0)
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= scale:
            return f"{_significant(value / scale)} {unit}"
    return f"{number(value, 0)} B"


def short(value: float) -> str:
    """A count in three digits: 7.79k, 36.5M."""
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{_significant(value / scale)}{unit}"
    return f"{value:,.0f}"


def budget(text: str) -> str:
    """A budget as readers write it: ``0.1×`` for fractions, ``18M`` for counts."""
    try:
        value = float(canonical(text))
    except (UsageError, OverflowError):
        return plain(text)
    return f"{canonical(text)}×" if value < 1000 else short(value)


def seeds(n: int) -> str:
    """So many seeds, in words."""
    return plural(n, "seed")


def plural(n: int, noun: str, several: str = "") -> str:
    """So many of something."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {several or noun + 's'}"


def listed(items: Iterable[str]) -> str:
    """Items in a row, as in a sentence."""
    every = list(items)
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}" if every else "none"


def plain(text: object) -> str:
    """A name on one line without control or direction characters, which records may bring along."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def brief(text: object, most: int = 80) -> str:
    """The same, cut where it is long: a knob's name or value may be of any length."""
    written = plain(str(text)[: most + 1])
    return written if len(written) <= most else f"{written[:most]}…"


def _significant(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")
