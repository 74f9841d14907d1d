"""A result made again: from the stored weights without training, or by training anew; and what differs then."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench.card import Card
from npasbench.errors import DataError, NpasbenchError, RunError
from npasbench.plan import RunSpec
from npasbench.registry import Registry
from npasbench.running.reading import read_bits, short
from npasbench.running.record import Record
from npasbench.running.record_checks import Check
from npasbench.running.rundir import RunDirectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SURROUNDINGS = ("torch", "numpy", "device")
_LABEL = "again"


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart that were made on another device or with other versions."""

    bits: float
    """The share of test examples."""
    accuracy: float
    nll: float
    """Relative to the larger of 0.1 and the recorded one."""
    ece: float

    def __str__(self) -> str:
        return (
            f"accuracy within {self.accuracy:g}, NLL within {self.nll:.0%}, ECE within {self.ece:g}, "
            f"predictions of {self.bits:.1%} of the test examples"
        )


EVALUATED = Tolerance(bits=0.005, accuracy=0.005, nll=0.01, ece=0.01)
TRAINED = Tolerance(bits=1.0, accuracy=0.04, nll=0.3, ece=0.05)
EXACT = Tolerance(0, 0, 0, 0)


@dataclass(frozen=True)
class Here:
    """Where results are made again. Methods come from here alone: nothing that a record names is imported."""

    device: torch.device
    data_root: Path | None = None
    plugins: tuple[str, ...] = ()


def spec_from(record: Record, card: Card, here: Here) -> RunSpec:
    """The run that a record is of, under a label of our own; ``card`` is the one of its fingerprint.

    Raises:
        RunError: if the method is not here, or in another version.
        NpasbenchError: if a plugin cannot be imported, or a knob is not the method's.
    """
    registry = Registry(here.plugins)
    if record.method not in registry.sources:
        raise RunError(f"the method '{short(record.method)}' is not installed; name its file with --plugin")
    method = registry.method(record.method)
    if method.version != record.method_version:
        raise RunError(f"the method {record.method} is here in version {method.version}, not {record.method_version}")
    _check_addons(record, registry)
    spec = RunSpec(
        task=card,
        label=_LABEL,
        method=record.method,
        method_version=record.method_version,
        knobs=record.knobs,
        budget=record.budget,
        budget_parameters=record.budget_parameters,
        dense_parameters=record.dense_parameters,
        seed=record.seed,
        plugins=registry.plugins,
        addons=record.addons,
    )
    if spec.fingerprint != record.fingerprint:
        raise RunError("the record's fingerprint is of another run")
    return spec


def _check_addons(record: Record, registry: Registry) -> None:
    """See that add-ons, and methods that they use, are here in the record's versions, and that all knobs are theirs."""
    from npasbench.addon import around

    for one in record.addons:
        if one.name not in registry.addons:
            raise RunError(f"the add-on '{short(one.name)}' is not installed; name its file with --plugin")
    method = registry.assemble(record.method, record.knobs, [(one.name, one.knobs) for one in record.addons])
    for one, addon in zip(record.addons, around(method), strict=True):
        here = {addon.name: addon.version, **{other.name: other.version for other in addon.uses()}}
        told = {addon.name: one.version, **one.uses}
        if here != told:
            raise RunError(f"the add-on {one.name} is here as {short(here, 100)}, not as {short(told, 100)}")


def reevaluate(directory: RunDirectory, record: Record, spec: RunSpec, correct: bytes | None, here: Here) -> Check:
    """Predict the test set with the stored weights and compare; nothing is trained."""
    try:
        again, bits = _evaluated(directory, record, spec, here)
    except DataError as error:
        return Check("weights", "not checked", short(error, 300))
    except NpasbenchError as error:
        return Check("weights", "differs", short(error, 300))
    except Exception as error:  # the files are a stranger's, and methods read them
        return Check("weights", "differs", f"{type(error).__name__}: {short(error, 300)}")
    return compared("weights", record, again, correct, bits, EVALUATED)


