"""Protocols: which images are trained on, which epoch is tested, and that the test set is read once, at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cifar_files
import numpy as np
import pytest
import torch
from conftest import CARDS
from torch import Tensor

from npasbench import data as sets
from npasbench.card import Card, Data, Entry, Normalise, read_card
from npasbench.data.corrupted import CORRUPTIONS, FOLDERS
from npasbench.data.dataset import DataSet
from npasbench.data.holdout import held_out
from npasbench.errors import UsageError
from npasbench.leaderboard import other_images
from npasbench.plan import RunSpec, plan_entry
from npasbench.registry import Registry
from npasbench.running.certify import certify, load_trained
from npasbench.running.execute import Surroundings, execute
from npasbench.running.record import CorruptedResult, HeldOut, Record, as_json, parse
from npasbench.running.record_checks import check_record
from npasbench.running.repeating import TRAINED, compared
from npasbench.running.rundir import RunDirectory
from npasbench.running.watch import Stopped
from npasbench.training.evaluate import predict

CPU = torch.device("cpu")
EPOCHS = 4
DIGITS = Data(set="digits", train_per_class=15, protocol="full-last", shift=1)


def card_file(folder: Path, protocol: str, epochs: int = EPOCHS) -> Path:
    text = (CARDS / "digits15-wrn-10-1.toml").read_text(encoding="utf-8")
    path = folder / f"{protocol}.toml"
    path.write_text(
        text.replace('protocol = "full-last"', f'protocol = "{protocol}"')
        .replace("epochs = 60", f"epochs = {epochs}")
        .replace('name = "digits15-wrn-10-1"', f'name = "{protocol}"'),
        encoding="utf-8",
    )
    return path


def planned(
    folder: Path, protocol: str, method: str = "roast", plugins: tuple[str, ...] = (), budget: str = "0.1", **knobs: Any
) -> RunSpec:
    entry = Entry(label=method, method=method, set=knobs)
    path = str(card_file(folder, protocol))
    (spec,) = plan_entry(path, entry, Registry(plugins), budgets=[budget], seeds=[0])
    return spec


def do(spec: RunSpec, root: Path, should_stop: Callable[[], bool] = lambda: False) -> Record:
    directory = RunDirectory.of(root, spec)
    directory.create(spec)
    around = Surroundings(CPU, should_stop=should_stop, certify=lambda d: certify(d, CPU))
    record = execute(directory, spec, AnyLease(), around)  # type: ignore[arg-type]
    assert record is not None
    return record


class AnyLease:
    def check(self) -> None:
        """Held."""


def rows(root: Path, spec: RunSpec) -> list[dict[str, Any]]:
    return RunDirectory.of(root, spec).epochs()


def under(protocol: str, seed: int = 0) -> DataSet:
    return sets.load(DIGITS.model_copy(update={"protocol": protocol}), seed=seed)


def right_on(number: int) -> Tensor:
    """Logits that are right on the first so many held-out images, and wrong on all others."""
    labels = under("holdout-best").held_labels
    assert labels is not None
    told = (labels + 1) % 10
    told[:number] = labels[:number]
    return torch.nn.functional.one_hot(told, 10).float()


# The split


def test_a_tenth_is_held_out_by_the_seed_alone():
    assert int(held_out(50_000, 0).sum()) == 5_000
    assert torch.equal(held_out(50_000, 3), held_out(50_000, 3))
    assert not torch.equal(held_out(50_000, 3), held_out(50_000, 4))
    assert [int(held_out(n, 0).sum()) for n in (2, 9, 19, 20)] == [1, 1, 1, 2]


def test_each_seed_holds_out_other_images_of_a_set():
    labels = torch.arange(100) % 10
    data = DataSet("one", torch.arange(100.0).view(100, 1, 1, 1), labels, torch.zeros(1, 1, 1, 1), labels[:1], 10)
    for protocol in ("holdout-best", "holdout-last", "tune"):
        left = [set(data.under(protocol, seed).train_inputs.flatten().tolist()) for seed in (0, 0, 1)]
        if protocol == "holdout-last":
            assert left == [set(range(100))] * 3
        else:
            assert left[0] == left[1] != left[2]


def test_the_split_is_a_plain_draw_not_the_same_number_of_each_class():
    labels = torch.arange(1000) % 10
    assert len(set(labels[held_out(1000, 0)].bincount(minlength=10).tolist())) > 1


def test_of_one_example_none_can_be_held_out():
    with pytest.raises(UsageError, match="none can be held out; use the protocol 'full-last'"):
        held_out(1, 0)


def test_full_last_and_holdout_last_train_on_every_image_and_hold_none_out():
    for protocol in ("full-last", "holdout-last"):
        data = under(protocol)
        assert len(data.train_labels) == 150
        assert data.held_labels is None
        assert list(data.held(10)) == []


def test_holdout_best_trains_on_nine_tenths_and_the_test_set_is_the_others():
    full, best = under("full-last"), under("holdout-best")
    assert best.held_labels is not None
    assert best.held_inputs is not None
    assert (len(best.train_labels), len(best.held_labels)) == (135, 15)
    assert torch.equal(best.test_inputs, full.test_inputs)
    together = torch.cat([best.train_inputs, best.held_inputs]).flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, full.train_inputs.flatten(1).tolist()))
    assert torch.equal(torch.cat(list(best.held(4))), best.held_inputs)


def test_tune_scores_what_holdout_best_holds_out_and_has_no_test_image():
    best, tune = under("holdout-best"), under("tune")
    assert best.held_inputs is not None
    assert torch.equal(tune.train_inputs, best.train_inputs)
    assert torch.equal(tune.test_inputs, best.held_inputs)
    assert tune.held_labels is None


def test_held_out_images_are_normalised_as_test_images_are():
    by = Normalise(mean=(127.5,), std=(51.0,))
    plain = under("holdout-best").held_inputs
    held = sets.load(DIGITS.model_copy(update={"protocol": "holdout-best", "normalise": by}), seed=0).held_inputs
    assert plain is not None
    assert held is not None
    torch.testing.assert_close(held, (plain - 0.5) / 0.2)


def test_held_out_images_of_cifar_are_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cifar_files.accept(monkeypatch, "cifar10", cifar_files.write(tmp_path, "cifar10"))
    data = sets.load(Data(set="cifar10", protocol="holdout-best"), seed=0, root=tmp_path)
    assert data.held_labels is not None
    assert (len(data.train_labels), len(data.held_labels), len(data.test_labels)) == (45, 5, 20)


# The best epoch


Ran = dict[str, tuple[Record, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run under each of three protocols: its record and the rows of its epochs."""
    found = {}
    for protocol in ("full-last", "holdout-best", "tune"):
        folder = tmp_path_factory.mktemp(protocol)
        spec = planned(folder, protocol)
        found[protocol] = (do(spec, folder), rows(folder, spec))
    return found


