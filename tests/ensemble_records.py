"""Runs of ensembles made up for the leaderboard's tests: four members, their subsets, and one method that has none apart."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

from records import card, put, result, spec

TASK = "digits15-ensemble"
MEMBERS = ("wrn-16-2", "wrn-16-1", "wrn-10-2", "wrn-10-1")
MACS = (31_500_000.0, 8_300_000.0, 12_900_000.0, 3_400_000.0)
LATENCY = (0.00312, 0.00247, 0.00171, 0.00131)
LABELS = {"narrow": 0.0, "superweight": 0.018, "deep-ensemble": 0.009}
BUDGETS = ("0.25", "1")
_ALONE = (0.925, 0.905, 0.912, 0.880)


def ensemble(accuracies: tuple[float, ...], names: tuple[str, ...] = MEMBERS, gain: float = 0.012) -> dict[str, Any]:
    """What the record of an ensemble holds of members with these accuracies; each further member gains less."""
    every = range(len(accuracies))
    subsets = [subset for size in every for subset in itertools.combinations(every, size + 1)]
    members = [
        {"name": names[k], "metrics": _metrics(accuracies[k]), "macs": MACS[k % 4], "latency_seconds": LATENCY[k % 4]}
        for k in every
    ]  # fmt: skip
    together = [
        {"members": [*one], "metrics": _metrics(_joint([accuracies[k] for k in one], gain)),
         "macs": sum(MACS[k % 4] for k in one), "latency_seconds": sum(LATENCY[k % 4] for k in one) + 4e-5}
        for one in subsets
    ]  # fmt: skip
    return {
        "members": members,
        "subsets": together,
        "metrics": {**together[-1]["metrics"], "diversity": 0.8 + 2 * together[-1]["metrics"]["nll"]},
        "costs": {"macs": sum(MACS[: len(accuracies)]), "train_seconds": 30.0},
    }


def apart(label: str, budget: str, seed: int) -> dict[str, Any]:
    """A spec of the task with four members."""
    of = card(name=TASK, title="Digits, an ensemble of four WRNs", members=[*MEMBERS], budgets=[*BUDGETS])
    return spec(label, budget, seed, task=of)


def ensembles(root: Path, seeds: int = 4) -> None:
    """Three methods with members at two budgets, and MIMO, whose members share one forward."""
    for label, budget, seed in itertools.product(LABELS, BUDGETS, range(seeds)):
        draw = random.Random(f"{label} {budget} {seed}")
        level = LABELS[label] - (0.03 if budget == "0.25" else 0.0) + random.Random(seed).gauss(0, 0.006)
        of = apart(label, budget, seed)
        put(root, of, record=result(of, **ensemble(tuple(one + level + draw.gauss(0, 0.004) for one in _ALONE))))
    for budget, seed in itertools.product(BUDGETS, range(seeds)):
        of = apart("mimo", budget, seed)
        alone = [
            {"name": f"member {k}", "metrics": _metrics(0.9), "macs": None, "latency_seconds": None} for k in range(2)
        ]
        costs = {"macs": 31_700_000.0, "train_seconds": 20.0}
        metrics = {**_metrics(0.915 + seed / 1000), "diversity": 0.4}
        put(root, of, record=result(of, members=alone, metrics=metrics, costs=costs))


def _joint(accuracies: list[float], gain: float) -> float:
    return sum(accuracies) / len(accuracies) + gain * (1 - 0.5 ** (len(accuracies) - 1)) * 2


def _metrics(accuracy: float) -> dict[str, float]:
    accuracy = round(accuracy, 4)
    return {"accuracy": accuracy, "nll": 4 * (1 - accuracy), "ece": 0.3 * (1 - accuracy)}