def compared(
    name: str, record: Record, again: Record, correct: bytes | None, bits: bytes | None, elsewhere: Tolerance
) -> Check:
    """What a record says, and what it says when it is made again."""
    same = all(record.provenance.get(key) == again.provenance.get(key) for key in _SURROUNDINGS)
    tolerance = EXACT if same else elsewhere
    where = "the same device and versions" if same else f"another device or version: {tolerance}"
    faults = [*_counts(record, again), *_apart(record, again, correct, bits, tolerance)]
    if faults:
        return Check(name, "differs", f"{'; '.join(faults[:5])} ({where})")
    return Check(name, "agrees", f"exactly, on {where}" if same else where)


def retrain(
    records: Sequence[tuple[Record, bytes | None, RunSpec]], here: Here, root: Path, workers: int
) -> list[Check]:
    """Train runs again below ``root`` and compare each; in the order of ``records``."""
    from npasbench.running.dispatch import Pool
    from npasbench.running.worker import Options

    specs = [spec for _, _, spec in records]
    options = Options(devices=(str(here.device),), data_root=here.data_root)
    Pool(specs, root, workers, options, lambda _: None).work()
    return [_retrained(record, correct, RunDirectory.of(root, spec)) for record, correct, spec in records]


def _retrained(record: Record, correct: bytes | None, directory: RunDirectory) -> Check:
    state, again = directory.standing()
    if again is None:
        return Check("training", "differs", f"it {state}: {short(directory.failure().get('error', 'no word'), 300)}")
    try:
        bits = read_bits(directory.correct_file)
    except RunError:
        bits = None
    return compared("training", record, again, correct, bits, TRAINED)


def _evaluated(directory: RunDirectory, record: Record, spec: RunSpec, here: Here) -> tuple[Record, bytes]:
    """The record as the stored weights give it."""
    from npasbench.data import load
    from npasbench.measuring.count import count
    from npasbench.measuring.model_file import running_statistics
    from npasbench.running.certify import load_trained
    from npasbench.running.execute import prepare_process
    from npasbench.running.provenance import provenance
    from npasbench.training.evaluate import correctness_bits, diversity, mean_prediction, predict_each, score

    prepare_process(spec, here.device)
    method, network, floats = load_trained(directory, spec, here.device)
    counted = count(network, masks=method.structure(network).masks)
    if floats != counted.total:
        raise RunError(f"{floats:,} floats are stored where {counted.total:,} are counted")
    data = load(spec.task.data, seed=spec.seed, root=here.data_root)
    recipe, labels = spec.task.recipe, data.test_labels
    each = predict_each(network, data.test(recipe.batch_size * 10, here.device), recipe, here.device)
    together = mean_prediction(each)
    found = diversity(each, labels)
    metrics = score(together, labels, spec.task.metrics) | ({} if found is None else {"diversity": found})
    again = record.model_copy(
        update={
            "metrics": metrics,
            "test_examples": len(labels),
            "parameters": counted.as_dict(),
            "bank_params": counted.bank_params,
            "running_statistics": running_statistics(network),
            "side_information_bits": method.side_information_bits(network),
            "provenance": provenance(spec, method, here.device),
            **_parts(record, spec, each, labels),
        }
    )
    return again, correctness_bits(together, labels).tobytes()


def _parts(record: Record, spec: RunSpec, each: Tensor, labels: Tensor) -> dict[str, Any]:
    """Members and subsets as the predictions give them, if there are so many."""
    from npasbench.running.members import SUBSET_METRICS
    from npasbench.training.evaluate import mean_prediction, score

    if each.dim() == 2 or len(each) != len(record.members):
        return {"members": [], "subsets": []}
    members = [
        member.model_copy(update={"metrics": score(one, labels, spec.task.metrics)})
        for member, one in zip(record.members, each, strict=True)
    ]
    subsets = [
        one.model_copy(update={"metrics": score(mean_prediction(each[one.members]), labels, SUBSET_METRICS)})
        for one in record.subsets
    ]
    return {"members": members, "subsets": subsets}


