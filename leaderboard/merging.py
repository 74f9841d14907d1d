"""Results of several places together: each run counts once, and one that is there with different results not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from npasbench.running.verification import Key

from .published import Published, contradictory

if TYPE_CHECKING:
    from .store import Run

_NAMED = 5
_CONTRADICTIONS = 50


def once(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Each run once, and a sentence for each that is there a second time or contradicts itself."""
    grouped: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.identity.key].append(run)
    kept: list[Run] = []
    twice: dict[tuple[str, str], list[tuple[Run, Run]]] = defaultdict(list)
    contradictions: list[str] = []
    for several in grouped.values():
        first, *others = sorted(several, key=_preference)
        if others and contradictory(Published(run.record, run.bits, "") for run in several if run.record):
            contradictions.append(_contradiction([run for run in several if run.record]))
            first = replace(first, state="corrupt", record=None, error=contradictions[-1])
        else:
            for run in others:
                if not _copy(run, first):
                    twice[_file(run), _file(first)].append((run, first))
        kept.append(first)
    problems = [sentence for pair in twice.values() for sentence in _twice(pair)]
    return kept, [*_first_of(sorted(contradictions)), *sorted(problems)]


def _twice(pairs: list[tuple[Run, Run]]) -> list[str]:
    run, first = pairs[0]
    if len(pairs) > _NAMED:
        example = f"such as {run.where} and {first.where}"
        return [f"{len(pairs):,} runs are there twice with the same results, {example}. Each is counted once."]
    return [
        f"{run.where} is the same run as {first.where}, which is counted. Remove one of the two."
        for run, first in pairs
    ]


def _first_of(sentences: list[str]) -> list[str]:
    left = len(sentences) - _CONTRADICTIONS
    more = (
        [f"{left:,} more runs have different results in different places. None of them is counted."] if left > 0 else []
    )
    return sentences[:_CONTRADICTIONS] + more


def _file(run: Run) -> str:
    return "" if run.directory else run.where.rpartition(":")[0]


def _preference(run: Run) -> tuple[bool, bool, bool, str]:
    """Of runs that say the same: one with a result, from a clean tree, with a folder first."""
    return run.record is None, run.trial, run.directory is None, run.where


def _contradiction(runs: list[Run]) -> str:
    places = sorted(run.where for run in runs)
    one = runs[0].identity
    return (
        f"{', '.join(places[:5])}{', ...' if len(places) > 5 else ''} hold different results of one run ({one.label}, "
        f"fingerprint {one.fingerprint[:12]}). None of them is counted. Find out why they differ, and remove the wrong one."
    )


def _copy(run: Run, known: Run) -> bool:
    """Whether a published line says what the run directory says: it is expected to be there twice."""
    return not run.directory and bool(known.directory and run.record and known.record)