def test_the_epoch_that_is_best_on_held_out_images_is_tested_the_first_of_equals(ran: Ran):
    record, epochs = ran["holdout-best"]
    held = [row["held_out_accuracy"] for row in epochs]
    assert len(held) == EPOCHS
    assert record.held_out is not None
    assert record.held_out.epoch == held.index(max(held)) + 1
    assert (record.held_out.accuracy, record.held_out.examples) == (max(held), 15)
    assert record.certificate is not None
    assert record.certificate.passed


def test_the_stored_network_is_that_of_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Held-out images are right but for the last epochs: what is stored, tested and certified is an earlier epoch."""
    answers = iter([3, 9, 9, 5])
    looked: list[Tensor] = []

    def predict_as_told(network: Any, *rest: Any) -> Tensor:
        looked.append(network.generator.bank.detach().clone())
        return right_on(next(answers))

    monkeypatch.setattr("npasbench.running.best_epoch.predict", predict_as_told)
    spec = planned(tmp_path, "holdout-best")
    record = do(spec, tmp_path)
    assert record.held_out is not None
    assert (record.held_out.epoch, record.held_out.accuracy) == (2, 9 / 15)
    _, network, _ = load_trained(RunDirectory.of(tmp_path, spec), spec, CPU)
    assert torch.equal(network.generator.bank, looked[1])  # type: ignore[union-attr, arg-type]
    assert not torch.equal(looked[1], looked[3])
    data = under("holdout-best")
    predicted = predict(network, data.test(500), spec.task.recipe, CPU).argmax(1)
    assert record.metrics["accuracy"] == float((predicted == data.test_labels).double().mean())


def test_looking_at_held_out_images_does_not_change_the_training(ran: Ran):
    losses = [[row["loss"] for row in ran[protocol][1]] for protocol in ("tune", "holdout-best")]
    assert losses[0] == losses[1]


def test_under_tune_the_last_epoch_is_scored_on_the_held_out_images(ran: Ran):
    record, _ = ran["tune"]
    assert record.test_examples == 15
    assert record.metrics["accuracy"] == ran["holdout-best"][1][-1]["held_out_accuracy"]
    assert record.held_out is None


class Interrupting:
    """Asks to stop after so many questions, once."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(("method", "knobs"), [("roast", {}), ("magnitude", {"begin": 0.2, "end": 0.5})])