def _counts(record: Record, again: Record) -> Iterator[str]:
    names = ("state", "parameters", "bank_params", "running_statistics", "side_information_bits", "test_examples")
    for name in names:
        told, found = getattr(record, name), getattr(again, name)
        if told != found and not (name == "parameters" and _sorted_otherwise(record, again)):
            yield f"{name} is {short(found, 80)}, not {short(told, 80)}"


def _sorted_otherwise(record: Record, again: Record) -> bool:
    """Whether another version of npasbench found as many parameters and called them by other kinds."""
    commits = {one.provenance.get("commit") for one in (record, again)}
    return len(commits) > 1 and record.parameters.get("total") == again.parameters.get("total")


def _apart(record: Record, again: Record, correct: bytes | None, bits: bytes | None, most: Tolerance) -> Iterator[str]:
    yield from _metrics("", record.metrics, again.metrics, most)
    if len(record.members) != len(again.members) or len(record.subsets) != len(again.subsets):
        yield f"there are {len(again.members)} members and {len(again.subsets)} subsets of them"
        return
    for place, (told, found) in enumerate(zip(record.members, again.members, strict=True)):
        yield from _metrics(f"member {place}: ", told.metrics, found.metrics, most)
    for one, other in zip(record.subsets, again.subsets, strict=True):
        yield from _metrics(f"subset {one.members}: ", one.metrics, other.metrics, most)
    yield from _other_images(record, again, most)
    if correct is not None and bits is not None:
        yield from _bits(correct, bits, record.test_examples or 1, most)


def _other_images(record: Record, again: Record, most: Tolerance) -> Iterator[str]:
    """Elsewhere another epoch may be best; corrupted images need not be there."""
    if most == EXACT and record.held_out and again.held_out and record.held_out != again.held_out:
        yield f"epoch {again.held_out.epoch} is the best on held-out images, not {record.held_out.epoch}"
    if record.corrupted and again.corrupted and record.corrupted.metrics and again.corrupted.metrics:
        found = again.corrupted.corruptions
        for name, told in record.corrupted.corruptions.items():
            yield from _metrics(f"corrupted, {short(name, 40)}: ", told, found.get(name, {}), most)


def _metrics(what: str, told: Mapping[str, float], found: Mapping[str, float], most: Tolerance) -> Iterator[str]:
    if set(told) - {"diversity"} != set(found) - {"diversity"}:
        yield f"{what}metrics are {', '.join(sorted(found))}"
        return
    allowed = {"accuracy": most.accuracy, "top5": most.accuracy, "ece": most.ece}
    for name, value in told.items():
        if name == "diversity" and (most != EXACT or name not in found):
            continue  # a ratio of few errors: what it is made of is compared
        room = most.nll * max(0.1, abs(value)) if name == "nll" else allowed.get(name, 0.0)
        alike = math.isnan(value) and math.isnan(found[name])
        if not alike and not abs(found[name] - value) <= room:
            yield f"{what}{name} is {found[name]}, not {value}"


def _bits(told: bytes, found: bytes, examples: int, most: Tolerance) -> Iterator[str]:
    if len(told) != len(found):
        yield f"there are {len(found):,} bytes of correctness bits, not {len(told):,}"
        return
    differing = (int.from_bytes(told, "big") ^ int.from_bytes(found, "big")).bit_count()
    if differing > most.bits * examples:
        yield f"{differing:,} of {examples:,} test examples are predicted otherwise"


def packed(correct: str | None) -> bytes | None:
    """Correctness bits as they are published, in bytes."""
    return None if correct is None else base64.b64decode(correct)
