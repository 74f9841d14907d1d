"""What a run's page says: spec, counts by kind, certificate, training curve, costs, provenance and the command again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from npasbench.running.record import Certificate, Record

from . import words
from .board import Board, Cell, Entry
from .figures import Figure, training_figure
from .member_table import member_table
from .names import Names, safe_link
from .other_images import corrupted, held_out
from .sharing_map import SharingMap, sharing_map
from .store import Run, spec_of
from .tables import Fact, Link, Table

_TEXT_LIMIT = 20_000
_KINDS = {
    "done": "measured", "over-budget": "over budget, not ranked", "refused": "refused: the budget is too small for the method",
    "skipped": "skipped", "failed": "failed", "corrupt": "result cannot be read", "running": "running when this page was made",
    "waiting": "not started", "interrupted": "interrupted", "contradictory": "contradicts itself, not counted",
}  # fmt: skip
_COSTS = {
    "macs": "MACs of one example", "generation macs": "generation MACs", "search flops": "search FLOPs",
    "exchanged": "gradients exchanged in a step",
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """How many parameters of one kind, and which part of the budget that is (0 to 100)."""

    kind: str
    count: str
    part: str


@dataclass(frozen=True)
class RunPage:
    """One run."""

    title: str
    state: str
    tone: str
    reason: str
    trail: tuple[Link, ...]
    siblings: tuple[Link, ...]
    tiles: tuple[Fact, ...]
    counts: tuple[Share, ...]
    groups: tuple[tuple[str, tuple[Fact, ...]], ...]
    members: Table | None
    figure: Figure | None
    map: SharingMap | None
    note: str
    command: str
    traceback: str
    spec: str
    result: str


def run_page(board: Board, entry: Entry, cell: Cell, run: Run, names: Names) -> RunPage:
    """A run's page."""
    record, spec = run.record, spec_of(run)
    where = f"{entry.title} · {words.budget(cell.budget)} · seed {run.identity.seed}"
    trial = ", trial: uncommitted changes, not ranked" if run.trial else ""
    reason = run.fault or (record.reason if record else "") or run.error
    groups = (
        ("Certificate", tuple(_certificate(record.certificate)) if record and record.certificate else ()),
        ("Held-out images", tuple(held_out(record)) if record else ()),
        ("Corrupted test images", tuple(corrupted(record)) if record else ()),
        ("Costs", tuple(_costs(record)) if record else ()),
        ("Spec", tuple(_spec(run))),
        ("Provenance", tuple(_provenance(record)) if record else ()),
    )
    return RunPage(
        where, _KINDS.get(run.outcome, run.outcome) + trial, _tone(run), words.plain(reason), _trail(board, entry, cell, names),
        tuple(_sibling(other, run, names) for other in cell.runs), tuple(_tiles(run)), tuple(_shares(record)) if record else (),
        tuple((title, facts) for title, facts in groups if facts),
        member_table(record) if record else None, _training(run),
        sharing_map(record.allocation) if record else None, _note(run),
        words.brief(record.provenance.get("command") or "", 5_000) if record else "", _traceback(run), _pretty(spec), _raw(record),
    )  # fmt: skip


def _training(run: Run) -> Figure | None:
    return training_figure(run.directory.epochs()) if run.directory else None


def _note(run: Run) -> str:
    """Why a published run shows less than others."""
    return (
        ""
        if run.directory
        else f"Published in {words.plain(run.where.rpartition(':')[0])}, without its training curve and its log."
    )


def _place(run: Run) -> Fact:
    """Where it lies. Of a published run without the line's number, which moves with every run that is published before it."""
    where = run.where if run.directory else run.where.rpartition(":")[0]
    return Fact("Run directory" if run.directory else "File", words.plain(where), code=True)


def _tone(run: Run) -> str:
    if run.outcome in ("failed", "corrupt", "contradictory"):
        return "bad"
    return "good" if run.state == "done" and not run.trial else "few"


def _trail(board: Board, entry: Entry, cell: Cell, names: Names) -> tuple[Link, ...]:
    method = entry.definition.method
    return (
        Link(board.name, f"../../{names.task(board)}"),
        Link(words.plain(method), f"../../{names.method(method)}"),
        Link(f"{entry.title} at {words.budget(cell.budget)}", f"../../{names.cell(board, entry, cell)}"),
    )


def _sibling(other: Run, run: Run, names: Names) -> Link:
    return Link(
        str(other.identity.seed),
        f"../../{names.run(other)}",
        "here" if other is run else "",
        f"seed {other.identity.seed}",
    )