def test_an_interrupted_run_ends_as_one_that_was_not(method: str, knobs: dict[str, Any], tmp_path: Path):
    spec = planned(tmp_path, "holdout-best", method, **knobs)
    whole = do(spec, tmp_path / "whole")
    # 3 steps an epoch: in the middle of the second, at the end of the third, before the last step
    for after in (5, 4, 2):
        with pytest.raises(Stopped):
            do(spec, tmp_path / "parts", Interrupting(after))
    parts = do(spec, tmp_path / "parts")
    assert (parts.metrics, parts.held_out) == (whole.metrics, whole.held_out)
    files = [RunDirectory.of(tmp_path / which, spec).model_file.read_bytes() for which in ("whole", "parts")]
    assert files[0] == files[1]
    held = [[row["held_out_accuracy"] for row in rows(tmp_path / which, spec)] for which in ("whole", "parts")]
    assert held[0] == held[1]


def test_an_epoch_at_which_the_network_is_over_its_budget_cannot_be_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a network that is being pruned: the first epochs are right on every held-out image, and too large."""
    answers = iter([15, 15, 2, 3])

    monkeypatch.setattr("npasbench.running.best_epoch.predict", lambda *_: right_on(next(answers)))
    spec = planned(tmp_path, "holdout-best", "magnitude", begin=0.1, end=0.6)
    record = do(spec, tmp_path)
    assert (record.state, record.held_out and record.held_out.epoch) == ("done", 4)


def test_the_test_images_are_read_once_and_after_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    original = DataSet.test

    def noted(self: DataSet, *how: Any) -> Any:
        read.append(len(rows(tmp_path, spec)))
        return original(self, *how)

    monkeypatch.setattr(DataSet, "test", noted)
    spec = planned(tmp_path, "holdout-best")
    directory = RunDirectory.of(tmp_path, spec)
    directory.create(spec)
    execute(directory, spec, AnyLease(), Surroundings(CPU))  # type: ignore[arg-type]
    assert read == [EPOCHS], "once, when every epoch's row was written"


def test_a_record_without_an_epoch_of_its_own_is_written_as_before_and_one_with_it_can_be_read(ran: Ran):
    assert {"held_out", "corrupted"}.isdisjoint(as_json(ran["full-last"][0]))
    best = ran["holdout-best"][0]
    assert parse(json.loads(json.dumps(as_json(best))), "here").held_out == best.held_out


# What a record says of it


def checked(record: Record, card: Card) -> str:
    (found,) = [one for one in check_record(record, None, card, None) if one.name == "other images"] or [None]
    return "nothing to check" if found is None else found.detail or found.outcome


def test_a_record_agrees_with_its_cards_protocol(ran: Ran, tmp_path: Path):
    cards = {protocol: read_card(card_file(tmp_path, protocol)) for protocol in ran}
    assert checked(ran["holdout-best"][0], cards["holdout-best"]) == "agrees"
    assert checked(ran["full-last"][0], cards["full-last"]) == "nothing to check"
    assert checked(ran["tune"][0], cards["tune"]) == "nothing to check"


@pytest.mark.parametrize(
    ("protocol", "held", "said"),
    [
        ("holdout-best", None, "the record names no epoch"),
        ("full-last", HeldOut(epoch=1, examples=15, accuracy=1.0), "the card's protocol is full-last"),
        ("holdout-best", HeldOut(epoch=5, examples=15, accuracy=1.0), "epoch 5 was tested of 4"),
        ("holdout-best", HeldOut(epoch=4, examples=15, accuracy=0.5), "no whole number of 15"),
    ],
)
def test_a_held_out_epoch_that_cannot_be_is_told(
    protocol: str, held: HeldOut | None, said: str, ran: Ran, tmp_path: Path
):
    record = ran[protocol][0].model_copy(update={"held_out": held})
    assert said in checked(record, read_card(card_file(tmp_path, protocol)))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (CorruptedResult(metrics={"nll": 2.0}, corruptions={"fog": {"nll": 1.0}, "snow": {"nll": 3.0}}), "agrees"),
        (CorruptedResult(absent="it is not there"), "agrees"),
        (None, "asks for corrupted images"),
        (CorruptedResult(), "neither figures nor why"),
        (CorruptedResult(metrics={"nll": 2.5}, corruptions={"fog": {"nll": 2.0}}), "not the mean of 1"),
        (CorruptedResult(metrics={"nll": 2.5}), "a mean and its parts go together"),
        (CorruptedResult(metrics={"ece": 2.0}, corruptions={"fog": {"ece": 2.0}}), "not between 0 and 1"),
    ],
)
def test_corrupted_figures_that_cannot_be_are_told(found: CorruptedResult | None, said: str, ran: Ran, tmp_path: Path):
    card = read_card(card_file(tmp_path, "full-last"))
    asking = card.model_copy(update={"data": card.data.model_copy(update={"corrupted": True})})
    record = ran["full-last"][0].model_copy(
        update={"corrupted": found, "task_fingerprint": asking.fingerprint, "task": asking.name}
    )
    assert said in checked(record, asking)


def test_training_again_must_find_the_same_epoch_and_the_same_corrupted_figures(ran: Ran):
    best = ran["holdout-best"][0]
    assert best.held_out is not None
    tested = best.model_copy(
        update={"corrupted": CorruptedResult(metrics={"nll": 2.0}, corruptions={"fog": {"nll": 2.0}})}
    )
    other_epoch = best.held_out.model_copy(update={"epoch": best.held_out.epoch + 1})
    other = CorruptedResult(metrics={"nll": 2.1}, corruptions={"fog": {"nll": 2.1}})

    def again(**changes: Any) -> str:
        check = compared("training", tested, tested.model_copy(update=changes), None, None, TRAINED)
        return f"{check.outcome}: {check.detail}"

    assert again().startswith("agrees: exactly")
    assert "is the best on held-out images, not" in again(held_out=other_epoch)
    assert "corrupted, fog: nll is 2.1, not 2.0" in again(corrupted=other)
    assert again(corrupted=CorruptedResult(absent="not there")).startswith("agrees")


def test_a_runs_page_tells_which_epoch_was_tested_and_what_corruption_does(ran: Ran):
    best = ran["holdout-best"][0]
    assert best.held_out is not None
    told = {fact.name: fact.value for fact in other_images.held_out(best)}
    assert told["Tested epoch"] == str(best.held_out.epoch)
    found = CorruptedResult(metrics={"accuracy": 0.5}, corruptions={"motion_blur": {"accuracy": 0.5}})
    facts = list(other_images.corrupted(best.model_copy(update={"corrupted": found})))
    assert [(fact.name, fact.value) for fact in facts] == [("Accuracy, mean", "50.00 %"), ("motion blur", "50.00 %")]
    absent = best.model_copy(update={"corrupted": CorruptedResult(absent="it is not there")})
    assert [fact.value for fact in other_images.corrupted(absent)] == ["it is not there"]
    assert [*other_images.corrupted(best), *other_images.held_out(ran["tune"][0])] == []


# Corrupted test images


@pytest.fixture
def corrupted_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """A run on small CIFAR-10 files below ``tmp_path``, with corrupted images asked for."""
    cifar_files.accept(monkeypatch, "cifar10", cifar_files.write(tmp_path, "cifar10"))
    content = Registry().card("digits15-wrn-10-1").model_dump(mode="json", by_alias=True)
    content |= {"name": "small-cifar", "seeds": [0, 1, 2]}
    content["data"] = {"set": "cifar10", "protocol": "full-last", "corrupted": True}
    content["recipe"] |= {"epochs": 1, "batch_size": 25}
    card = Card.model_validate(content)
    entry, path = Entry(label="roast", method="roast"), str(written(tmp_path, card))
    (spec,) = plan_entry(path, entry, Registry(), budgets=["0.1"], seeds=[0])
    return spec


def written(folder: Path, card: Card) -> Path:
    """A card as a TOML file."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{key} = {value(v)}" for key, v in one.items() if v is not None) + "}"
        return json.dumps(one)

    path = folder / f"{card.name}.toml"
    content = card.model_dump(mode="json", by_alias=True)
    path.write_text("\n".join(f"{key} = {value(one)}" for key, one in content.items()), encoding="utf-8")
    assert read_card(path) == card
    return path


