"""CIFAR from a data root: read as published, told in a sentence where it is missing or damaged, not needed to plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cifar_files
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import CARDS
from torchvision import datasets, transforms

from npasbench import data as sets
from npasbench.budget import resolve
from npasbench.card import Data, Normalise
from npasbench.cli import npasbench
from npasbench.commands.planning import plan_runs
from npasbench.commands.working import check_data
from npasbench.data.batches import Batches
from npasbench.errors import DataError, NpasbenchError, UsageError
from npasbench.plan import dense_parameters
from npasbench.registry import Registry
from npasbench.running.rundir import RunDirectory

CPU = torch.device("cpu")
FIGURES = {
    "cifar10": Normalise(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
    "cifar100": Normalise(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)),
}
TASKS = ["cifar100-multi-depth-width", "cifar100-multi-width"]
PUBLISHED = [f"{task}-published" for task in TASKS]


def asked(name: str = "cifar100", **settings: object) -> Data:
    plain = Data(set=name, protocol="full-last", shift=4, flip=True, normalise=FIGURES[name], cutout=16)
    return plain.model_copy(update=settings)


@pytest.fixture(params=sorted(FIGURES))
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small set under ``tmp_path``: its name."""
    name: str = request.param
    cifar_files.accept(monkeypatch, name, cifar_files.write(tmp_path, name))
    return name


def call(*words: str) -> tuple[int, str]:
    """One command in this process: exit code and everything it said."""
    try:
        result = CliRunner().invoke(npasbench, list(words), standalone_mode=False, catch_exceptions=False)
    except NpasbenchError as error:
        return error.exit_code, str(error)
    return result.exit_code, result.output


# Reading


def test_all_training_images_are_trained_on_and_the_sets_own_test_images_tested(small: str, tmp_path: Path):
    data, classes = sets.load(asked(small), seed=0, root=tmp_path), cifar_files.CLASSES[small]
    assert data.train_inputs.shape == (cifar_files.TRAIN_A_CLASS * classes, 3, 32, 32)
    assert data.test_inputs.shape == (cifar_files.TEST_A_CLASS * classes, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [cifar_files.TRAIN_A_CLASS] * classes
    assert data.test_labels.bincount().tolist() == [cifar_files.TEST_A_CLASS] * classes
    assert (data.train_inputs.dtype, data.train_labels.dtype) == (torch.float32, torch.int64)
    assert data.train_inputs.is_contiguous()
    assert sets.describe(asked(small)) == (data.classes, data.input_shape)


def test_images_labels_and_normalisation_are_torchvisions(small: str, tmp_path: Path):
    data, by = sets.load(asked(small), seed=0, root=tmp_path), FIGURES[small]
    normalise = transforms.Normalize([m / 255 for m in by.mean], [s / 255 for s in by.std])
    how = transforms.Compose([transforms.ToTensor(), normalise])
    for train, inputs, labels in (
        (True, data.train_inputs, data.train_labels),
        (False, data.test_inputs, data.test_labels),
    ):
        theirs = getattr(datasets, small.upper())(tmp_path, train=train, transform=how)
        assert torch.equal(torch.stack([image for image, _ in theirs]), inputs)
        assert [label for _, label in theirs] == labels.tolist()


def test_without_normalise_pixels_go_from_zero_to_one(small: str, tmp_path: Path):
    data = sets.load(asked(small, normalise=None), seed=0, root=tmp_path)
    assert (float(data.train_inputs.min()), float(data.train_inputs.max())) == (0, 1)


def test_the_seed_draws_a_few_images_of_each_class_and_the_test_images_stay(small: str, tmp_path: Path):
    few = asked(small, train_per_class=3)
    one, again, other = (sets.load(few, seed=seed, root=tmp_path) for seed in (0, 0, 1))
    assert one.train_labels.bincount().tolist() == [3] * cifar_files.CLASSES[small]
    assert torch.equal(one.train_inputs, again.train_inputs)
    assert not torch.equal(one.train_inputs, other.train_inputs)
    assert torch.equal(one.test_inputs, sets.load(asked(small), seed=0, root=tmp_path).test_inputs)
    with pytest.raises(
        UsageError, match=r"train_per_class is 6, but class 'class 0' has only 5 training images\. Give at"
    ):
        sets.load(asked(small, train_per_class=6), seed=0, root=tmp_path)


@pytest.mark.parametrize(("name", "most"), [("cifar10", 5000), ("cifar100", 500)])
def test_more_images_of_a_class_than_are_published_are_refused_without_them(name: str, most: int, tmp_path: Path):
    sets.describe(asked(name, train_per_class=most), tmp_path)
    for look in (sets.describe, sets.check):
        with pytest.raises(UsageError, match=f"but each class of '{name}' has {most:,} training images. Give at most"):
            look(asked(name, train_per_class=most + 1), tmp_path)


def test_augmented_batches_are_pure_functions_of_seed_epoch_and_step(small: str, tmp_path: Path):
    data = sets.load(asked(small), seed=0, root=tmp_path)
    whole = list(Batches(data, asked(small), 16, 3, CPU).epoch(4))
    torch.rand(1)  # the global generator has no say
    rest = list(Batches(data, asked(small), 16, 3, CPU).epoch(4, start_step=2))
    assert [torch.equal(one.inputs, left.inputs) for one, left in zip(whole[2:], rest, strict=True)] == [True] * len(
        rest
    )


def test_what_moves_in_is_black_and_what_is_cut_out_is_zero(small: str, tmp_path: Path):
    given = asked(small)
    data = sets.load(given, seed=0, root=tmp_path)
    black = -torch.tensor(FIGURES[small].mean) / torch.tensor(FIGURES[small].std)
    for batch in Batches(data, given, 16, 0, CPU).epoch(0):
        zeros = (batch.inputs == 0).all(1).sum((1, 2))  # no pixel is that by itself
        assert ((zeros >= 8 * 8) & (zeros <= 16 * 16)).all()
    shifted = next(Batches(data, asked(small, cutout=0), 16, 0, CPU).epoch(0)).inputs
    edges = shifted[:, :, [0, -1]].transpose(1, 3).reshape(-1, 3)
    assert torch.isclose(edges, black, atol=1e-5).all(1).float().mean() > 0.2


# Where it is not, or is damaged


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]),
        ("cifar100", ["train", "test", "meta"]),
    ],
)
def test_a_set_that_is_not_there_is_told_with_where_what_and_how(name: str, files: list[str], tmp_path: Path):
    with pytest.raises(DataError) as caught:
        sets.load(asked(name), seed=0, root=tmp_path)
    said, folder = str(caught.value), cifar_files.FOLDER[name]
    assert f"There is no {name.upper()} in {tmp_path}: expected are" in said
    assert all(f"{folder}/{file}" in said for file in files)
    assert "none of them is there" in said
    assert "--data-root or NPASBENCH_DATA" in said
    assert f"unpack https://www.cs.toronto.edu/~kriz/{name[:5]}-{name[5:]}-python.tar.gz in {tmp_path}" in said
    line = said.partition('python -c "')[2].rstrip('"')
    compile(line, "what the sentence says", "exec")
    assert f"{name.upper()}('{tmp_path}', download=True)" in line


