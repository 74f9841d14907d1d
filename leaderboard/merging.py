"""Results of several places together: each run counts once, and one that is there with different results not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from npasbench.running.verification import Key

from . import words
from .published import Published, differing

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
        if others and (names := differing(Published(run.record, run.bits, "") for run in several if run.record)):
            contradictions.append(_contradiction([run for run in several if run.record], names))
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
        slower = sum(bool(_measured_otherwise(*pair)) for pair in pairs)
        times = f" What was measured in passing, such as times, differs in {slower:,} of them." if slower else ""
        return [f"{len(pairs):,} runs are there twice with the same results, {example}. Each is counted once.{times}"]
    return [
        f"{run.where} is the same run as {first.where}, which is counted{_otherwise(run, first)}. Remove one of the two."
        for run, first in pairs
    ]


def _otherwise(run: Run, first: Run) -> str:
    names = _measured_otherwise(run, first)
    return f"; {words.listed(words.brief(name) for name in names[:_NAMED])} differ" if names else ""


def _measured_otherwise(run: Run, first: Run) -> list[str]:
    """The costs that two copies of one result tell differently."""
    ours, theirs = (one.record.costs if one.record else {} for one in (run, first))
    return sorted(name for name in ours.keys() & theirs.keys() if repr(ours[name]) != repr(theirs[name]))


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


def _contradiction(runs: list[Run], differing: list[str]) -> str:
    places = sorted(run.where for run in runs)
    one = runs[0].identity
    return (
        f"{', '.join(places[:5])}{', ...' if len(places) > 5 else ''} hold different results of one run ({one.label}, "
        f"fingerprint {one.fingerprint[:12]}): {words.listed(differing[:_NAMED])} differ. None of them is counted. Find out why, "
        "and remove the wrong one."
    )


def _copy(run: Run, known: Run) -> bool:
    """Whether a published line says what the run directory says: it is expected to be there twice."""
    expected = not run.directory and bool(known.directory and run.record and known.record)
    return expected and not _measured_otherwise(run, known)
