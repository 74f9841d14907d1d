"""What ``result.json`` holds: a versioned schema, strict on reading, NaN as NaN and missing as null."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from npasbench.added import Added
from npasbench.errors import RunError
from npasbench.running.migrations import NewerSchema, migrated
from npasbench.running.reading import bounded, read_json, short

SCHEMA = 1
"""The present one; see ``migrations.py`` for how older ones are read."""
_CURE = "'npasbench retry' sets it aside and does the run again."
State = Literal["done", "refused", "skipped", "over-budget"]
Count = Annotated[int, Field(ge=0, le=10**15)]
Place = Annotated[int, Field(ge=-(10**15), le=10**15)]
Seed = Annotated[int, Field(ge=0, le=10**18)]
Title = Annotated[str, Field(max_length=200)]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def _plain_label(label: str) -> str:
    """As ``card.Name``; others may look like another's, or lead out of a folder."""
    if not _LABEL.fullmatch(label):
        raise ValueError(
            f"{short(ascii(label), 80)} is no label: expected at most 80 of a-z, 0-9, dots, dashes and underscores, of "
            "which the first is a letter or a digit"
        )
    return label


Label = Annotated[str, AfterValidator(_plain_label)]
Values = TypeVar("Values", dict[str, float], dict[str, float | None])
_MOST = 1e30
_OF_SOME = ("addons", "members", "subsets", "held_out", "corrupted")


def _calculable(values: Values) -> Values:
    """NaN, and numbers that can be added and squared."""
    if any(value is not None and abs(value) > _MOST for value in values.values()):
        raise ValueError(f"a number is NaN or lies between -{_MOST:g} and {_MOST:g}")
    return values


Measured = Annotated[float, Field(ge=0, le=_MOST)]
Measures = Annotated[dict[Title, float], Field(max_length=1_000), AfterValidator(_calculable)]
Costs = Annotated[dict[Title, float | None], Field(max_length=1_000), AfterValidator(_calculable)]
Free = Annotated[dict[str, Any], AfterValidator(bounded)]
"""JSON of bounded depth, texts and numbers."""


def _bounded_addons(addons: tuple[Added, ...]) -> tuple[Added, ...]:
    for one in addons:
        bounded(one.model_dump())
    return addons


AddOns = Annotated[tuple[Added, ...], Field(max_length=100), AfterValidator(_bounded_addons)]


class Certificate(BaseModel):
    """A process that did not train rebuilt the network from the spec and the stored numbers, and predicted again."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    floats: Count
    """Trained scalars in ``model.safetensors``: must equal the count."""
    differing_predictions: Count
    """Test examples on which both processes disagree: must be 0."""
    dead: Count
    """Counted entries that never receive a gradient and whose randomisation changes no output."""
    detail: Annotated[str, Field(max_length=20_000)] = ""


class MemberResult(BaseModel):
    """One member of an ensemble by itself."""

    model_config = ConfigDict(extra="forbid")

    name: Title
    """Its architecture's; "member k", counted from 0, where members cannot be had apart, as in MIMO."""
    metrics: Measures
    """The card's."""
    macs: Measured | None
    """Multiply-adds of one example. None where members cannot be had apart."""
    latency_seconds: Measured | None
    """Of one example. None as ``macs``."""


class SubsetResult(BaseModel):
    """What some members predict together, by the mean of their probabilities."""

    model_config = ConfigDict(extra="forbid")

    members: Annotated[list[Place], Field(max_length=10_000)]
    """Counted from 0, ascending."""
    metrics: Measures
    """``accuracy``, ``nll``, ``ece``."""
    macs: Measured
    latency_seconds: Measured


class HeldOut(BaseModel):
    """Which epoch was tested under the protocol ``holdout-best``, and why."""

    model_config = ConfigDict(extra="forbid")

    epoch: Annotated[int, Field(ge=1, le=10**15)]
    """Counted from 1."""
    examples: Annotated[int, Field(ge=1, le=10**15)]
    """Training examples that were held out."""
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """On them, after that epoch."""