def test_one_missing_file_is_named(small: str, tmp_path: Path):
    meta = getattr(datasets, small.upper()).meta["filename"]
    (tmp_path / cifar_files.FOLDER[small] / meta).unlink()
    with pytest.raises(DataError, match=f"but {meta} is missing"):
        sets.load(asked(small), seed=0, root=tmp_path)


@pytest.mark.parametrize("which", [0, -2, -1])
def test_a_damaged_file_is_named(small: str, which: int, tmp_path: Path):
    file = sorted((tmp_path / cifar_files.FOLDER[small]).iterdir())[which]
    file.write_bytes(file.read_bytes()[:-1])
    for read in (lambda: sets.load(asked(small), seed=0, root=tmp_path), lambda: sets.check(asked(small), tmp_path)):
        with pytest.raises(DataError, match="the MD5 sum is not that of the published file") as caught:
            read()
        assert str(caught.value).startswith(f"{file}: ")


def test_files_that_nobody_vouches_for_are_not_read(tmp_path: Path):
    cifar_files.write(tmp_path)
    with pytest.raises(DataError, match="the MD5 sum is not that of the published file"):
        sets.load(asked(), seed=0, root=tmp_path)


def test_the_data_root_is_the_option_else_the_variable_else_the_folder_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NPASBENCH_DATA", raising=False)
    words = ["run", TASKS[1], "--method", "roast", "--budget", "0.25", "--seeds", "0", "--device", "cpu"]
    assert f"in {tmp_path / 'data'}: expected are" in call(*words)[1]
    monkeypatch.setenv("NPASBENCH_DATA", str(tmp_path / "elsewhere"))
    assert f"in {tmp_path / 'elsewhere'}: expected are" in call(*words)[1]
    code, said = call(*words, "--data-root", "given")
    assert (code, f"in {tmp_path / 'given'}: expected are" in said) == (1, True)
    assert not Path("runs").exists(), "nothing is begun without data"


