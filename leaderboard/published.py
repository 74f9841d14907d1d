"""Published results: a file for each task, in which each line holds the record of one run and a bit for each test example."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npasbench.errors import RunError
from npasbench.running import record as records
from npasbench.running.reading import MEGABYTE, fault_of, parse_json, read_bits
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory

LINE_LIMIT = 5 * MEGABYTE
"""Bytes in a line; a result with fifty thousand test examples has some ten thousand."""
FILE_LIMIT = 1_000 * MEGABYTE
"""Bytes in a file: some hundred thousand runs."""
_NAMED_LINES = 20


@dataclass(frozen=True)
class Published:
    """One line, and where it stands or came from."""

    record: Record
    correct: str | None
    """The packed correctness bits in Base64, 1 where a test example was predicted right."""
    where: str
    digest: str = ""
    """SHA-256 of the line as it was read."""

    @property
    def key(self) -> tuple[str, str]:
        """What a line is known by: two labels of one definition are two rows of a table."""
        return self.record.label, self.record.fingerprint

    @property
    def order(self) -> tuple[str, int, int, str]:
        """Where the line stands in its file."""
        one = self.record
        return one.label, one.budget_parameters, one.seed, one.fingerprint

    def differs(self, other: Published) -> bool:
        """Whether it is another result of the same run. Where and how fast it ran may differ."""
        return bool(differing([self, other]))

    @property
    def text(self) -> str:
        """The line: the same result always gives the same one."""
        record = json.dumps(records.as_json(self.record), sort_keys=True)
        return f'{{"record": {record}, "correct": {json.dumps(self.correct)}}}\n'


_COUNTED = ("macs", "generation_macs", "exchanged_bytes", "search_epochs", "search_flops")
"""Costs that are counted and not measured."""


def differing(lines: Iterable[Published]) -> list[str]:
    """In what lines of one run are different results of it; what some of them do not tell contradicts nothing.

    Where and how fast it ran may differ, and what machines measure.
    """
    told: dict[str, set[str]] = {}
    for line in lines:
        for name, value in _of_result(line):
            if value not in (None, "null"):
                told.setdefault(name, set()).add(value)
    return [name for name, values in told.items() if len(values) > 1]


def _of_result(line: Published) -> Iterator[tuple[str, str | None]]:
    """Everything that a run gives anew when it is repeated, by name."""
    one = line.record
    for name in ("state", "metrics", "parameters"):
        yield name, json.dumps(getattr(one, name), sort_keys=True)
    yield "correctness bits", line.correct
    yield "members", _of_members(one)
    yield "held_out", one.held_out.model_dump_json() if one.held_out else None
    yield "corrupted", one.corrupted.model_dump_json() if one.corrupted and not one.corrupted.absent else None
    yield "held_out", one.held_out.model_dump_json() if one.held_out else None
    yield (
        "corrupted",
        json.dumps(one.corrupted.corruptions, sort_keys=True) if one.corrupted and one.corrupted.metrics else None,
    )
    counts = (
        "bank_params",
        "effective_parameters",
        "side_information_bits",
        "running_statistics",
        "test_examples",
        "smallest",
    )
    for name in (*counts, "dense_parameters", "task_version", "accounting"):
        yield name, json.dumps(getattr(one, name))
    for name in _COUNTED:
        yield name, json.dumps(one.costs.get(name))
    yield "allocation", json.dumps(one.allocation, sort_keys=True) if one.allocation else None
    if one.certificate:
        yield "certificate", json.dumps([one.certificate.passed, one.certificate.floats])


def bits_of(directory: RunDirectory) -> str | None:
    """A run directory's packed correctness bits in Base64; None if it left none that can be read."""
    try:
        return base64.b64encode(read_bits(directory.correct_file)).decode()
    except RunError:
        return None


def _of_members(record: Record) -> str | None:
    """What members and subsets predict, without the time it takes; None where it is not told."""
    subsets = [(one.members, one.metrics, one.macs) for one in record.subsets]
    told = [[(one.name, one.metrics, one.macs) for one in record.members], subsets]
    return json.dumps(told, sort_keys=True) if record.members else None


def read_published(path: Path, problems: list[str]) -> Iterator[tuple[int, Published]]:
    """Every line of a file that can be read, with its number; a sentence in ``problems`` for those that cannot."""
    broken = []
    try:
        fault = fault_of(path, FILE_LIMIT)
        if fault:
            problems.append(f"{path} {fault}.")
            return
        for number, line in _lines(path):
            try:
                yield number, _parse(line, f"{path}:{number}")
            except RunError as error:
                broken.append(f"{error} Take the line out, or publish the run again.")
    except OSError as error:
        broken.append(f"{path} cannot be read: {error.strerror}.")
    problems += broken[:_NAMED_LINES]
    if len(broken) > _NAMED_LINES:
        problems.append(f"{path} has {len(broken) - _NAMED_LINES:,} more lines that cannot be read.")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, by number from 1; of one that is too long only the beginning."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LINE_LIMIT)
            if line.strip():
                yield number, line


def _parse(line: bytes, where: str) -> Published:
    if len(line) > LINE_LIMIT:
        raise RunError(f"{where} is longer than {LINE_LIMIT:,} bytes, which no result is.")
    content = parse_json(line, where)
    if not isinstance(content, dict) or set(content) != {"record", "correct"}:
        raise RunError(f"{where} is not a published result: expected an object with the keys record and correct.")
    record = records.parse(content["record"], where)
    digest = hashlib.sha256(line.strip()).hexdigest()
    return Published(record, _bits(content["correct"], record.test_examples, where), where, digest)


def _bits(correct: Any, examples: int | None, where: str) -> str | None:
    if correct is None:
        return None
    try:
        packed = base64.b64decode(correct, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise RunError(f"{where} is not a published result: correct is neither Base64 nor null.") from None
    if examples is not None and len(packed) != (examples + 7) // 8:
        raise RunError(f"{where} has {len(packed):,} bytes of correctness bits for {examples:,} test examples.")
    return str(correct)
