"""What each member of an ensemble costs alone, and each subset of them: multiply-adds and latency."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from npasbench.measuring.cost import multiply_adds, wait_for
from npasbench.networks.members import Members
from npasbench.training.evaluate import log_probabilities

ALL_SUBSETS_UP_TO = 6
"""With more members there are too many subsets to measure, and only a chain of them is."""
_ROUNDS = (5, 50)
_ENOUGH_SECONDS = 5.0

Subset = tuple[int, ...]


class SubsetCost(BaseModel):
    """What a prediction by some ``members`` (counted from 0) costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: Subset
    macs: int
    latency_seconds: float


class MemberCosts(BaseModel):
    """What a prediction by each member alone costs, and by each of the subsets that are looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    members: tuple[SubsetCost, ...]
    subsets: tuple[SubsetCost, ...]


def measure_members(ensemble: Members, example: Tensor) -> MemberCosts:
    """Measure plain members on one example ``[1, ...]``, with the threads and on the device that they have.

    * ``macs``: multiply-adds of one example's forward, the sum over the members.
    * ``latency_seconds``: the members' forwards on the one example, one after another, and the mean of their
      probabilities. Medians over rounds, each of which times every subset once in an order of its own.

    Random generators stay as they are. For the networks to run under autocast, call this function under it.
    """
    members = list(ensemble.members)
    with torch.enable_grad():
        macs = [multiply_adds(member, example)[0] for member in members]
    chosen, alone = subsets(macs), [(k,) for k in range(len(members))]
    seconds = _latencies(members, example, list(dict.fromkeys([*alone, *chosen])))

    def cost(subset: Subset) -> SubsetCost:
        return SubsetCost(members=subset, macs=sum(macs[k] for k in subset), latency_seconds=seconds[subset])

    return MemberCosts(names=ensemble.names, members=tuple(map(cost, alone)), subsets=tuple(map(cost, chosen)))


def subsets(macs: Sequence[int]) -> list[Subset]:
    """Every non-empty subset, the smallest first; of many members the 1, 2, ... that have the fewest multiply-adds."""
    each = range(len(macs))
    if len(macs) <= ALL_SUBSETS_UP_TO:
        return [subset for size in each for subset in itertools.combinations(each, size + 1)]
    cheapest = sorted(each, key=lambda k: (macs[k], k))
    return [tuple(sorted(cheapest[: size + 1])) for size in each]


def _latencies(members: Sequence[nn.Module], example: Tensor, chosen: Sequence[Subset]) -> dict[Subset, float]:
    for member in members:
        member.eval()

    def predict(subset: Subset) -> Callable[[], Tensor]:
        return lambda: log_probabilities(torch.stack([members[k](example) for k in subset]))

    with torch.no_grad():
        return _medians({subset: predict(subset) for subset in chosen}, example.device)


def _medians(works: Mapping[Subset, Callable[[], Tensor]], device: torch.device) -> dict[Subset, float]:
    """Median seconds of each work over interleaved rounds, after one that is not counted."""
    least, most = _ROUNDS
    order, shuffled = list(works), random.Random(0)
    seconds: dict[Subset, list[float]] = {one: [] for one in order}
    for work in works.values():
        work()
    begun = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - begun > _ENOUGH_SECONDS:
            break
        shuffled.shuffle(order)
        for one in order:
            seconds[one].append(_seconds(works[one], device))
    return {one: statistics.median(found) for one, found in seconds.items()}


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    wait_for(device)
    begun = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begun
