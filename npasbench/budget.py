"""A parameter budget: how it is written, and how many trained scalars it allows.

A number below 1000 is a fraction of the dense network, one from 1000 up is a count; ``10%``, ``0.1x``, ``18M`` and
``250k`` are understood. Fractions round down. Arithmetic is decimal, so that 0.1 of 77,850 is 7,785 exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from npasbench.errors import UsageError

Accounting = Literal["total", "bank"]
_WRITTEN = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>%|x|k|m|b)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:[,_][0-9]{3})+")
_UNITS = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_MOST_TIMES_DENSE = 1000
_HOW = "Write a fraction of the dense network (0.1, 0.1x, 10%) or a count from 1000 up (18000000, 18M, 250k)."


@dataclass(frozen=True)
class Budget:
    """How many trained scalars a network may have at inference, everything included.

    ``text`` is the canonical spelling (``0.1``, ``18000000``) and names folders; ``parameters`` is the resolved count;
    ``dense`` is the count of the dense architecture(s) that fractions refer to. Under ``accounting = "bank"`` only
    weights of convolutions and linear layers are held against the budget, as in the papers, and counted in ``dense``.
    """

    text: str
    parameters: int
    dense: int
    accounting: Accounting = "total"

    @property
    def fraction(self) -> float:
        """The budget over the dense count."""
        return self.parameters / self.dense


def canonical(given: str | float) -> str:
    """The one spelling of a budget: a decimal fraction below 1000, or an integer count.

    Raises:
        UsageError: if it is not a positive finite number in one of the understood forms.
    """
    written = str(given).strip()
    if grouped := _THOUSANDS.match(written):
        written = grouped[0].replace(",", "").replace("_", "") + written[grouped.end() :]
    match = _WRITTEN.fullmatch(written)
    if match is None:
        raise UsageError(f"'{given}' is not a parameter budget. {_HOW}")
    number, unit = Decimal(match["number"]), (match["unit"] or "").lower()
    is_fraction = unit in ("%", "x") or (unit == "" and number < 1000)
    value = number / 100 if unit == "%" else number * _UNITS.get(unit, 1)
    if value <= 0:
        raise UsageError(f"A parameter budget of {given} leaves no parameters at all. {_HOW}")
    if is_fraction and value >= 1000:
        raise UsageError(f"'{given}' is {value:f} times the dense network; fractions stay below 1000. {_HOW}")
    if not is_fraction and value < 1000:
        raise UsageError(f"'{given}' is a count below 1000, which would read as a fraction. {_HOW}")
    if not is_fraction and value > 10**12:
        raise UsageError(f"'{given}' is more than 10^12 parameters. {_HOW}")
    if not is_fraction:
        return str(int(value))
    return format(value.normalize(), "f")


def resolve(given: str | float, dense: int, accounting: Accounting = "total") -> Budget:
    """Resolve a written budget against a dense network of ``dense`` parameters; fractions round down.

    Raises:
        UsageError: for what :func:`canonical` refuses, no parameters at all, or more than 1000 times the dense network.
    """
    text = canonical(given)
    value = Decimal(text)
    parameters = int(value * dense) if value < 1000 else int(value)
    if parameters < 1:
        raise UsageError(f"A budget of {given} of {dense:,} parameters rounds down to none. {_HOW}")
    if parameters > _MOST_TIMES_DENSE * dense:
        raise UsageError(
            f"A budget of {parameters:,} parameters is more than {_MOST_TIMES_DENSE:,} times the dense network of "
            f"{dense:,}. Give at most {_MOST_TIMES_DENSE * dense:,}. {_HOW}"
        )
    return Budget(text, parameters, dense, accounting)
