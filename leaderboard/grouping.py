"""Runs sorted into boards: by task fingerprint, then label and definition, then budget and seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from npasbench.card import Card
from npasbench.errors import CardError
from npasbench.registry import Registry

from . import words
from .board import Board, Cell, Definition, Entry
from .store import Run, spec_of


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
    entries = tuple(_entries(runs, notices))
    card = next((card for run in runs if isinstance(card := spec_of(run).get("task"), dict)), None)
    if card is None:
        card = _installed_card(task, fingerprint)
    return Board(task, fingerprint, card, budgets, entries, tuple(notices))


def _installed_card(task: str, fingerprint: str) -> dict[str, Any]:
    """The card of published results, which bring none: the installed one if it is theirs, else nothing."""
    registry = Registry()
    if task not in registry.names(Card):
        return {}
    try:
        card = registry.card(task)
    except CardError:
        return {}
    return card.model_dump(mode="json", by_alias=True) if card.fingerprint == fingerprint else {}


def _entries(runs: list[Run], notices: list[str]) -> Iterator[Entry]:
    grouped: dict[str, dict[Definition, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.identity.label][Definition.of(run)].append(run)
    for series, label in enumerate(sorted(grouped)):
        definitions = sorted(grouped[label])
        if len(definitions) > 1:
            notices.append(_conflict(label, definitions))
        for variant, definition in enumerate(definitions, start=1):
            cells = _cells(grouped[label][definition], notices)
            yield Entry(label, definition, cells, variant if len(definitions) > 1 else 0, series)


def _cells(runs: list[Run], notices: list[str]) -> dict[str, Cell]:
    grouped: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.identity.budget][run.identity.seed].append(run)
    return {
        budget: Cell(budget, tuple(_only(seeds[seed], notices) for seed in sorted(seeds)))
        for budget, seeds in grouped.items()
    }


def _only(runs: list[Run], notices: list[str]) -> Run:
    """The run of a seed; of several none counts, since nothing says which is meant."""
    if len(runs) == 1:
        return runs[0]
    where = words.listed(words.plain(run.where) for run in runs[:5])
    notices.append(f"{where} are different runs of one seed; none of them is counted. Remove all but one.")
    return replace(runs[0], state="corrupt", record=None, error=notices[-1])


def _conflict(label: str, definitions: list[Definition]) -> str:
    told = "; ".join(
        f"definition {number}: {_differing(one, definitions)}" for number, one in enumerate(definitions, 1)
    )
    return (
        f"The label {words.plain(label)} stands for {len(definitions)} definitions, which are shown apart and not ranked "
        f"({words.plain(told)}). Keep the runs of one, or give the other a label of its own."
    )


def _differing(one: Definition, definitions: list[Definition]) -> str:
    """What sets a definition apart from the others: method, version and knobs that are not the same in all."""
    flat = [_flat(each) for each in definitions]
    keys = sorted({key for each in flat for key in each})
    mine = _flat(one)
    return ", ".join(f"{key} {mine.get(key, 'unset')}" for key in keys if len({each.get(key) for each in flat}) > 1)


def _flat(one: Definition) -> dict[str, str]:
    knobs = {key: json.dumps(value, sort_keys=True) for key, value in json.loads(one.knobs).items()}
    return {**knobs, "method": one.method, "version": str(one.version)}