def test_check_and_retry_ask_for_the_data_before_anything_else(tmp_path: Path):
    code, said = call("check", "roast", "--task", TASKS[1], "--data-root", str(tmp_path))
    assert (code, f"There is no CIFAR100 in {tmp_path}" in said) == (1, True)
    (spec,) = plan_runs(TASKS[1], "roast", None, {}, ["0.25"], [0], [])
    directory = RunDirectory.of(tmp_path / "runs", spec)
    directory.create(spec)
    directory.fail("the disk was gone", "")
    code, said = call("retry", str(tmp_path / "runs"), "--device", "cpu", "--data-root", str(tmp_path))
    assert (code, f"There is no CIFAR100 in {tmp_path}" in said) == (1, True)
    assert directory.state() == "failed", "it can be retried once the data are there"


def test_all_sets_that_are_missing_are_named_at_once(tmp_path: Path):
    specs = [plan_runs(task, "roast", None, {}, ["0.25"], [0], [])[0] for task in ("cifar10-wrn-28-10", *TASKS[:2])]
    with pytest.raises(DataError) as caught:
        check_data(specs, tmp_path)
    assert [str(caught.value).count(f"There is no {name} in") for name in ("CIFAR10", "CIFAR100")] == [1, 1]


# The tasks


@pytest.mark.parametrize("name", [*TASKS, *PUBLISHED])
def test_a_card_trains_by_the_releases_recipe(name: str):
    card = Registry().card(name)
    assert card.data == asked(protocol="full-last" if name in PUBLISHED else "holdout-last")
    recipe = card.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.schedule.at, recipe.schedule.factor) == (
        200,
        128,
        (60, 120, 160),
        0.2,
    )
    one = recipe.optimizer
    assert (one.name, one.lr, one.momentum, one.nesterov, one.weight_decay) == ("sgd", 0.1, 0.9, True, 5e-4)
    assert (recipe.precision, recipe.label_smoothing) == ("float32", 0)
    assert card.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar100-multi-depth-width", [8_751_636, 17_503_272, 35_006_544]),
        ("cifar100-multi-width", [6_777_383, 13_554_766, 27_109_532]),
        ("cifar100-multi-depth-width-published", [18_000_000]),
        ("cifar100-multi-width-published", [18_000_000]),
    ],
)
def test_a_cards_budgets_are_these_counts(name: str, counts: list[int]):
    card = Registry().card(name)
    assert card.accounting == ("bank" if name in PUBLISHED else "total")
    dense = dense_parameters(card)
    assert [resolve(budget, dense, card.accounting).parameters for budget in card.budgets] == counts


@pytest.mark.parametrize("name", [*TASKS, *PUBLISHED])
def test_planning_and_showing_need_no_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NPASBENCH_DATA", str(tmp_path / "nowhere"))
    assert name in call("list", "tasks")[1]
    assert call("show", name)[0] == 0
    code, said = call("plan", name, "--method", "superweight", "--seeds", "0", "--runs", str(tmp_path), "--json")
    assert (code, json.loads(said)["runs"]) == (0, len(Registry().card(name).budgets))


# From end to end


def one_epoch(folder: Path) -> Path:
    """A shipped card, with one small network and one epoch."""
    text = (CARDS / f"{TASKS[1]}.toml").read_text(encoding="utf-8")
    text = text.replace('"wrn-28-7", "wrn-28-4", "wrn-28-3"', '"wrn-10-1"').replace("epochs = 200", "epochs = 1")
    path = folder / f"{TASKS[1]}.toml"
    path.write_text(text, encoding="utf-8")
    assert Registry().card(str(path)).members == ("wrn-10-1",)
    return path


@pytest.mark.slow
def test_workers_and_certifiers_read_the_set_under_the_data_root(tmp_path: Path):
    plugin = tmp_path / "small_files.py"
    plugin.write_text(cifar_files.PLUGIN.format(sums=cifar_files.write(tmp_path / "sets")))
    words = ["run", str(one_epoch(tmp_path)), "--method", "small-files", "--plugin", str(plugin), "--device", "cpu"]
    words += ["--budget", "0.5", "--seeds", "0", "--data-root", "sets"]
    done = subprocess.run(
        [sys.executable, "-m", "npasbench", *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(tmp_path.glob("runs/*/*/*/seed0-*"))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert (result["state"], result["test_examples"]) == ("done", 100 * cifar_files.TEST_A_CLASS)
    assert result["certificate"]["passed"], result["certificate"]["detail"]
    assert len(np.load(folder / "correct.npy")) == 100 * cifar_files.TEST_A_CLASS // 8
    assert result["task_fingerprint"] == Registry().card(str(tmp_path / f"{TASKS[1]}.toml")).fingerprint
