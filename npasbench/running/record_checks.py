"""Whether a record agrees with itself, with its spec and with its task's card: arithmetic, without data or a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from npasbench.budget import canonical, resolve
from npasbench.card import Card, fingerprint
from npasbench.errors import NpasbenchError, UsageError
from npasbench.plan import RunSpec, dense_parameters
from npasbench.running.member_checks import member_faults
from npasbench.running.metric_checks import TOLERANCE, metric_faults
from npasbench.running.protocol_checks import protocol_faults, says_more
from npasbench.running.reading import short
from npasbench.running.record import Record

Outcome = Literal["agrees", "differs", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found."""

    name: str
    outcome: Outcome
    detail: str = ""


def check_record(record: Record, correct: bytes | None, card: Card | None, spec: RunSpec | None) -> list[Check]:
    """Everything about a record that can be told from itself.

    ``correct`` holds its packed correctness bits. ``card`` is the card that is known under its task's name, and ``spec``
    what ``spec.json`` beside it says; either may be missing.
    """
    found = [
        _outcome("fingerprint", _fingerprint(record, spec)),
        _task(record, card, spec),
        _outcome("budget", _budget(record, _own(record, card, spec))),
        _outcome("counts", _counts(record)),
        _outcome("metrics", _metrics(record, correct, _own(record, card, spec))),
        _outcome("certificate", _certificate(record)),
    ]
    if record.members or record.subsets:
        found.append(_outcome("members", member_faults(record)))
    own = _own(record, card, spec)
    if says_more(record, own):
        found.append(_outcome("other images", protocol_faults(record, own)))
    return found


def contradictions(record: Record, correct: bytes | None, own: Card | None) -> list[str]:
    """What of a finished record cannot be true, by arithmetic alone and in microseconds.

    ``own`` is the card of its fingerprint, where that is known. NaN and a certificate that was not passed are results, if bad
    ones, and no contradictions.
    """
    found: dict[str, Iterator[str]] = {
        "fingerprint": _fingerprint(record, None),
        "task": _not_of(own, record) if own else iter(()),
        "budget": _budget(record, None),
        "counts": _counts(record),
        "metrics": _metrics(record, correct, own, nan=True),
        "certificate": _adds_up(record),
        "members": member_faults(record) if record.members or record.subsets else iter(()),
        "other images": protocol_faults(record, own) if says_more(record, own) else iter(()),
    }
    return [f"{name}: {fault}" for name, faults in found.items() for fault in faults]


def _outcome(name: str, faults: Iterator[str]) -> Check:
    told = list(faults)
    return Check(name, "differs", "; ".join(told[:5])) if told else Check(name, "agrees")


def _own(record: Record, card: Card | None, spec: RunSpec | None) -> Card | None:
    """The card that the record was made under, if it is at hand."""
    candidates = (card, spec.task if spec else None)
    return next((one for one in candidates if one and one.fingerprint == record.task_fingerprint), None)


def _fingerprint(record: Record, spec: RunSpec | None) -> Iterator[str]:
    """As :class:`~npasbench.plan.RunSpec` makes it: of everything that decides the result."""
    try:
        expected = fingerprint(
            {
                "task": record.task_fingerprint,
                "method": record.method,
                "method_version": record.method_version,
                "knobs": record.knobs,
                "budget": record.budget,
                "budget_parameters": record.budget_parameters,
                "seed": record.seed,
                **({"addons": [one.as_json() for one in record.addons]} if record.addons else {}),
            }
        )
    except ValueError:  # NaN among the knobs
        expected = ""
    if expected != record.fingerprint:
        told = short(record.fingerprint, 12)
        yield f"what it holds has the fingerprint {expected[:12] or 'of nothing'}, and it says {told}"
    if spec is None:
        return
    names = [name for name in type(spec).model_fields if name in type(record).model_fields]
    for name in names:
        value = record.task_fingerprint if name == "task" else getattr(record, name)
        planned = spec.task.fingerprint if name == "task" else getattr(spec, name)
        if planned != value:
            yield f"spec.json says {name} {short(planned, 40)}, the record {short(value, 40)}"
    if spec.fingerprint != record.fingerprint:
        yield f"spec.json has the fingerprint {spec.fingerprint[:12]}"


def _task(record: Record, card: Card | None, spec: RunSpec | None) -> Check:
    """Whether the card is the record's. Another version of it is no fault, but tells what cannot be checked."""
    own = _own(record, card, spec)
    if own and (faults := [*_not_of(own, record)]):
        return Check("task", "differs", "; ".join(faults))
    if card is None:
        return Check("task", "not checked", "no task of this name is installed; name its card with --task FILE.toml")
    if card.fingerprint != record.task_fingerprint:
        return Check(
            "task",
            "not checked",
            f"another version of the task: {card.name} is here as version {card.version}, "
            f"fingerprint {card.fingerprint[:12]}; the record is of version {record.task_version}, "
            f"fingerprint {short(record.task_fingerprint, 12)}",
        )
    return Check("task", "agrees")


def _not_of(own: Card, record: Record) -> Iterator[str]:
    """What of a record its own card says otherwise."""
    if own.name != record.task:
        yield f"the card of this fingerprint is called {own.name}"
    if own.version != record.task_version:
        yield f"the card has version {own.version}, the record says {record.task_version}"
    if own.accounting != record.accounting:
        yield f"the card counts by {own.accounting}, the record by {short(record.accounting)}"


