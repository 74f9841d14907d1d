"""Amounts of time and memory as people and SLURM write them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_UNITS = {"m": 1, "h": 60, "d": 24 * 60}


def minutes(given: Any) -> Any:
    """``30m``, ``4h``, ``2d``, ``1h30m``, a number of minutes, or SLURM's ``HH:MM:SS`` and ``D-HH:MM:SS``: whole minutes.

    Raises:
        ValueError: for anything else.
    """
    text = str(given).strip()
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"(\d+[mhd])+", text):
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([mhd])", text))
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if clock:
        days, hours, mins, seconds = (int(part or 0) for part in clock.groups())
        return (days * 24 + hours) * 60 + mins + (seconds > 0)
    raise ValueError(f"'{given}' is not a time. Write 30m, 4h, 2d, 1h30m, or as SLURM does 1-12:00:00")


def memory(given: Any) -> Any:
    """``16G`` or ``500M``, as SLURM reads it.

    Raises:
        ValueError: for anything else.
    """
    if re.fullmatch(r"[1-9]\d*[MGT]B?", str(given).strip()):
        return str(given).strip().rstrip("B")
    raise ValueError(f"'{given}' is not an amount of memory. Write 16G or 500M")


Minutes = Annotated[int, BeforeValidator(minutes), Field(gt=0)]
Memory = Annotated[str, BeforeValidator(memory)]
