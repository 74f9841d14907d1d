"""Each run with the card that it was made under, and with what its record says against itself."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from npasbench.card import Card
from npasbench.errors import CardError
from npasbench.registry import Registry
from npasbench.running.record_checks import contradictions

from . import words

if TYPE_CHECKING:
    from .store import Run

_NAMED = 10
_TOLD = 3


def judge(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs in their order with card and fault, and sentences that name those whose records contradict themselves."""
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.identity.task, run.identity.task_fingerprint].append(run)
    registry = Registry()
    cards = {key: _card(registry, *key, found) for key, found in grouped.items()}
    judged = [_judged(run, cards[run.identity.task, run.identity.task_fingerprint]) for run in runs]
    return judged, _sentences([run for run in judged if run.fault], sum(run.record is not None for run in judged))


def fault_of(run: Run, card: Card | None) -> str:
    """How a finished run's record contradicts itself; nothing if it does not, or there is none."""
    if run.record is None:
        return ""
    bits = run.bits
    found = contradictions(run.record, None if bits is None else base64.b64decode(bits), card)
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return f"{'; '.join(found[:_TOLD])}{more}"


def _judged(run: Run, card: Card | None) -> Run:
    fault = fault_of(run, card)
    return replace(run, card=card, fault=fault) if card or fault else run


def _card(registry: Registry, task: str, fingerprint: str, runs: Iterable[Run]) -> Card | None:
    """The installed card of a fingerprint, else what a spec brings along if it has that fingerprint."""
    installed = _installed(registry, task)
    if installed and installed.fingerprint == fingerprint:
        return installed
    spec = next((found for run in runs if (found := _spec_card(run))), None)
    return spec if spec and spec.fingerprint == fingerprint else None


def _installed(registry: Registry, task: str) -> Card | None:
    try:
        return registry.card(task) if task in registry.names(Card) else None
    except CardError:
        return None


def _spec_card(run: Run) -> Card | None:
    """The first card that can be read speaks for all."""
    from .store import spec_of

    try:
        return Card.model_validate(spec_of(run).get("task")) if run.directory else None
    except ValidationError:
        return None


def _sentences(faulty: Sequence[Run], records: int) -> list[str]:
    """How many records contradict themselves and in what, and the first of them by name."""
    if not faulty:
        return []
    named = [f"{run.where} contradicts itself and is not counted: {run.fault}." for run in faulty[:_NAMED]]
    if len(faulty) == 1:
        return named
    kinds = Counter(run.fault.partition(":")[0] for run in faulty)
    told = ", ".join(f"{kind} {number:,}" for kind, number in sorted(kinds.items()))
    left = f" The first {_NAMED} are:" if len(faulty) > _NAMED else ""
    return [
        f"{len(faulty):,} of {words.plural(records, 'record')} contradict themselves and are not counted ({told}).{left}",
        *named,
    ]