class CorruptedResult(BaseModel):
    """What the network does on corrupted test images, or why nothing is known of it."""

    model_config = ConfigDict(extra="forbid")

    absent: Annotated[str, Field(max_length=20_000)] = ""
    """Why it was not tested on any."""
    metrics: Measures = {}
    """The card's, the mean over corruptions."""
    corruptions: Annotated[dict[Title, Measures], Field(max_length=1_000)] = {}
    """The card's for each corruption, the mean over severities."""
    test_examples: Count | None = None
    """Images at one severity of one corruption."""


class Record(BaseModel):
    """The result of one run; written once, last, and never changed."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    schema_: Literal[1]
    state: State
    reason: Annotated[str, Field(max_length=20_000)] = ""
    """Why a run is refused, skipped or over budget."""
    smallest: Count | None = None
    """The smallest number of parameters with which a refused method can be built, where known."""
    task: Title
    task_version: Count
    task_fingerprint: Fingerprint
    fingerprint: Fingerprint
    label: Label
    method: Title
    method_version: Count
    knobs: Free
    addons: AddOns = ()
    """What goes with the method, the innermost first."""
    seed: Seed
    budget: Title
    budget_parameters: Count
    dense_parameters: Count
    accounting: Title = "total"
    parameters: Annotated[dict[Title, Count], Field(max_length=1_000)] = {}
    """By kind, and ``total``."""
    bank_params: Count | None = None
    effective_parameters: Count | None = None
    side_information_bits: Count | None = None
    running_statistics: Count | None = None
    metrics: Measures = {}
    """``accuracy`` (0 to 1), ``nll`` (nats), ``ece`` (0 to 1), on the test set; of an ensemble ``diversity``."""
    held_out: HeldOut | None = None
    """Under the protocol ``holdout-best``; of the others the last epoch is tested."""
    corrupted: CorruptedResult | None = None
    """Where the card asks for corrupted test images."""
    members: Annotated[list[MemberResult], Field(max_length=10_000)] = []
    """Of an ensemble."""
    subsets: Annotated[list[SubsetResult], Field(max_length=10_000)] = []
    """Of an ensemble whose members can be had apart: all subsets of up to six members, of more those of the cheapest."""
    test_examples: Count | None = None
    costs: Costs = {}
    """Seconds unless the name says otherwise; see docs/budgets.md."""
    certificate: Certificate | None = None
    allocation: Free = {}
    """Which part of which bank each layer reads, by ``groups``, or the ``clusters`` that layers are composed in; else empty."""
    provenance: Free = {}

    @property
    def trial(self) -> bool:
        """A result from a tree with uncommitted changes: shown, marked, never ranked."""
        return bool(self.provenance.get("dirty"))


def as_json(record: Record) -> dict[str, Any]:
    """What ``result.json`` holds: what only some records have is left out of the others."""
    content = record.model_dump(exclude={name for name in _OF_SOME if not getattr(record, name)})
    if record.addons:
        content["addons"] = [one.as_json() for one in record.addons]
    return {"schema": content.pop("schema_"), **content}


def write_text(record: Record) -> str:
    """The record as JSON text; NaN is written as ``NaN``."""
    return json.dumps(as_json(record), indent=1)


def parse(content: Any, where: str) -> Record:
    """A record from what JSON held, of any schema up to the present one; ``where`` says in errors where that stood.

    Raises:
        RunError: if it is not a result, with what is wrong.
    """
    content = migrated(content, where, present=SCHEMA)
    try:
        return Record.model_validate({"schema_": SCHEMA, **{k: v for k, v in content.items() if k != "schema"}})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = short(".".join(map(str, first["loc"])))
        raise RunError(f"{where} is not a result: key '{key}': {first['msg'].removeprefix('Value error, ')}.") from None


def read(path: Path) -> Record:
    """Read a result.

    Raises:
        RunError: naming the file and what is wrong with it.
    """
    try:
        return parse(read_json(path), str(path))
    except NewerSchema:
        raise
    except RunError as error:
        raise RunError(f"{error} {_CURE}") from None
