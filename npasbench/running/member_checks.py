"""Whether what a record says of an ensemble's members and subsets agrees with itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from npasbench.running.metric_checks import nll_faults
from npasbench.running.reading import short
from npasbench.running.record import MemberResult, Record

_ALL_SUBSETS_UP_TO = 6
_TOLERANCE = 1e-9


def member_faults(record: Record) -> Iterator[str]:
    """Everything about members and subsets that cannot be together."""
    members, n = record.members, len(record.members)
    for place, member in enumerate(members):
        yield from _shares(f"member {place}", member.metrics)
    if not record.subsets:
        yield from _without_subsets(members)
        return
    chosen = [tuple(one.members) for one in record.subsets]
    if any(not one or list(one) != sorted(set(one)) or one[0] < 0 or one[-1] >= n for one in chosen) or len(
        set(chosen)
    ) != len(chosen):
        yield f"subsets name each of the {n} members at most once, in ascending order, and no subset stands twice"
        return
    if n <= _ALL_SUBSETS_UP_TO:
        every = {one for size in range(n) for one in itertools.combinations(range(n), size + 1)}
        if every != set(chosen):
            yield f"{len(chosen)} subsets are told of {n} members, which have {len(every)}"
    elif sorted(map(len, chosen)) != list(range(1, n + 1)):
        yield f"of {n} members a subset of each size is told"
    for one in record.subsets:
        yield from _shares(f"subset {one.members}", one.metrics)
        yield from _subset(one.members, one.macs, one.metrics, members)
        if len(one.members) == n and not _same(one.metrics, record.metrics):
            yield "the subset of all members has other metrics than the ensemble"


def _without_subsets(members: list[MemberResult]) -> Iterator[str]:
    if any(one.macs is not None for one in members):
        yield "members have costs of their own, and no subset is told"


def _subset(chosen: list[int], macs: float, metrics: Mapping[str, float], members: list[MemberResult]) -> Iterator[str]:
    parts = [members[k].macs for k in chosen]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        yield f"subset {chosen} has members without multiply-adds"
    elif not math.isclose(math.fsum(known), macs, rel_tol=_TOLERANCE):
        yield f"subset {chosen} has {macs:,.0f} multiply-adds, its members {math.fsum(known):,.0f}"
    if len(chosen) == 1 and not _same(metrics, members[chosen[0]].metrics):
        yield f"subset {chosen} has other metrics than its only member"


def _shares(what: str, metrics: Mapping[str, float]) -> Iterator[str]:
    for name, value in metrics.items():
        most = 1 if name in ("accuracy", "ece", "top5") else math.inf
        if not -_TOLERANCE <= value <= most + _TOLERANCE:
            yield f"{what} has {short(name)} {value}"
    yield from (f"{what} has {fault}" for fault in nll_faults(metrics))


def _same(ones: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return all(
        math.isclose(value, others[name], rel_tol=1e-6, abs_tol=_TOLERANCE)
        for name, value in ones.items()
        if name in others
    )