def _budget(record: Record, card: Card | None) -> Iterator[str]:
    try:
        if canonical(record.budget) != record.budget:
            yield f"the budget '{short(record.budget)}' is written '{canonical(record.budget)}'"
        resolved = resolve(record.budget, record.dense_parameters).parameters
    except (UsageError, ArithmeticError) as error:
        yield short(error, 200)
        return
    if resolved != record.budget_parameters:
        yield f"{record.budget} of {record.dense_parameters:,} is {resolved:,} parameters, not {record.budget_parameters:,}"
    if card is None:
        return
    try:
        dense = dense_parameters(card)
    except NpasbenchError as error:
        yield short(error, 200)
        return
    if dense != record.dense_parameters:
        yield f"the dense network has {dense:,} parameters, not {record.dense_parameters:,}"


def _counts(record: Record) -> Iterator[str]:
    built = record.state in ("done", "over-budget")
    if not built:
        numbers = ("parameters", "metrics", "certificate", "members", "subsets")
        if told := [name for name in numbers if getattr(record, name)]:
            yield f"a run that was {record.state} has no {', '.join(told)}"
        if not record.reason:
            yield f"it does not say why it was {record.state}"
        if record.smallest is not None and record.smallest <= record.budget_parameters:
            yield f"refused, though {record.smallest:,} parameters would do and {record.budget_parameters:,} are allowed"
        return
    kinds = {kind: number for kind, number in record.parameters.items() if kind != "total"}
    total = record.parameters.get("total")
    if total is None:
        yield "parameters have no total"
        return
    if sum(kinds.values()) != total:
        yield f"the kinds sum to {sum(kinds.values()):,}, the total says {total:,}"
    if record.bank_params is not None and record.bank_params > total:
        yield f"{record.bank_params:,} parameters in banks are more than the total of {total:,}"
    if record.effective_parameters is not None and record.effective_parameters > total:
        yield f"{record.effective_parameters:,} effective parameters are more than the total of {total:,}"
    yield from _within_budget(record, total)


def _within_budget(record: Record, total: int) -> Iterator[str]:
    held = total if record.accounting == "total" else record.bank_params
    if held is None:
        yield "bank_params is missing, by which the card counts"
        return
    over = held - record.budget_parameters - allowed_rounding(record)
    if record.state == "done" and over > 0:
        yield f"{held:,} parameters are {over:,} over the budget of {record.budget_parameters:,}, and the run is called done"
    if record.state == "over-budget" and over <= 0:
        yield f"{held:,} parameters are within the budget of {record.budget_parameters:,}, and the run is called over-budget"


def allowed_rounding(record: Record) -> int:
    """By how much a run may miss its budget: as :func:`npasbench.measuring.count.rounding`, from what the record tells."""
    if record.accounting != "bank":
        return 0
    groups = record.allocation.get("groups")
    return len(groups) // 2 if isinstance(groups, list) else 0


def _certificate(record: Record) -> Iterator[str]:
    certificate = record.certificate
    if certificate and not certificate.passed:
        yield f"it was not passed: {short(certificate.detail) or 'no reason is given'}"
    yield from _adds_up(record)


def _adds_up(record: Record) -> Iterator[str]:
    certificate, total = record.certificate, record.parameters.get("total")
    if record.state not in ("done", "over-budget"):
        return
    if certificate is None:
        yield "there is none"
        return
    if certificate.passed and certificate.differing_predictions:
        yield f"it was passed with {certificate.differing_predictions:,} differing predictions"
    if certificate.passed and certificate.floats != total:
        yield f"{certificate.floats:,} floats are stored where {total or 0:,} are counted"
    effective = record.effective_parameters
    if effective is not None and total is not None and effective != total - certificate.dead:
        yield f"{total:,} without {certificate.dead:,} dead ones are not {effective:,}"


def _metrics(record: Record, correct: bytes | None, card: Card | None, *, nan: bool = False) -> Iterator[str]:
    if record.state not in ("done", "over-budget"):
        return
    for name in card.metrics if card else ("accuracy",):
        if name not in record.metrics:
            yield f"{name} is missing"
    yield from metric_faults({k: v for k, v in record.metrics.items() if not (nan and math.isnan(v))})
    yield from (f"the cost {short(name)} is negative" for name, value in record.costs.items() if value and value < 0)
    accuracy, examples = record.metrics.get("accuracy"), record.test_examples
    if not examples:
        yield "test_examples is missing"
        return
    if accuracy is None or math.isnan(accuracy):
        return
    if not _whole(accuracy * examples):
        yield f"an accuracy of {accuracy} is no whole number of {examples:,} test examples"
    if correct is None:
        yield "there are no correctness bits"
    else:
        yield from _bits(correct, examples, accuracy)


def _bits(correct: bytes, examples: int, accuracy: float) -> Iterator[str]:
    if len(correct) != (examples + 7) // 8:
        yield f"{len(correct):,} bytes of correctness bits do not fit {examples:,} test examples"
        return
    ones = int.from_bytes(correct, "big").bit_count()
    if correct and correct[-1] & ((1 << (-examples % 8)) - 1):
        yield "correctness bits are set after the last test example"
    if abs(ones / examples - accuracy) > TOLERANCE:
        yield f"{ones:,} of {examples:,} correctness bits are set: {ones / examples}, not {accuracy}"


def _whole(value: float) -> bool:
    return abs(value - round(value)) <= 1e-6 * max(1.0, abs(value))
