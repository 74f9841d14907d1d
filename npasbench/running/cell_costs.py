"""Costs that all seeds of a cell share: measured by whichever run comes first, kept beside the runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from npasbench.measuring.cost import KEYS, measure
from npasbench.plan import RunSpec
from npasbench.running.files import publish
from npasbench.running.rundir import RunDirectory
from npasbench.training.loop import Training
from npasbench.training.recipe import autocast, format_inputs


def measured(directory: RunDirectory, spec: RunSpec, training: Training) -> dict[str, float | None]:
    """MACs, times, memory and gradients of the cell; see docs/budgets.md for what each means."""
    path = directory.path.parent / f"costs-{spec.cell_fingerprint[:8]}.json"
    costs = _kept(path)
    if costs is None:
        first = next(iter(training.batches.epoch(0)))
        batch = replace(first, inputs=format_inputs(first.inputs, training.recipe))
        with autocast(training.recipe, training.device):
            costs = measure(training.network, batch, training.losses)
        path.unlink(missing_ok=True)
        publish(path, json.dumps(costs).encode())
    return costs


def _kept(path: Path) -> dict[str, float | None] | None:
    """What an earlier run of the cell measured; None if nothing did, or not all of :data:`KEYS`."""
    try:
        costs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return costs if isinstance(costs, dict) and set(costs) == set(KEYS) else None
