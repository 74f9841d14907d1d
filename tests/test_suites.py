"""Suites and cards: networks have their stated sizes, entries can be made, every method is run by the smoke suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from conftest import CARDS

from npasbench.budget import resolve
from npasbench.card import Card, Suite, read_card
from npasbench.commands.planning import plan_runs
from npasbench.errors import UsageError
from npasbench.plan import dense_parameters
from npasbench.registry import Registry

SUITES = sorted(path.stem for path in CARDS.glob("suites/*.toml"))
OWN = {
    name: {one.name for one in entry_points(group=f"npasbench.{name}") if one.value.startswith("npasbench.")}
    for name in ("methods", "addons")
}

# /work/shared/tasks.md, "Networks, exactly", counted as the card counts; of torchvision and timm what their own documentation says.
DENSE = {
    "cifar10-wrn-28-10": 36_479_194,
    "cifar100-wrn-28-10": 36_536_884,
    "cifar100-wrn-16-4": 2_772_020,
    "cifar100-wrn-28-4": 5_872_180,
    "cifar100-wrn-40-2": 2_255_156,
    "cifar100-wrn-28-10-x4": 4 * 36_536_884,
    "cifar10-wrn-28-10-published": 36_461_232,
    "cifar100-wrn-28-10-published": 36_518_832,  # the release's 1x
    "imagenet-resnet50": 25_557_032,
    "imagenet-wrn50-2": 68_883_240,
    "imagenet-efficientnet-b0": 5_288_548,
    "imagenet-deit-small": 22_050_664,
}
BUDGETS = {
    "cifar10-wrn-28-10": ["0.01", "0.02", "0.05", "0.1", "0.25", "0.5", "1", "2", "4"],
    "cifar100-wrn-28-10": ["0.01", "0.02", "0.05", "0.1", "0.25", "0.5", "1", "2", "4"],
    **{f"cifar100-wrn-{name}": ["0.05", "0.1", "0.25", "0.5", "1", "2"] for name in ("16-4", "28-4", "40-2")},
    "cifar100-wrn-28-10-x4": ["0.25", "0.5", "1"],
    "imagenet-resnet50": ["0.05", "0.1", "0.25", "0.5", "1", "2"],
    "imagenet-wrn50-2": ["0.05", "0.1", "0.25", "0.5", "1", "2"],
    "imagenet-efficientnet-b0": ["0.25", "0.5", "1", "2"],
    "imagenet-deit-small": ["0.25", "0.5", "1", "2"],
}
CIFAR = [name for name in DENSE if name.startswith("cifar")]
IMAGENET = [name for name in DENSE if name.startswith("imagenet")]


def suite_of(name: str) -> Suite:
    suite = Registry().suite_or_card(name)
    assert isinstance(suite, Suite)
    return suite


# Cards


@pytest.mark.parametrize("name", sorted(DENSE))
def test_the_dense_network_of_a_card_has_the_stated_size(name: str):
    assert dense_parameters(Registry().card(name)) == DENSE[name]


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_a_card_has_the_stated_budgets(name: str):
    assert list(Registry().card(name).budgets) == BUDGETS[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in CARDS.glob("*.toml")))
def test_every_card_states_what_it_needs_as_a_machine_can_give_it(name: str):
    card = Registry().card(name)
    assert len(card.seeds) >= 3
    if card.data.set != "digits":
        assert card.needs.gpus >= 1
        assert card.needs.time >= 60


@pytest.mark.parametrize("name", CIFAR)
def test_a_cifar_card_trains_by_the_documented_recipe(name: str):
    card = Registry().card(name)
    recipe, optimizer, data = card.recipe, card.recipe.optimizer, card.data
    assert (recipe.epochs, recipe.batch_size, recipe.label_smoothing) == (200, 128, 0)
    assert (recipe.schedule.name, recipe.schedule.at, recipe.schedule.factor) == ("steps", (60, 120, 160), 0.2)
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.1, 0.9, True)
    assert optimizer.weight_decay == 5e-4
    assert (data.shift, data.flip, data.cutout) == (4, True, 16)
    figures = {
        "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
        "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    }
    assert data.normalise is not None
    assert (data.normalise.mean, data.normalise.std) == figures[data.set]


@pytest.mark.parametrize("name", IMAGENET)
def test_an_imagenet_card_trains_by_the_documented_recipe(name: str):
    card = Registry().card(name)
    recipe, optimizer, data = card.recipe, card.recipe.optimizer, card.data
    assert (recipe.epochs, recipe.batch_size, recipe.label_smoothing) == (90, 256, 0.1)
    if name == "imagenet-deit-small":
        assert (optimizer.name, recipe.schedule.name, recipe.schedule.warmup) == ("adamw", "cosine", 5)
    else:
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.1, 0.9, False)
        assert optimizer.weight_decay == 1e-4
        assert (recipe.schedule.at, recipe.schedule.factor, recipe.schedule.warmup) == ((30, 60, 80), 0.1, 5)
    assert (data.image_size, data.resize, data.crop, data.flip) == (224, 256, "random-resized", True)
    assert card.metrics == ("accuracy", "top5", "nll", "ece")


def test_published_configurations_keep_the_releases_split_and_count_and_all_others_the_suites_own_rule():
    registry = Registry()
    protocols = {name: registry.card(name).data.protocol for name in [*CIFAR, *IMAGENET]}
    published = {name for name in protocols if name.endswith("-published")}
    assert {protocols[name] for name in published} == {"holdout-best"}
    assert {protocols[name] for name in set(protocols) - published} == {"holdout-last"}
    assert {registry.card(name).accounting for name in published} == {"bank"}
    multi = {name: registry.card(name) for name in registry.names(Card) if name.startswith("cifar100-multi")}
    assert {name: (card.data.protocol, card.accounting) for name, card in multi.items()} == {
        name: ("full-last", "bank") if name.endswith("-published") else ("holdout-last", "total") for name in multi
    }


def test_the_ensemble_of_four_and_no_other_task_asks_for_corrupted_images():
    registry = Registry()
    asking = [name for name in registry.names(Card) if registry.card(name).data.corrupted]
    assert asking == ["cifar100-wrn-28-10-x4"]


def test_the_published_bank_is_as_large_as_the_largest_layer():
    with torch.device("meta"):
        from npasbench.networks import architecture

        network = architecture("wrn-28-10", classes=100, input_shape=(3, 32, 32)).create()
    largest = max(parameter.numel() for parameter in network.parameters())
    assert Registry().card("cifar100-wrn-28-10-published").budgets[0] == str(largest)


# Suites


@pytest.mark.parametrize("name", SUITES)
def test_every_entry_of_a_suite_is_planned_on_every_task_without_its_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NPASBENCH_DATA", raising=False)
    suite = suite_of(name)
    specs = plan_runs(name, None, None, {}, [], [0], [])
    assert {(spec.task.name, spec.label) for spec in specs} == {
        (Registry().card(task).name, entry.label) for task in suite.tasks for entry in suite.entry
    }
    for spec in specs:
        assert resolve(spec.budget, spec.dense_parameters, spec.task.accounting).parameters == spec.budget_parameters


def test_a_label_means_the_same_in_every_suite_that_uses_it_on_a_task():
    """Runs lie in folders by task and label: two settings under one would be one row of a table."""
    meant: dict[tuple[str, str], set[str]] = {}
    for name in SUITES:
        suite = suite_of(name)
        for task in suite.tasks:
            for entry in suite.entry:
                content = entry.model_dump(mode="json", exclude={"label"})
                meant.setdefault((task, entry.label), set()).add(json.dumps(content, sort_keys=True))
    assert [key for key, several in meant.items() if len(several) > 1] == []


def test_every_card_is_in_a_suite():
    in_suites = {task for name in SUITES for task in suite_of(name).tasks}
    assert set(Registry().names(Card)) - in_suites == set()


def test_ensembles_of_published_configurations_are_asked_for_where_the_card_is_one():
    registry = Registry()
    asked = {
        name: {entry.label for entry in suite_of(name).entry} for name in ("cifar-papers", "cifar-papers-ensembles")
    }
    assert asked["cifar-papers-ensembles"] - asked["cifar-papers"] == {"deep-ensemble"}
    sizes = {name: {len(registry.card(task).members) > 1 for task in suite_of(name).tasks} for name in asked}
    assert sizes == {"cifar-papers": {False}, "cifar-papers-ensembles": {True}}


def test_the_control_is_in_every_suite_that_ranks():
    assert [name for name in SUITES if "narrow" not in {entry.method for entry in suite_of(name).entry}] == []


def test_every_method_and_every_add_on_is_in_the_smoke_suite():
    entries = suite_of("smoke").entry
    assert OWN["methods"] - {entry.method for entry in entries} == set()
    assert OWN["addons"] - {word.partition(":")[0] for entry in entries for word in entry.with_} == set()


def test_every_method_is_in_the_suites_of_digits():
    entries = [*suite_of("digits15").entry, *suite_of("ensembles").entry]
    assert OWN["methods"] - {entry.method for entry in entries} == set()


def test_the_masks_of_rigl_move_several_times_in_the_180_steps_of_a_run_on_digits():
    rigl = next(entry for entry in suite_of("digits15").entry if entry.method == "rigl")
    assert rigl.set["every"] * 5 < 0.75 * 180


@pytest.mark.slow
def test_the_smoke_suite_runs_every_method_in_less_than_five_minutes(tmp_path: Path):
    begun = time.monotonic()
    words = [sys.executable, "-m", "npasbench", "run", "smoke", "--runs", str(tmp_path / "runs"), "--workers", "2"]
    done = subprocess.run([*words, "--device", "cpu"], capture_output=True, text=True, check=False, timeout=900)
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/*/result.json")]
    ended = {result["label"] for result in results if result["state"] == "done"}
    assert {entry.label for entry in suite_of("smoke").entry} - ended == set(), "each is done somewhere"
    assert [result["label"] for result in results if result["state"] == "over-budget"] == []
    unfit = [r["label"] for r in results if r["state"] == "done" and not r["certificate"]["passed"]]
    assert unfit == []
    assert not list(tmp_path.glob("runs/*/*/*/*/failure.json"))
    crowded = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1)  # others on this machine
    assert seconds < 300 * crowded


def test_a_folder_task_is_planned_for_any_architecture_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The documented example, for a few images in two classes."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        for label in ("cats", "dogs"):
            folder = tmp_path / "data" / "my-images" / part / label
            folder.mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (40, 30), (80 * k, 60, 60)).save(folder / f"{k}.png")
    source = Path(__file__).resolve().parent.parent / "docs" / "add_a_task.md"
    text = source.read_text(encoding="utf-8")
    block = text.split("# folder-mine.toml\n")[1].split("```")[0]
    (tmp_path / "folder-mine.toml").write_text(block, encoding="utf-8")
    assert read_card(tmp_path / "folder-mine.toml").name == "folder-mine"
    (spec,) = plan_runs("folder-mine.toml", "roast", None, {}, ["0.1"], [0], [])
    assert spec.task.data.classes == 2
    (tmp_path / "five.toml").write_text(block.replace('"ece"', '"top5"'), encoding="utf-8")
    with pytest.raises(UsageError, match="top5 needs five classes, and 'my-images' has 2"):
        plan_runs("five.toml", "roast", None, {}, ["0.1"], [0], [])
