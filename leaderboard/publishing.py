"""Publishing: finished runs into one file a task, merged with what is there, the same bytes for the same results."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from npasbench.errors import RunError
from npasbench.running.files import atomic, writing
from npasbench.running.reading import short

from . import words
from .published import LINE_LIMIT, Published, differing, read_published
from .store import Run, collect


@dataclass(frozen=True)
class Publication:
    """What was written: for each file how many runs it holds and how many of them are new, and what was left out."""

    files: tuple[tuple[Path, int, int], ...]
    trials: int
    """Trial results that were left out."""
    contradictory: int
    """Results that were left out because their records contradict themselves; the problems name them."""
    problems: tuple[str, ...]
    tuning: int = 0
    """Results under the protocol ``tune`` that were left out: they are of training images."""


def publish(runs: Path, out: Path, *, trial: bool = False) -> Publication:
    """Write every finished run below ``runs`` into ``out/<task>.jsonl``; trial results only if ``trial``.

    A record that contradicts itself is named and left out; one of the protocol ``tune`` is no test result, and counted.

    Raises:
        UsageError: if there are no runs.
        RunError: if a run is published with another result already, or a published file cannot be read. Then, and if
            the first file cannot be written, nothing is.
    """
    store = collect(runs)
    finished = [run for run in store.runs if run.record and not run.fault]
    tested = [run for run in finished if run.card is None or run.card.data.protocol != "tune"]
    chosen = [run for run in tested if trial or not run.trial]
    contradictory = sum(bool(run.fault) for run in store.runs)
    texts = [_merged(out / f"{_file(task)}.jsonl", lines) for task, lines in _by_task(chosen, runs)]
    for path, lines, _ in texts:
        _write(path, lines)
    files = tuple((path, len(lines), new) for path, lines, new in texts)
    tuning = len(finished) - len(tested)
    return Publication(files, len(tested) - len(chosen), contradictory, store.problems, tuning)


def _by_task(runs: Iterable[Run], root: Path) -> list[tuple[str, list[Published]]]:
    grouped: dict[str, list[Published]] = defaultdict(list)
    for run in runs:
        if run.record:
            grouped[run.identity.task].append(Published(run.record, run.bits, str(root / run.where)))
    return sorted(grouped.items())


def _file(task: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", task):
        raise RunError(f"{task!r} cannot be published: a task's name is made of a-z, 0-9, dots and dashes.")
    return task


def _merged(path: Path, lines: Iterable[Published]) -> tuple[Path, list[Published], int]:
    """What a file is to hold, in order, and how much of that is new."""
    kept = {line.key: line for line in _before(path)}
    held = len(kept)
    for line in lines:
        known = kept.setdefault(line.key, line)
        if known.differs(line):
            raise RunError(_conflict(known, line))
        if known.record.trial and not line.record.trial:
            kept[line.key] = line
        if len(line.text) > LINE_LIMIT:
            raise RunError(f"{line.where} has a result of more than {LINE_LIMIT:,} bytes. Nothing was written.")
    return path, sorted(kept.values(), key=lambda line: line.order), len(kept) - held


def _before(path: Path) -> list[Published]:
    """What a file holds already; nothing is merged with a file of which a part cannot be read."""
    problems: list[str] = []
    found = [line for _, line in read_published(path, problems)] if path.exists() else []
    if problems:
        raise RunError(f"{problems[0]} Nothing was written.")
    return found


def _conflict(known: Published, line: Published) -> str:
    told = " and ".join(json.dumps(one.record.metrics, sort_keys=True) for one in (line, known))
    return (
        f"{line.where} and {known.where} are the same run ({line.record.label}, fingerprint {line.record.fingerprint[:12]}) "
        f"with different results: {words.listed(differing([line, known]))} differ, metrics {short(told, 400)}. Nothing was "
        "written. Find out why they differ, and remove the wrong one."
    )


def _write(path: Path, lines: list[Published]) -> None:
    content = "".join(line.text for line in lines).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(content)
