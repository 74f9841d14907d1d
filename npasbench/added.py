"""An add-on of a run, and how it is written: ``NAME:knob=value,knob=value``, values as ``--set`` takes them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from npasbench.errors import UsageError

_HOW = "Write NAME or NAME:knob=value,knob=value, such as distill:temperature=2,weight=0.5."
_CLOSES = {"[": "]", "{": "}", "(": ")"}


class Added(BaseModel):
    """One add-on of a run, fully resolved: ``uses`` holds the versions of other methods that it takes, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=80)
    version: int = Field(ge=0, le=10**15)
    knobs: dict[str, Any]
    uses: dict[str, int] = Field({}, max_length=100)

    def as_json(self) -> dict[str, Any]:
        """What fingerprints, specs and records hold."""
        return self.model_dump(mode="json", exclude=set() if self.uses else {"uses"})

    @property
    def word(self) -> str:
        """What ``--with`` takes to give this add-on again."""
        knobs = ",".join(f"{knob}={_inner_word(value)}" for knob, value in self.knobs.items() if value is not None)
        return f"{self.name}:{knobs}" if knobs else self.name


def read_addon(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the knobs of ``NAME:knob=value,knob=value``.

    Raises:
        UsageError: for anything else, or a knob given twice.
    """
    name, colon, rest = text.partition(":")
    if not name.strip() or "=" in name or (colon and not rest.strip()):
        raise UsageError(f"'--with {text}' is no add-on. {_HOW}")
    knobs: dict[str, Any] = {}
    for word in _parts(rest) if colon else ():
        knob, equals, value = word.partition("=")
        knob = knob.strip()
        if not equals or not knob:
            raise UsageError(f"'{word}' in '--with {text}' is not KNOB=VALUE. {_HOW}")
        if knob in knobs:
            raise UsageError(f"Knob '{knob}' is set twice in '--with {text}'. Keep one.")
        knobs[knob] = read_value(value)
    return name.strip(), knobs


def read_value(text: str) -> Any:
    """A knob's value: read as TOML where it is TOML, else as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def value_word(value: Any) -> str:
    """A knob's value as :func:`read_value` reads it: TOML, and a string without quotes where it cannot be taken for TOML."""
    if not isinstance(value, str):
        return _toml(value)
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return _toml(value)


def _inner_word(value: Any) -> str:
    """The same among others that are parted by commas."""
    word = value_word(value)
    plain = word.strip() == word and not set(word) & set(",\"'[]{}()\\")
    return word if plain or not isinstance(value, str) else _toml(value)


def _parts(text: str) -> Iterator[str]:
    """What commas part, but for those in quotes and brackets."""
    start, quote, skip = 0, "", False
    waiting: list[str] = []
    for place, letter in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = letter == "\\" and quote == '"'
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _CLOSES:
            waiting.append(_CLOSES[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
        elif letter == "," and not waiting:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
