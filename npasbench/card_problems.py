"""What is wrong with a card or suite, in sentences: the key, what was given, what was expected, the nearest key."""

from __future__ import annotations

import difflib
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """A sentence for each thing that pydantic found wrong with what was to become a ``model``."""
    return [_explain(one, model) for one in error.errors()]


def _explain(error: Any, model: type[BaseModel]) -> str:
    """One pydantic error as a sentence: the key, what was given, what was expected, the nearest key."""
    where, given = error["loc"], error.get("input")
    key = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        known = _keys_beside(where, model)
        near = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.5)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        return f"key '{key}' is unknown.{guess} Known keys there: {', '.join(known)}."
    if error["type"] == "missing":
        return f"key '{key}' is missing. Add it."
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool, list)) else ""
    return f"key '{key}': {message}{shown}." if key else f"{message}."


def _keys_beside(where: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    """The keys that a model knows at the place of an error."""
    current = model
    for part in where[:-1]:
        if isinstance(part, int) or part not in current.model_fields:
            continue
        inner = [t for t in _inner_types(current.model_fields[part].annotation) if issubclass(t, BaseModel)]
        current = inner[0] if inner else current
    return sorted(field.alias or name for name, field in current.model_fields.items())


def _inner_types(annotation: Any) -> list[type]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return [annotation] if isinstance(annotation, type) else []
    return [found for argument in arguments for found in _inner_types(argument)]
