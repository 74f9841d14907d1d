"""What ``result.json`` holds: a versioned schema, strict on reading, NaN as NaN and missing as null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from npasbench.errors import RunError

SCHEMA = 1
_CURE = "'npasbench retry' sets it aside and does the run again."
State = Literal["done", "refused", "skipped", "over-budget"]


class Certificate(BaseModel):
    """A process that did not train rebuilt the network from the spec and the stored numbers, and predicted again."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    floats: int
    """Trained scalars in ``model.safetensors``: must equal the count."""
    differing_predictions: int
    """Test examples on which both processes disagree: must be 0."""
    dead: int
    """Counted entries that never receive a gradient and whose randomisation changes no output."""
    detail: str = ""


class MemberResult(BaseModel):
    """One member of an ensemble by itself."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Its architecture's; "member k", counted from 0, where members cannot be had apart, as in MIMO."""
    metrics: dict[str, float]
    """The card's."""
    macs: float | None
    """Multiply-adds of one example. None where members cannot be had apart."""
    latency_seconds: float | None
    """Of one example. None as ``macs``."""


class SubsetResult(BaseModel):
    """What some members predict together, by the mean of their probabilities."""

    model_config = ConfigDict(extra="forbid")

    members: list[int]
    """Counted from 0, ascending."""
    metrics: dict[str, float]
    """``accuracy``, ``nll``, ``ece``."""
    macs: float
    latency_seconds: float


class Record(BaseModel):
    """The result of one run; written once, last, and never changed."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    schema_: Literal[1]
    state: State
    reason: str = ""
    """Why a run is refused, skipped or over budget."""
    smallest: int | None = None
    """The smallest number of parameters with which a refused method can be built, where known."""
    task: str
    task_version: int
    task_fingerprint: str
    fingerprint: str
    label: str
    method: str
    method_version: int
    knobs: dict[str, Any]
    seed: int
    budget: str
    budget_parameters: int
    dense_parameters: int
    accounting: str = "total"
    parameters: dict[str, int] = {}
    """By kind, and ``total``."""
    bank_params: int | None = None
    effective_parameters: int | None = None
    side_information_bits: int | None = None
    running_statistics: int | None = None
    metrics: dict[str, float] = {}
    """``accuracy`` (0 to 1), ``nll`` (nats), ``ece`` (0 to 1), for the last epoch on the test set; of an ensemble ``diversity``."""
    members: list[MemberResult] = []
    """Of an ensemble."""
    subsets: list[SubsetResult] = []
    """Of an ensemble whose members can be had apart: all subsets of up to six members, of more those of the cheapest."""
    test_examples: int | None = None
    costs: dict[str, float | None] = {}
    """Seconds unless the name says otherwise; see docs/budgets.md."""
    certificate: Certificate | None = None
    allocation: dict[str, Any] = {}
    """Which part of which bank each layer reads, by ``groups``, or the ``clusters`` that layers are composed in; else empty."""
    provenance: dict[str, Any] = {}

    @property
    def trial(self) -> bool:
        """A result from a tree with uncommitted changes: shown, marked, never ranked."""
        return bool(self.provenance.get("dirty"))


def as_json(record: Record) -> dict[str, Any]:
    """What ``result.json`` holds: ``members`` and ``subsets`` only of ensembles."""
    content = record.model_dump(exclude={name for name in ("members", "subsets") if not getattr(record, name)})
    return {"schema": content.pop("schema_"), **content}


def write_text(record: Record) -> str:
    """The record as JSON text; NaN is written as ``NaN``."""
    return json.dumps(as_json(record), indent=1)


def parse(content: Any, where: str) -> Record:
    """A record from what JSON held; ``where`` says in errors where that stood.

    Raises:
        RunError: if it is not a result, with what is wrong.
    """
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise RunError(f"{where} has schema {version!r}; this npasbench reads {SCHEMA}; a newer one may read it.")
    try:
        return Record.model_validate({"schema_": version, **{k: v for k, v in content.items() if k != "schema"}})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(f"{where} is not a result: key '{key}': {first['msg']}.") from None


def read(path: Path) -> Record:
    """Read a result.

    Raises:
        RunError: naming the file and what is wrong with it.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    except RunError as error:
        raise RunError(f"{error} {_CURE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}. {_CURE}") from None