def write_corrupted(root: Path, examples: int = 20) -> None:
    """Random images in the published layout; labels repeat for every severity."""
    rng = np.random.default_rng(0)
    folder = root / FOLDERS["cifar10"]
    folder.mkdir()
    labels = sets.load(Data(set="cifar10", protocol="full-last"), seed=0, root=root).test_labels
    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5).astype(np.uint8))
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (5 * examples, 32, 32, 3), dtype=np.uint8))


def run_on_cifar(spec: RunSpec, root: Path) -> Record:
    directory = RunDirectory.of(root / "runs", spec)
    directory.create(spec)
    record = execute(directory, spec, AnyLease(), Surroundings(CPU, data_root=root))  # type: ignore[arg-type]
    assert record is not None
    return record


def test_corrupted_images_are_tested_after_the_test_set_and_recorded_for_each_corruption(
    corrupted_card: RunSpec, tmp_path: Path
):
    write_corrupted(tmp_path)
    record = run_on_cifar(corrupted_card, tmp_path)
    found = record.corrupted
    assert found is not None
    assert (found.absent, found.test_examples, set(found.corruptions)) == ("", 20, set(CORRUPTIONS))
    assert set(found.metrics) == set(corrupted_card.task.metrics)
    mean = sum(one["accuracy"] for one in found.corruptions.values()) / len(CORRUPTIONS)
    assert found.metrics["accuracy"] == pytest.approx(mean)
    directory = RunDirectory.of(tmp_path / "runs", corrupted_card)
    _, network, _ = load_trained(directory, corrupted_card, CPU)
    pixels = np.load(tmp_path / FOLDERS["cifar10"] / "fog.npy")
    labels = torch.tensor(np.load(tmp_path / FOLDERS["cifar10"] / "labels.npy")).long()
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    right = predict(network, [images], corrupted_card.task.recipe, CPU).argmax(1) == labels
    assert found.corruptions["fog"]["accuracy"] == pytest.approx(float(right.double().mean()))
    assert parse(json.loads(json.dumps(as_json(record))), "here").corrupted == found