def _tiles(run: Run) -> Iterator[Fact]:
    record = run.record
    allowed = words.count(run.identity.budget_parameters)
    if record is None or record.state in ("refused", "skipped"):
        yield Fact("parameters allowed", allowed)
        if record and record.smallest:
            yield Fact("smallest the method can meet", words.count(record.smallest))
        return
    metrics = record.metrics
    yield Fact("accuracy", f"{words.percent(metrics.get('accuracy'))} %")
    if "top5" in metrics:
        yield Fact("top-5 accuracy", f"{words.percent(metrics['top5'])} %")
    if "nll" in metrics:
        yield Fact("NLL, nats", words.number(metrics["nll"], 3))
    if "ece" in metrics:
        yield Fact("calibration error", f"{words.percent(metrics['ece'])} %")
    if "diversity" in metrics:
        yield Fact("diversity of members", words.number(metrics["diversity"], 3))
    yield Fact(f"of {allowed} parameters", words.count(record.parameters.get("total")))


def _shares(record: Record) -> Iterator[Share]:
    """Counts by kind, the largest first, as parts of the budget; what a budget has left is empty space."""
    whole = max(record.budget_parameters, record.parameters.get("total", 0), 1)
    kinds = sorted(
        (kind for kind in record.parameters if kind != "total"), key=lambda kind: (-record.parameters[kind], kind)
    )
    for kind in [*kinds, *(["total"] if "total" in record.parameters else [])]:
        number = record.parameters[kind]
        yield Share(words.plain(kind), words.count(number), f"{max(0.0, min(100.0, 100 * number / whole)):.2f}")


def _certificate(found: Certificate) -> Iterator[Fact]:
    yield Fact("Verdict", "passed" if found.passed else "failed", tone="good" if found.passed else "bad")
    yield Fact("Numbers in the file", words.count(found.floats))
    yield Fact(
        "Predictions that differ",
        words.count(found.differing_predictions),
        tone="bad" if found.differing_predictions else "",
    )
    yield Fact("Parameters that do nothing", words.count(found.dead))
    if found.detail:
        yield Fact("Detail", words.plain(found.detail))


def _costs(record: Record) -> Iterator[Fact]:
    counts = {
        "Effective parameters": record.effective_parameters, "Bank parameters, as the papers count": record.bank_params,
        "Side information, bits": record.side_information_bits, "Running statistics, stored beside": record.running_statistics,
    }  # fmt: skip
    yield from (Fact(name, words.count(value)) for name, value in counts.items() if value is not None)
    yield from (Fact(_name(key), _cost(key, value)) for key, value in sorted(record.costs.items()))


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return words.MISSING
    if key.endswith("seconds"):
        return words.seconds(value)
    return words.size(value) if key.endswith("bytes") else words.count(value)


def _name(key: str) -> str:
    name = words.plain(key).removesuffix("_seconds").removesuffix("_bytes").replace("_", " ")
    name = _COSTS.get(name, name)
    return name[:1].upper() + name[1:]


def _spec(run: Run) -> Iterator[Fact]:
    one = run.identity
    yield Fact("Method", f"{words.plain(one.method)}, version {one.method_version}")
    yield Fact(
        "Budget",
        f"{words.budget(one.budget)}: {words.count(one.budget_parameters)} of {words.count(one.dense_parameters)} dense",
    )
    yield Fact("Run fingerprint", words.plain(one.fingerprint), code=True)
    yield Fact("Task fingerprint", words.plain(one.task_fingerprint), code=True)
    yield _place(run)
    yield from (
        Fact(words.brief(key), words.brief(json.dumps(value), 300), code=True)
        for key, value in sorted(one.knobs.items())
    )
    for added in one.addons:
        yield Fact(words.brief(f"With {added.name}"), f"version {added.version}")
        yield from (
            Fact(words.brief(f"{added.name}: {key}"), words.brief(json.dumps(value), 300), code=True)
            for key, value in sorted(added.knobs.items())
        )


def _provenance(record: Record) -> Iterator[Fact]:
    hidden = ("command", "method_summary", "method_cite")
    for key, value in sorted(record.provenance.items()):
        if key not in hidden:
            text = (
                words.MISSING
                if value is None
                else words.brief(value if isinstance(value, str) else json.dumps(value), 300)
            )
            yield Fact(
                words.brief(key).replace("_", " "),
                text,
                href=safe_link(value) if isinstance(value, str) else "",
                code=key in ("commit", "method_source"),
            )


def _traceback(run: Run) -> str:
    if run.state != "failed" or run.directory is None:
        return ""
    try:
        content = json.loads(run.directory.failure_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(content.get("traceback") or "")[-_TEXT_LIMIT:] if isinstance(content, dict) else ""


def _raw(record: Record | None) -> str:
    return _pretty(record.model_dump()) if record else ""


def _pretty(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1)[:_TEXT_LIMIT] if content else ""
