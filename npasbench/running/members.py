"""What a record says of an ensemble: each member, and what subsets of them predict, beside what either costs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from npasbench.measuring.members import MemberCosts
from npasbench.networks.members import unnamed
from npasbench.running.record import MemberResult, SubsetResult
from npasbench.training.evaluate import mean_prediction, score

SUBSET_METRICS = ("accuracy", "nll", "ece")


def member_results(
    each: Tensor, labels: Tensor, metrics: Sequence[str], costs: MemberCosts | None
) -> tuple[list[MemberResult], list[SubsetResult]]:
    """Every member with the named ``metrics``, and every subset of which the costs were measured.

    ``each`` holds log-probabilities ``[members, examples, classes]``; of one network (``[examples, classes]``) there is
    nothing to say. Without costs of so many members they have neither names nor costs, and there are no subsets.
    """
    if each.dim() == 2:
        return [], []
    scores = [score(one, labels, metrics) for one in each]
    if costs is None or len(costs.members) != len(each):
        names = unnamed(len(each))
        return [_member(name, found, None, None) for name, found in zip(names, scores, strict=True)], []
    members = [
        _member(name, found, cost.macs, cost.latency_seconds)
        for name, found, cost in zip(costs.names, scores, costs.members, strict=True)
    ]
    subsets = [
        SubsetResult(
            members=list(one.members),
            metrics=score(mean_prediction(each[list(one.members)]), labels, SUBSET_METRICS),
            macs=one.macs,
            latency_seconds=one.latency_seconds,
        )
        for one in costs.subsets
    ]
    return members, subsets


def _member(name: str, metrics: dict[str, float], macs: float | None, seconds: float | None) -> MemberResult:
    return MemberResult(name=name, metrics=metrics, macs=macs, latency_seconds=seconds)
