"""Run directories made up for the leaderboard's tests: realistic numbers, and every state that a run can end in."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from npasbench.card import Card, fingerprint

DENSE = 77_850
BUDGETS = {"0.05": 3_892, "0.1": 7_785, "0.25": 19_462, "1": DENSE}
TASK = "digits15-wrn-10-1"

LABELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("dense", {}),
    "narrow": ("narrow", {}),
    "shallow": ("shallow", {}),
    "naive": ("naive", {"order": "sequential", "scope": "network"}),
    "template-bank": ("template-bank", {"templates": 4, "groups": "learned"}),
    "hashed": ("hashed", {"sign": True}),
    "roast": ("roast", {"chunk": 32, "sign": True}),
    "magnitude": ("magnitude", {"schedule": "cubic", "start": 0.2, "end": 0.8}),
    "ssn": ("ssn", {"groups": "learned", "share": "wavg"}),
}
_LOSS = {
    "dense": 0.0,
    "narrow": 2.4,
    "shallow": 3.6,
    "naive": 2.0,
    "template-bank": 1.1,
    "hashed": 1.4,
    "roast": 1.5,
    "magnitude": 0.7,
    "ssn": 0.9,
}
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'"
_SEARCH = {"search_seconds": 4.5, "search_epochs": 12.0, "search_flops": 3.2e11}
_SMALLEST = {"template-bank": 5_120, "shallow": 9_994}


def card(**changes: Any) -> dict[str, Any]:
    """A task card as ``spec.json`` holds it."""
    return {
        "schema": 1, "name": TASK, "version": 1, "title": "Handwritten digits, 15 labelled images a class, WRN-10-1",
        "description": "The 1,797 real 8x8 digits that ship with scikit-learn. The seed draws 15 images of each class to train on.",
        "members": ["wrn-10-1"], "budgets": [*BUDGETS], "metrics": ["accuracy", "nll", "ece"], "seeds": list(range(10)),
        "data": {"set": "digits", "train_per_class": 15, "protocol": "full-last", "shift": 1, "flip": False},
        "accounting": "total",
        "recipe": {"epochs": 60, "batch_size": 50, "precision": "float32", "threads": 1,
                   "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "schedule": {"name": "one-cycle"}},
        **changes,
    }  # fmt: skip


def spec(label: str, budget: str, seed: int, /, **changes: Any) -> dict[str, Any]:
    """What ``spec.json`` holds."""
    method, knobs = LABELS.get(label, (label, {}))
    content = {
        "task": card(), "label": label, "method": method, "method_version": 1, "knobs": knobs,
        "budget": budget, "budget_parameters": BUDGETS.get(budget, 1000), "dense_parameters": DENSE, "seed": seed, "plugins": [],
        **changes,
    }  # fmt: skip
    content = {"task_fingerprint": card_fingerprint(content["task"]), **content}
    names = ("method", "method_version", "knobs", "budget", "budget_parameters", "seed")
    decides = {"task": content["task_fingerprint"], **{name: content[name] for name in names}}
    return {"fingerprint": fingerprint(decides), **content}


def card_fingerprint(content: dict[str, Any]) -> str:
    """A card's own; something of that form if it is none."""
    try:
        return Card.model_validate(content).fingerprint
    except ValidationError:
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def result(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What ``result.json`` holds for a run that went well."""
    draw = random.Random(f"{of['label']} {of['budget']} {of['seed']}")
    shared = random.Random(of["seed"]).gauss(0, 0.012)
    fraction = of["budget_parameters"] / DENSE
    accuracy = 0.95 - 0.01 * _LOSS.get(of["label"], 2.0) * (1 / fraction) ** 0.33 / 1.2 + shared + draw.gauss(0, 0.006)
    if of["label"] == "dense":
        accuracy = 0.948 + shared + draw.gauss(0, 0.006)
    over = changes.get("state") == "over-budget"
    total = int(of["budget_parameters"] * (1.03 if over else 0.998)) + over
    kinds = {"bank": total - 1_060, "norm": 320, "classifier": 650, "coefficients": 90}
    names = (
        "label",
        "method",
        "method_version",
        "knobs",
        "seed",
        "budget",
        "budget_parameters",
        "dense_parameters",
        "fingerprint",
    )
    dead = draw.randrange(9)
    if "parameters" in changes:
        total, dead = changes["parameters"].get("total", 0), 0
    return {
        "schema": 1, "state": "done", "task": of["task"]["name"], "task_version": 1, "task_fingerprint": of["task_fingerprint"],
        **{name: of[name] for name in names},
        "parameters": {**kinds, "total": total}, "effective_parameters": total - dead,
        "bank_params": None if "parameters" in changes else kinds["bank"],
        "side_information_bits": 64, "running_statistics": 640, "test_examples": 1_647,
        "metrics": {"accuracy": round(accuracy * 1_647) / 1_647, "nll": 0.2 + draw.random() / 10, "ece": 0.01 + draw.random() / 50},
        "costs": {"train_seconds": 6 + draw.random(), "wall_seconds": 7 + draw.random(), "macs": 2_317_120.0,
                  "step_seconds": 0.0081, "generation_seconds": 0.00052, "evaluation_seconds": 0.12, "peak_memory_bytes": 5.2e7,
                  "certificate_seconds": 0.3, "exchanged_bytes": 4 * total, **(_SEARCH if of["label"] == "ssn" else {})},
        "certificate": {"passed": True, "floats": total, "differing_predictions": 0, "dead": dead, "detail": ""},
        "allocation": allocation(kinds["bank"]) if of["label"] == "ssn" else {},
        "provenance": {
            "commit": "3f1c9a5e1d0b4c7f9a2e6d8b0c1f2a3b4c5d6e7f", "dirty": False, "npasbench": "0.1.0", "python": "3.11.2",
            "torch": "2.9.0", "device": "cpu, Xeon, 1 thread", "host": "laptop",
            "method_source": hashlib.sha256(of["method"].encode()).hexdigest(),
            "method_summary": f"The way of {of['method']}: every layer takes its weights from one place. A second sentence.",
            "method_cite": "@inproceedings{x2020,\n  title = {A Way to Share},\n  author = {A. Author},\n  year = {2020},\n"
                           "  url = {https://example.org/paper}\n}",
            "method_origin": "npasbench 0.1.0", "started": "2026-11-20T10:00:00+00:00", "finished": "2026-11-20T10:00:07+00:00",
            "restarts": 0,
            "command": f"npasbench run {TASK} --method {of['method']} --budget {of['budget']} --seeds {of['seed']}",
        },
        **changes,
    }  # fmt: skip


def allocation(bank: int, layers: int = 9) -> dict[str, Any]:
    """Layers that share two banks and one with weights of its own, as a record holds them."""
    first = bank * 2 // 3
    return {
        "groups": [
            {"group": 0, "bank_size": first, "unused": first - first // layers * layers, "layers": [
                _reader(number, first // layers, first) for number in range(layers)
            ]},
            {"group": 1, "bank_size": bank - first, "unused": 0, "layers": [
                {"layer": layers, "name": "trunk.0.weight", "shape": [8, 8, 3, 3], "templates": 4, "resized_from": None,
                 "reads": [[0, (bank - first) // 4], [(bank - first) // 2, bank - first]]},
                {"layer": layers + 1, "name": "trunk.1.weight", "shape": [8, 8], "templates": 1, "start": 0, "end": bank - first,
                 "resized_from": None, "copies": 3},
            ]},
            {"group": 2, "dense": True, "bank_size": 144, "unused": 0, "layers": [
                {"layer": layers + 2, "name": "stem.weight", "shape": [16, 1, 3, 3], "templates": 1}
            ]},
        ]
    }  # fmt: skip


def _reader(number: int, step: int, bank: int) -> dict[str, Any]:
    """A layer that reads some of the bank from its own place on."""
    start = number * step
    end = min(start + 3 * step, bank // step * step)
    small = [4, 4, 3, 3] if number % 4 == 3 else None
    return {"layer": number, "name": f"blocks.{number}.conv.weight", "shape": [16 << number // 3, 16, 3, 3],
            "templates": (end - start) // step, "start": start, "end": end, "resized_from": small}  # fmt: skip


def put(
    root: Path, of: dict[str, Any], *, record: dict[str, Any] | None = None, failure: dict[str, Any] | None = None
) -> Path:
    """Write one run directory and return it."""
    folder = root / of["task"]["name"] / of["label"] / of["budget"] / f"seed{of['seed']}-{of['fingerprint'][:8]}"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(of))
    if record is not None:
        record = agreeing(record)
        (folder / "result.json").write_text(json.dumps(record))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _epochs(of)))
        if "accuracy" in record["metrics"]:
            _write_bits(folder / "correct.npy", record["metrics"]["accuracy"], record["test_examples"])
    if failure is not None:
        (folder / "failure.json").write_text(json.dumps(failure))
    return folder


def agreeing(record: dict[str, Any]) -> dict[str, Any]:
    """The record, with an accuracy in four digits on so many examples if it was no whole number of those it has.

    An NLL of 0.2 is at least what so many wrong predictions cost.
    """
    accuracy, examples = record["metrics"].get("accuracy"), record["test_examples"]
    if accuracy is not None and record["metrics"].get("nll") == 0.2 and (1 - accuracy) * 0.7 > 0.2:
        record = {**record, "metrics": {**record["metrics"], "nll": 0.2 + 0.7 * (1 - accuracy)}}
    if accuracy is None or accuracy != accuracy or abs(accuracy * examples - round(accuracy * examples)) < 1e-6:
        return record
    return {**record, "test_examples": 10_000, "metrics": {**record["metrics"], "accuracy": round(accuracy, 4)}}


def _write_bits(path: Path, accuracy: float, examples: int) -> None:
    right = np.arange(examples) < round((accuracy if accuracy == accuracy else 0.0) * examples)
    np.save(path, np.packbits(right))


def scored(root: Path, label: str, budget: str, scores: dict[int, float], **changes: Any) -> None:
    """One cell with given accuracies by seed; changes go into the records, or into the specs where those have the key."""
    for seed, accuracy in scores.items():
        base = spec(label, budget, seed)
        of = spec(label, budget, seed, **{key: value for key, value in changes.items() if key in base})
        put(root, of, record=result(of, metrics={"accuracy": accuracy, "nll": 0.2, "ece": 0.02}, **changes))


def hostile(root: Path) -> None:
    """A finished and a failed run that say in every field what would harm a page that did not escape it."""
    of = spec("x", "0.1", 0, label="hostile", method=HOSTILE, knobs={HOSTILE: HOSTILE}, budget=HOSTILE)
    of["task"] = card(name=HOSTILE, title=HOSTILE, description=HOSTILE)
    provenance = {
        "command": HOSTILE,
        "method_summary": HOSTILE,
        "method_cite": "url = {javascript:alert(3)}" + HOSTILE,
        "method_origin": HOSTILE,
    }
    record = result(of, task=HOSTILE, provenance=provenance, parameters={HOSTILE: 1, "total": 1}, costs={HOSTILE: 1.0})
    folder = put(root, {**of, "task": {"name": "t"}, "label": "l", "budget": "b"}, record=record)
    (folder / "spec.json").write_text(json.dumps(of))
    failing = {**of, "seed": 1, "fingerprint": "e" * 64}
    folder = put(
        root,
        {**failing, "task": {"name": "t"}, "label": "l", "budget": "b"},
        failure={"error": HOSTILE, "traceback": HOSTILE},
    )
    (folder / "spec.json").write_text(json.dumps(failing))


def realistic(root: Path, seeds: int = 10) -> None:
    """A quickstart's folder: eight labels at four budgets, with refused, skipped, failed, over-budget and trial cells."""
    for label in LABELS:
        for budget in BUDGETS:
            for seed in range(seeds):
                _one(root, label, budget, seed)


def _one(root: Path, label: str, budget: str, seed: int) -> None:
    of = spec(label, budget, seed)
    empty: dict[str, Any] = {"metrics": {}, "costs": {}, "parameters": {}, "certificate": None}
    least = _SMALLEST.get(label, 0)
    if label == "dense" and budget != "1":
        put(
            root, of, record=result(of, state="refused", smallest=DENSE, reason="a dense network has one size", **empty)
        )
    elif BUDGETS[budget] < least:
        reason = f"needs at least {least:,} parameters, the budget allows {BUDGETS[budget]:,}"
        put(root, of, record=result(of, state="refused", smallest=least, reason=reason, **empty))
    elif label == "magnitude" and budget == "1":
        put(
            root, of, record=result(of, state="skipped", reason="nothing to prune at the dense network's size", **empty)
        )
    elif label == "magnitude" and budget == "0.05":
        put(root, of, record=result(of, state="over-budget", reason="4,020 parameters after pruning, 3,892 allowed"))
    elif label == "roast" and budget == "0.25" and seed in (3, 7):
        put(
            root,
            of,
            failure={
                "error": "The loss became NaN in epoch 4.",
                "traceback": "Traceback ...",
                "time": "2026-11-20T10:00:00",
            },
        )
    elif label == "hashed" and budget == "1":
        record = result(of)
        put(root, of, record={**record, "provenance": {**record["provenance"], "dirty": True}})
    elif not (label == "shallow" and budget == "1"):
        put(root, of, record=result(of))


def _epochs(of: dict[str, Any]) -> list[dict[str, Any]]:
    draw = random.Random(of["seed"])
    losses = [2.3 * 0.93**epoch + 0.02 + draw.random() * 0.06 for epoch in range(60)]
    return [
        {
            "epoch": epoch + 1,
            "step": 3 * (epoch + 1),
            "loss": loss,
            "lr": 0.1 * min(epoch / 18, (60 - epoch) / 42),
            "seconds": 0.1,
        }
        for epoch, loss in enumerate(losses)
    ]
