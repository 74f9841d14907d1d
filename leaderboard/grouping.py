"""Runs sorted into boards: by task fingerprint, then label and definition, then budget and seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from . import words
from .board import Board, Cell, Definition, Entry
from .prominent import numbered
from .statistics import RANKED_SEEDS, TELLING_SEEDS
from .store import Run

_TOLD = 5


def boards(runs: Iterable[Run]) -> tuple[Board, ...]:
    """Every board, by name and then fingerprint."""
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.identity.task, run.identity.task_fingerprint].append(run)
    return tuple(_board(task, fingerprint, grouped[task, fingerprint]) for task, fingerprint in sorted(grouped))


def _board(task: str, fingerprint: str, runs: list[Run]) -> Board:
    sizes = {run.identity.budget: run.identity.budget_parameters for run in runs}
    budgets = tuple(sorted(sizes, key=lambda budget: (sizes[budget], budget)))
    notices: list[str] = []
    card = next((run.card for run in runs if run.card), None)
    seeds = card.seeds if card else ()
    needed = min(TELLING_SEEDS, len(seeds)) if card else TELLING_SEEDS
    entries = tuple(_entries(runs, seeds, needed, notices))
    provisional = not any(entry.ranked_at(budget) for entry in entries for budget in budgets)
    if provisional:
        entries = tuple(_needing(RANKED_SEEDS, entry) for entry in entries)
    content: dict[str, Any] = card.model_dump(mode="json", by_alias=True) if card else {}
    if card and card.data.protocol == "tune":
        notices.append("Accuracy on held-out training images: the protocol is tune. These are no test results.")
    return numbered(Board(task, fingerprint, content, budgets, entries, tuple(notices), provisional))


def _needing(seeds: int, entry: Entry) -> Entry:
    return replace(entry, cells={budget: replace(cell, needed=seeds) for budget, cell in entry.cells.items()})


def _entries(runs: list[Run], seeds: tuple[int, ...], needed: int, notices: list[str]) -> Iterator[Entry]:
    grouped: dict[str, dict[Definition, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.identity.label][Definition.of(run)].append(run)
    for label in sorted(grouped):
        definitions = sorted(grouped[label])
        if len(definitions) > 1:
            notices.append(_conflict(label, definitions))
        for variant, definition in enumerate(definitions, start=1):
            cells = _cells(grouped[label][definition], seeds, needed, notices)
            yield Entry(label, definition, cells, variant if len(definitions) > 1 else 0)


def _cells(runs: list[Run], asked: tuple[int, ...], needed: int, notices: list[str]) -> dict[str, Cell]:
    grouped: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.identity.budget][run.identity.seed].append(run)
    return {
        budget: Cell(budget, tuple(_only(seeds[seed], notices) for seed in sorted(seeds)), asked, needed)
        for budget, seeds in grouped.items()
    }


def _only(runs: list[Run], notices: list[str]) -> Run:
    """The run of a seed; of several none counts, since nothing says which is meant."""
    if len(runs) == 1:
        return runs[0]
    where = words.listed(words.plain(run.where) for run in runs[:5])
    notices.append(f"{where} are different runs of one seed; none of them is counted. Remove all but one.")
    return replace(runs[0], state="corrupt", record=None, error=notices[-1], fault="")


def _conflict(label: str, definitions: list[Definition]) -> str:
    shown = definitions[:_TOLD]
    told = "; ".join(f"definition {number}: {_differing(one, shown)}" for number, one in enumerate(shown, 1))
    more = f"; and {len(definitions) - _TOLD} more" if len(definitions) > _TOLD else ""
    return (
        f"The label {words.plain(label)} stands for {len(definitions)} definitions, which are shown apart and not ranked "
        f"({told}{more}). Keep the runs of one, or give the other a label of its own."
    )


def _differing(one: Definition, definitions: list[Definition]) -> str:
    """What sets a definition apart from the others: method, version and knobs that are not the same in all."""
    flat = [_flat(each) for each in definitions]
    keys = sorted({key for each in flat for key in each})
    mine = _flat(one)
    told = [
        f"{words.brief(key, 40)} {words.brief(mine.get(key, 'unset'), 40)}"
        for key in keys
        if len({each.get(key) for each in flat}) > 1
    ]
    return ", ".join([*told[:_TOLD], *([f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else [])])


def _flat(one: Definition) -> dict[str, str]:
    knobs = {key: json.dumps(value, sort_keys=True) for key, value in one.settings.items()}
    return {**knobs, "method": one.method, "version": str(one.version), **_versions(one)}


def _versions(one: Definition) -> dict[str, str]:
    return {
        f"version of {added['name']}": f"{added['version']} {added.get('uses', '')}" for added in json.loads(one.addons)
    }
