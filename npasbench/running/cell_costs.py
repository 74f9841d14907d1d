"""Costs that all seeds of a cell share: measured by whichever run comes first, kept beside the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from npasbench.measuring.cost import KEYS, measure
from npasbench.measuring.members import MemberCosts, measure_members
from npasbench.method import Batch
from npasbench.networks.members import Members
from npasbench.plan import RunSpec
from npasbench.running.files import publish
from npasbench.running.rundir import RunDirectory
from npasbench.sharing_call import export
from npasbench.training.loop import Training
from npasbench.training.recipe import autocast, format_inputs


def measured(directory: RunDirectory, spec: RunSpec, training: Training) -> dict[str, float | None]:
    """MACs, times, memory and gradients of the cell; see docs/budgets.md for what each means."""
    path = _file(directory, spec, "costs")
    costs = _kept(path)
    if costs is None:
        with autocast(training.recipe, training.device):
            costs = measure(training.method.final_network(training.network), _batch(training), training.losses)
        path.unlink(missing_ok=True)
        publish(path, json.dumps(costs).encode())
    return costs


def measured_members(directory: RunDirectory, spec: RunSpec, training: Training) -> MemberCosts | None:
    """What the cell's members and subsets of them cost, as plain networks; None where there are none to be had apart."""
    example = _batch(training).inputs[:1]
    if not _has_members(training, example):
        return None
    plain = export(training.method.final_network(training.network))
    if not isinstance(plain, Members):
        return None
    path = _file(directory, spec, "members")
    costs = _kept_members(path, plain.names)
    if costs is None:
        with autocast(training.recipe, training.device):
            costs = measure_members(plain, example)
        path.unlink(missing_ok=True)
        publish(path, costs.model_dump_json().encode())
    return costs


def _file(directory: RunDirectory, spec: RunSpec, what: str) -> Path:
    return directory.path.parent / f"{what}-{spec.cell_fingerprint[:8]}.json"


def _batch(training: Training) -> Batch:
    first = next(iter(training.batches.epoch(0)))
    return replace(first, inputs=format_inputs(first.inputs, training.recipe))


def _has_members(training: Training, example: Tensor) -> bool:
    """Whether the network predicts ``[members, batch, classes]``; it is left in evaluation mode."""
    training.network.eval()
    with torch.no_grad(), autocast(training.recipe, training.device):
        logits: Tensor = training.network(example)
    return logits.dim() == 3


def _kept(path: Path) -> dict[str, float | None] | None:
    """What an earlier run of the cell measured; None if nothing did, or not all of :data:`KEYS`."""
    try:
        costs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return costs if isinstance(costs, dict) and set(costs) == set(KEYS) else None


def _kept_members(path: Path, names: Sequence[str]) -> MemberCosts | None:
    """What an earlier run of the cell measured of these members; None if nothing did, or of others."""
    try:
        costs = MemberCosts.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return costs if costs.names == tuple(names) and len(costs.members) == len(names) else None
