"""Nested facts on a terminal: scalars in lines, rows of equal keys as aligned columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click


def show_tables(content: Mapping[str, Any], indent: str = "") -> None:
    """Print facts; a list of dicts becomes a table, one inside another a table below its row."""
    for key, value in content.items():
        if _is_rows(value):
            click.secho(f"{indent}{key}:", bold=True)
            _show_rows(value, indent + "  ")
        elif isinstance(value, Mapping):
            click.secho(f"{indent}{key}:", bold=True)
            for name, number in value.items():
                click.echo(f"{indent}  {name:<14} {_text(number):>14}")
        else:
            click.echo(click.style(f"{indent}{key}: ", bold=True) + _text(value))


def _show_rows(rows: Sequence[Mapping[str, Any]], indent: str) -> None:
    if any(_is_rows(value) for row in rows for value in row.values()):
        for row in rows:
            plain = "  ".join(f"{key} {_text(value)}" for key, value in row.items() if not _is_rows(value))
            click.echo(f"{indent}{plain}")
            for value in row.values():
                if _is_rows(value):
                    _show_rows(value, indent + "  ")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    for line in cells:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        )
        click.echo((indent + "  ".join(padded)).rstrip())


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "x".join(map(str, value)) if value and all(isinstance(one, int) for one in value) else json.dumps(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
