"""``verification.json``: how far results were verified, and of exactly which record that is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from npasbench.errors import RunError
from npasbench.running.files import atomic, writing
from npasbench.running.reading import MEGABYTE, parse_json, read_bytes

FILE = "verification.json"
State = Literal["submitted", "re-evaluated", "re-run"]
STATES: tuple[State, ...] = get_args(State)
"""From the weakest: what the record says agrees with itself; the stored weights predict what it says; so does training anew."""
_SCHEMA = 1
_LIMIT = 50 * MEGABYTE

Key = tuple[str, str]
"""A run's label and fingerprint."""


@dataclass(frozen=True)
class Verified:
    """What was found of one record."""

    state: State
    digest: str
    """Of the record and its correctness bits: what is said holds for no other."""


def digest(line: str) -> str:
    """SHA-256 of a published line."""
    return hashlib.sha256(line.encode()).hexdigest()


def read_states(folder: Path) -> dict[Key, Verified]:
    """What the folder's file says; entries that it cannot have been given by ``npasbench verify`` are passed over."""
    try:
        content = parse_json(read_bytes(folder / FILE, _LIMIT), FILE)
    except RunError:
        return {}
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        return {}
    return {
        (label, fingerprint): Verified(entry["state"], str(entry["record"]))
        for fingerprint, labels in _items(content.get("runs"))
        for label, entry in _items(labels)
        if isinstance(entry, dict) and set(entry) == {"state", "record"} and entry["state"] in STATES
    }


def write_states(folder: Path, found: Mapping[Key, Verified], gone: Iterable[Key] = ()) -> Path:
    """Add to what the folder's file says; of one record the strongest state stays. ``gone`` is taken out.

    Raises:
        WriteError: if it cannot be written.
    """
    states = read_states(folder)
    for key in gone:
        states.pop(key, None)
    for key, new in found.items():
        old = states.get(key)
        if old is None or old.digest != new.digest or STATES.index(new.state) > STATES.index(old.state):
            states[key] = new
    runs: dict[str, dict[str, dict[str, str]]] = {}
    for (label, fingerprint), one in sorted(states.items(), key=lambda item: (item[0][1], item[0][0])):
        runs.setdefault(fingerprint, {})[label] = {"record": one.digest, "state": one.state}
    path = folder / FILE
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write((json.dumps({"schema": _SCHEMA, "runs": runs}, indent=0) + "\n").encode())
    return path


def _items(value: object) -> Iterable[tuple[str, object]]:
    return value.items() if isinstance(value, dict) else ()
