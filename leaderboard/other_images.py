"""What a run's page says of images beside the test set: those held out of training, and corrupted ones."""

from __future__ import annotations

from collections.abc import Iterator

from npasbench.running.record import Record

from . import words
from .tables import Fact


def held_out(record: Record) -> Iterator[Fact]:
    """Which epoch was tested, and why."""
    if record.held_out is None:
        return
    yield Fact("Tested epoch", words.count(record.held_out.epoch))
    yield Fact("Accuracy on held-out images after it", f"{words.percent(record.held_out.accuracy)} %")
    yield Fact("Held-out images", words.count(record.held_out.examples))


def corrupted(record: Record) -> Iterator[Fact]:
    """The mean over corruptions, and the accuracy under each; or why there is none."""
    found = record.corrupted
    if found is None:
        return
    if found.absent:
        yield Fact("Not tested", words.brief(found.absent, 300))
        return
    yield Fact("Accuracy, mean", f"{words.percent(found.metrics.get('accuracy'))} %")
    for name, spelled in (("nll", "NLL, mean, nats"), ("ece", "Calibration error, mean")):
        if name in found.metrics:
            value = found.metrics[name]
            yield Fact(spelled, words.number(value, 3) if name == "nll" else f"{words.percent(value)} %")
    for corruption, metrics in found.corruptions.items():
        yield Fact(words.brief(corruption.replace("_", " ")), f"{words.percent(metrics.get('accuracy'))} %")