def test_corrupted_images_that_are_absent_are_recorded_so_and_fail_nothing(corrupted_card: RunSpec, tmp_path: Path):
    record = run_on_cifar(corrupted_card, tmp_path)
    assert record.state == "done"
    assert record.corrupted is not None
    assert record.corrupted.metrics == {}
    assert f"There are no corrupted test images in {tmp_path / 'CIFAR-10-C'}" in record.corrupted.absent
    assert "Unpack https://zenodo.org/" in record.corrupted.absent


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("fog.npy", None, "fog.npy is missing"),
        ("fog.npy", b"\x93NUMPY", "fog.npy cannot be read"),
        ("labels.npy", np.zeros(99, np.uint8), "does not hold as many whole numbers for each of 5 severities"),
        ("labels.npy", np.zeros(0, np.uint8), "does not hold as many whole numbers"),
        ("labels.npy", np.uint8(3), "does not hold as many whole numbers"),
        ("labels.npy", np.zeros(100), "does not hold as many whole numbers"),
        ("labels.npy", np.full(100, 10, np.uint8), "labels.npy holds 10 to 10, and there are 10 classes"),
        ("labels.npy", np.full(100, -1), "labels.npy holds -1 to -1, and there are 10 classes"),
        ("labels.npy", np.zeros(100, np.uint8), "does not hold the 20 test labels, in their order, for each severity"),
        ("snow.npy", np.zeros((100, 32, 32, 3), np.float32), "snow does not hold as many images"),
    ],
)
def test_a_damaged_corrupted_set_is_recorded_with_what_is_wrong(
    file: str, content: Any, said: str, corrupted_card: RunSpec, tmp_path: Path
):
    from npasbench.running.corruptions import tested_on_corrupted

    write_corrupted(tmp_path)
    path = tmp_path / FOLDERS["cifar10"] / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    network = torch.nn.Flatten()
    labels = sets.load(corrupted_card.task.data, seed=0, root=tmp_path).test_labels
    assert said in tested_on_corrupted(network, corrupted_card.task, CPU, tmp_path, labels).absent


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"set": "digits"}, "only of cifar10, cifar100"),
        ({"set": "cifar10", "protocol": "tune"}, "reads no test images"),
    ],
)
def test_corrupted_images_are_refused_where_there_are_none(wrong: dict[str, Any], said: str, tmp_path: Path):
    asked = DIGITS.model_copy(update={**wrong, "train_per_class": None, "corrupted": True})
    with pytest.raises(UsageError, match=said):
        sets.check(asked, tmp_path)


def test_a_dataset_can_be_replaced_without_losing_what_it_holds_out():
    best = under("holdout-best")
    assert replace(best, name="other").held_labels is best.held_labels
