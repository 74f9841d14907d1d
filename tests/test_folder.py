"""Folders of images: what they become, what is wrong with them in a sentence, and their place in a fingerprint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from npasbench import data as sets
from npasbench.building import problem_of
from npasbench.card import Card, Data, Normalise
from npasbench.cli import npasbench
from npasbench.commands.planning import plan_runs
from npasbench.conformance import check_method
from npasbench.data import folder as folders
from npasbench.data import holding
from npasbench.data.batches import Batches
from npasbench.data.decoding import centre, read_rgb
from npasbench.data.files import Files
from npasbench.errors import DataError, NpasbenchError, UsageError
from npasbench.plan import RunSpec
from npasbench.running.rundir import RunDirectory

CPU = torch.device("cpu")
FIGURES = Normalise(mean=(120.0, 110.0, 100.0), std=(60.0, 61.0, 62.0))


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept in the home folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "npasbench"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_files.write(tmp_path / "images")


def asked(**settings: Any) -> Data:
    return Data.model_validate(
        {"set": "folder", "folder": "images", "protocol": "full-last", "image_size": 16, **settings}
    )


def card_of(data: Data) -> Card:
    from npasbench.registry import Registry

    return Registry().card("digits15-wrn-10-1").model_copy(update={"data": data})


def digest(tmp_path: Path) -> str:
    return str(sets.resolved(card_of(asked()), tmp_path).data.digest)


# What it becomes


def test_a_folder_is_read_as_torchvision_reads_it(images: Path, tmp_path: Path):
    (images / "train" / "ant" / "deeper").mkdir()
    image_files.write_kind(images / "train" / "ant" / "deeper", "web.webp")
    (images / "train" / "notes.txt").write_text("no image, and no class")
    (images / "train" / "ant" / "Thumbs.db").write_bytes(b"no image")
    data = sets.load(asked(resize=20), seed=0, root=tmp_path)
    how = v2.Compose([v2.Resize(20), v2.CenterCrop(16), v2.PILToTensor()])
    for part, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("val", data.test_inputs, data.test_labels),
    ):
        theirs = ImageFolder(images / part, transform=how)
        decoded = holding.held(inputs) if isinstance(inputs, Files) else inputs
        assert torch.equal(torch.stack([image for image, _ in theirs]), decoded)
        assert [label for _, label in theirs] == labels.tolist()
    assert (data.classes, data.input_shape) == (3, (3, 16, 16)) == sets.describe(asked(), tmp_path)


@pytest.mark.parametrize("kind", image_files.KINDS)
def test_images_of_every_kind_become_rgb(kind: str, tmp_path: Path):
    path = image_files.write_kind(tmp_path, kind)
    with Image.open(path) as image:
        expected = np.asarray(image) >> 8 if kind == "sixteen.png" else np.asarray(image.convert("RGBA").convert("RGB"))
    read = np.asarray(read_rgb(str(path)))
    assert read.shape == (23, 37, 3)
    assert np.array_equal(read, np.broadcast_to(expected[..., None] if expected.ndim == 2 else expected, read.shape))
    assert len(np.unique(read)) >= (2 if kind == "bits.bmp" else 6), "it is no picture of one colour"
    assert centre(str(path), 16, 20).shape == (3, 16, 16)


def test_small_images_are_enlarged_and_images_of_the_right_size_left_alone(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "right.png")
    assert torch.equal(centre(str(tmp_path / "right.png"), 16, 16), torch.from_numpy(pixels).permute(2, 0, 1))
    Image.fromarray(pixels[:3, :1]).save(tmp_path / "small.png")
    assert centre(str(tmp_path / "small.png"), 16, 20).shape == (3, 16, 16)


def test_normalisation_is_torchvisions(images: Path, tmp_path: Path):
    data = sets.load(asked(normalise=FIGURES), seed=0, root=tmp_path)
    (batch,) = data.test(100)
    normalise = v2.Normalize([m / 255 for m in FIGURES.mean], [s / 255 for s in FIGURES.std])
    assert isinstance(data.test_inputs, Files)
    assert torch.equal(batch, normalise(holding.held(data.test_inputs).float() / 255))  # type: ignore[union-attr]
    assert torch.equal(data.some_to_train(2), normalise(data.train_inputs[:2].float() / 255))  # type: ignore[operator]


def test_the_seed_draws_a_few_images_of_each_class(images: Path, tmp_path: Path):
    one, again, other = (sets.load(asked(train_per_class=2), seed=seed, root=tmp_path) for seed in (0, 0, 1))
    assert one.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(one.some_to_train(6), again.some_to_train(6))
    assert not torch.equal(one.some_to_train(6), other.some_to_train(6))


def test_more_images_of_a_class_than_it_has_are_refused_when_runs_are_planned(images: Path, tmp_path: Path):
    sets.check(asked(train_per_class=4), tmp_path)
    (images / "train" / "bee" / "bee_000.JPEG").unlink()
    said = "train_per_class is 4, but class 'bee' has only 3 training images. Give at most 3."
    for look in (
        lambda: sets.check(asked(train_per_class=4), tmp_path),
        lambda: sets.load(asked(train_per_class=4), seed=0, root=tmp_path),
        lambda: sets.resolved(card_of(asked(train_per_class=4)), tmp_path),
    ):
        with pytest.raises(UsageError) as caught:
            look()
        assert str(caught.value).endswith(said)
    (tmp_path / "mine.toml").write_text(CARD.replace('"folder"\n', '"folder"\ntrain_per_class = 4\n'))
    words = (str(tmp_path / "mine.toml"), "--data-root", str(tmp_path))
    for command in (("plan", "--method", "roast"), ("run", "--method", "roast"), ("show",)):
        assert call(command[0], *words, *command[1:]) == (2, f"Task 'mine': {said}")
    assert call("check", "roast", "--task", *words) == (2, f"Task 'mine': {said}")
    assert call("data", "check", *words) == (1, f"wrong     images: Task 'mine': {said}\n")


def test_images_that_are_held_in_memory_and_images_in_files_give_the_same_batches(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = asked(shift=2, flip=True, cutout=4, normalise=FIGURES, protocol="holdout-best")
    kept = sets.load(given, seed=3, root=tmp_path)
    monkeypatch.setattr(holding, "IN_MEMORY", 0)
    streamed = sets.load(given, seed=3, root=tmp_path)
    assert isinstance(kept.train_inputs, Tensor)
    assert isinstance(streamed.train_inputs, Files)
    assert streamed.input_shape == kept.input_shape
    for one, other in zip(
        Batches(kept, given, 4, 7, CPU).epoch(2), Batches(streamed, given, 4, 7, CPU).epoch(2), strict=True
    ):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
    for which in ("test", "held"):
        assert torch.equal(torch.cat([*getattr(kept, which)(4)]), torch.cat([*getattr(streamed, which)(4)]))


def test_shifted_in_pixels_are_black_and_what_is_cut_out_is_zero(images: Path, tmp_path: Path):
    data = sets.load(asked(), seed=0, root=tmp_path)
    (batch,) = Batches(data, asked(shift=8, normalise=FIGURES), 12, 0, CPU).epoch(0)
    black = -torch.tensor(FIGURES.mean) / torch.tensor(FIGURES.std)
    assert torch.isclose(batch.inputs[:, :, [0, -1]].transpose(1, 3), black, atol=1e-5).all(-1).float().mean() > 0.2
    (batch,) = Batches(data, asked(cutout=8, normalise=FIGURES), 12, 0, CPU).epoch(0)
    assert ((batch.inputs == 0).all(1).sum((1, 2)) >= 4 * 4).all()


# What is wrong with it


def test_a_damaged_image_is_named(images: Path, tmp_path: Path):
    victim = images / "train" / "bee" / "bee_002.JPEG"
    whole = victim.read_bytes()
    for content, why in (
        (whole[: len(whole) // 2], "truncated"),
        (b"no image at all", "Pillow does not know its format"),
        (b"", "Pillow does not know its format"),
    ):
        victim.write_bytes(content)
        with pytest.raises(DataError) as caught:
            sets.load(asked(), seed=0, root=tmp_path)
        assert str(caught.value).startswith(f"{victim} cannot be read as an image: ")
        assert why in str(caught.value)
        assert "that makes another task: start the 'run' command again." in str(caught.value)


def test_a_test_image_is_decoded_when_it_is_asked_for_and_never_under_tune(images: Path, tmp_path: Path):
    victim = images / "val" / "bee" / "bee_001.JPEG"
    victim.write_bytes(b"no image at all")
    tuned = sets.load(asked(protocol="tune"), seed=0, root=tmp_path)
    assert [len(part) for part in tuned.test(100)] == [1]
    for crop in ("centre", "random-resized"):
        best = sets.load(asked(protocol="holdout-best", crop=crop), seed=0, root=tmp_path)
        assert [len(part) for part in best.held(100)] == [1]
        with pytest.raises(DataError, match=r"bee_001\.JPEG cannot be read as an image"):
            list(best.test(100))


def test_held_out_images_are_decoded_once_or_by_one_loader(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = asked(protocol="holdout-best", crop="random-resized")
    small = sets.load(given, seed=0, root=tmp_path)
    assert small.held_loader(CPU) is None
    (first,) = small.held(4)
    monkeypatch.setattr("npasbench.data.holding.Loader", None)
    (again,) = small.held(4)
    assert torch.equal(first, again)
    monkeypatch.setattr(holding, "IN_MEMORY", 0)
    loader = small.held_loader(CPU)
    assert loader is not None
    monkeypatch.setattr("npasbench.data.dataset.Loader", None)
    for _ in range(2):
        assert torch.equal(next(small.held(4, CPU, loader)), first)


def wreck(images: Path, how: str) -> None:
    if how == "no folder":
        shutil.rmtree(images)
    elif how == "no train":
        shutil.rmtree(images / "train")
    elif how == "misspelled":
        images.rename(images.with_name("imagse"))
    elif how == "another case":
        (images / "train").rename(images / "Train")
    elif how == "one deeper":
        (images / "inner").mkdir()
        (images / "train").rename(images / "inner" / "train")
    elif how == "lost link":
        shutil.rmtree(images / "train" / "bee")
        (images / "train" / "bee").symlink_to("nowhere")
    elif how == "circle":
        (images / "val" / "ant" / "deep").mkdir()
        (images / "val" / "ant" / "deep" / "loop").symlink_to("..")
    elif how == "far circle":
        (images / "away").mkdir()
        (images / "val" / "ant" / "away").symlink_to("../../away")
        (images / "away" / "back").symlink_to("../val/ant")
    elif how == "class circle":
        (images / "val" / "dog").symlink_to("..")
    elif how == "test for val":
        (images / "val").rename(images / "test")
    elif how == "no classes":
        for part in ("train", "val"):
            shutil.rmtree(images / part)
            (images / part).mkdir()
            image_files.write_kind(images / part, "web.webp")
    elif how == "one class":
        for part in ("train", "val"):
            shutil.rmtree(images / part / "bee")
            shutil.rmtree(images / part / "cat")
    elif how == "empty class":
        for file in (images / "val" / "bee").iterdir():
            file.rename(file.with_suffix(".txt"))
    elif how == "other classes":
        (images / "val" / "cat").rename(images / "val" / "dog")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "no folder",
            ["There is no folder {0}. Put images there as {0}/train/<class>/", "--data-root or NPASBENCH_DATA"],
        ),
        ("misspelled", ["There is no folder {0}. Did you mean 'imagse'? Put"]),
        (
            "another case",
            ["There is no folder {0}/train.", "Rename 'Train' to 'train', or link it: ln -s Train {0}/train"],
        ),
        (
            "one deeper",
            ["There is no folder {0}/train.", "'train' lies in {0}/inner: move it up, or name that folder."],
        ),
        ("lost link", ["{0}/train/bee is a link to a place where nothing is. Mend or remove it."]),
        ("circle", ["{0}/val/ant/deep/loop is a link to a folder that it lies in itself. Remove it."]),
        ("far circle", ["{0}/val/ant/away/back is a link to a folder that it lies in itself. Remove it."]),
        ("class circle", ["{0}/val/dog is a link to a folder that it lies in itself. Remove it."]),
        ("no train", ["There is no folder {0}/train. Expected are {0}/train/<class>/ and {0}/val/<class>/"]),
        ("test for val", ["There is no folder {0}/val.", "Rename 'test' to 'val', or link it: ln -s test {0}/val"]),
        ("no classes", ["{0}/train holds 1 file. Put the images of each class, at least two, in a folder"]),
        ("one class", ["{0}/train holds only the class folder 'ant'. Put the images of each class, at least two,"]),
        ("empty class", ["{0}/val has class folders without images: bee. Put images there (.jpg, .jpeg, .png"]),
        ("other classes", ["The classes of {0}/train and {0}/val differ: only train has cat; only val has dog."]),
    ],
)
def test_a_folder_that_is_wrongly_laid_out_is_told_in_a_sentence(
    how: str, said: list[str], images: Path, tmp_path: Path
):
    wreck(images, how)
    for look in (
        lambda: sets.check(asked(), tmp_path),
        lambda: sets.load(asked(), seed=0, root=tmp_path),
        lambda: sets.resolved(card_of(asked()), tmp_path),
    ):
        with pytest.raises(DataError) as caught:
            look()
        assert all(part.format(images) in str(caught.value) for part in said), str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"folder": None}, "The set 'folder' needs a folder: write folder ="),
        ({"image_size": None}, "'folder' needs an image size: write image_size = 224"),
        ({"resize": 15}, "Resized to 15 pixels an image has no centre of image_size = 16"),
        ({"shift": 16}, "A shift of 16 pixels leaves nothing of 'folder'"),
        ({"cutout": 17}, "A cutout of 17 pixels is larger than 'folder'"),
        ({"normalise": Normalise(mean=(1.0,), std=(1.0,))}, "normalise has 1 means, but 'folder' has channels: 3"),
        ({"set": "digits", "train_per_class": 15}, "'folder' is no key of the set 'digits'; remove it."),
        ({"set": "cifar10", "folder": None}, "'image_size' is no key of the set 'cifar10'; remove it."),
        ({"set": "imagenet", "folder": None, "classes": 3}, "'classes' is no key of the set 'imagenet'; remove it."),
        ({"corrupted": True}, "There are no corrupted test images of 'folder'"),
    ],
)
def test_keys_that_do_not_fit_are_told_in_a_sentence(settings: dict[str, Any], said: str, images: Path, tmp_path: Path):
    given = asked(**settings)
    for look in (
        lambda: sets.check(given, tmp_path),
        lambda: sets.load(given, seed=0, root=tmp_path),
        lambda: sets.describe(given, tmp_path),
    ):
        with pytest.raises(UsageError) as caught:
            look()
        assert said in str(caught.value)


# Fingerprints


def test_the_digest_changes_with_the_images_and_not_with_their_place(images: Path, tmp_path: Path):
    first, seen = digest(tmp_path), set()
    assert first == digest(tmp_path)
    changes = [
        lambda: image_files.write_kind(images / "train" / "ant", "web.webp"),
        lambda: (images / "val" / "bee" / "bee_000.JPEG").unlink(),
        lambda: (images / "val" / "cat" / "cat_000.JPEG").rename(images / "val" / "cat" / "other.JPEG"),
        lambda: (images / "train" / "cat" / "cat_001.JPEG").rename(images / "train" / "bee" / "cat_001.JPEG"),
        lambda: [(images / part / "ant").rename(images / part / "aunt") for part in ("train", "val")],
    ]
    for change in changes:
        change()
        seen.add(digest(tmp_path))
    assert len(seen | {first}) == len(changes) + 1
    before = digest(tmp_path)
    shutil.copytree(images, tmp_path / "elsewhere" / "images")
    assert digest(tmp_path / "elsewhere") == before
    assert sets.resolved(card_of(asked(folder=str(images))), tmp_path / "nowhere").data.digest == before


def test_one_other_bit_changes_the_digest_even_if_size_and_time_stay(images: Path, tmp_path: Path):
    victim, before = images / "val" / "ant" / "ant_001.JPEG", digest(tmp_path)
    status, content = victim.stat(), bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(tmp_path) != before


def test_a_folder_that_was_looked_at_is_not_read_again(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = digest(tmp_path)
    read: list[Path] = []
    content = folders.digest.__globals__["_content"]
    monkeypatch.setitem(folders.digest.__globals__, "_content", lambda path: (read.append(path), content(path))[1])
    assert (digest(tmp_path), read) == (first, [])
    image_files.write_kind(images / "train" / "cat", "web.webp")
    assert digest(tmp_path) != first
    assert {path.parent for path in read} == {images / "train" / "cat"}, "only the class that has changed"


def test_without_a_place_for_its_cache_the_digest_is_the_same(
    images: Path, tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
):
    first = digest(tmp_path)
    assert list((caches / "digests").iterdir())
    for file in (caches / "digests").iterdir():
        file.write_text("[1, 2")
    assert digest(tmp_path) == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert digest(tmp_path) == first


def test_a_planned_card_says_its_classes_and_images_and_its_fingerprint_follows_them(images: Path, tmp_path: Path):
    plain = card_of(asked())
    planned = sets.resolved(plain, tmp_path)
    assert (planned.data.classes, len(str(planned.data.digest))) == (3, 64)
    assert planned.fingerprint != plain.fingerprint
    assert sets.resolved(planned, tmp_path) == planned
    assert sets.describe(planned.data, tmp_path / "nowhere") == (3, (3, 16, 16)), "what is planned needs no look"
    moved = card_of(asked(folder=str(images)))
    assert sets.resolved(moved, tmp_path).fingerprint == planned.fingerprint, "the place decides nothing"
    image_files.write_kind(images / "train" / "ant", "web.webp")
    assert sets.resolved(plain, tmp_path).fingerprint != planned.fingerprint


def test_a_run_is_not_trained_on_other_images_than_it_was_planned_with(images: Path, tmp_path: Path):
    planned = sets.resolved(card_of(asked()), tmp_path)
    image_files.write_kind(images / "train" / "ant", "web.webp")
    for look in (
        lambda: sets.check(planned.data, tmp_path),
        lambda: sets.load(planned.data, seed=0, root=tmp_path),
        lambda: sets.resolved(planned, tmp_path),
    ):
        with pytest.raises(DataError, match="are not those that were planned with: their digest is"):
            look()
    with pytest.raises(DataError, match=r"images has classes: 3, but the card says 4\."):
        sets.check(asked(classes=4), tmp_path)


def test_linked_folders_are_followed(images: Path, tmp_path: Path):
    before = sets.load(asked(), seed=0, root=tmp_path)
    (images / "train" / "ant").rename(tmp_path / "ants")
    (images / "train" / "ant").symlink_to(tmp_path / "ants")
    (tmp_path / "linked").symlink_to("images")
    after = sets.load(asked(folder="linked"), seed=0, root=tmp_path)
    assert torch.equal(before.some_to_train(100), after.some_to_train(100))


# Commands

CARD = """
schema = 1
name = "mine"
version = 1
title = "Three colours"
description = "A few images each."
members = ["wrn-10-1"]
budgets = [0.5, 1]
metrics = ["accuracy"]
seeds = [0, 1, 2]

[data]
set = "folder"
folder = "images"
protocol = "full-last"
image_size = 16

[recipe]
epochs = 1
batch_size = 4
optimizer = { name = "sgd", lr = 0.05 }
schedule = { name = "constant" }
threads = 1
"""


def call(*words: str) -> tuple[int, str]:
    """One command in this process: exit code and everything it said."""
    try:
        result = CliRunner().invoke(npasbench, list(words), standalone_mode=False, catch_exceptions=False)
    except NpasbenchError as error:
        return error.exit_code, str(error)
    return result.exit_code, result.output


def test_plans_hold_what_the_folder_is_and_jobs_read_it_from_them(images: Path, tmp_path: Path):
    (tmp_path / "mine.toml").write_text(CARD)
    task = str(tmp_path / "mine.toml")
    spec, *_ = plan_runs(task, "roast", None, {}, [], [0], [], data_root=tmp_path)
    assert (spec.task.data.digest, spec.task.data.classes) == (digest(tmp_path), 3)
    again = RunSpec.from_json(json.loads(json.dumps(spec.as_json())))
    assert again.fingerprint == spec.fingerprint
    assert problem_of(again).classes == 3
    image_files.write_kind(images / "val" / "ant", "web.webp")
    other, *_ = plan_runs(task, "roast", None, {}, [], [0], [], data_root=tmp_path)
    assert other.fingerprint != spec.fingerprint
    assert other.folder != spec.folder


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_networks_of_timm_and_torchvision_are_built_for_the_folder(name: str, images: Path, tmp_path: Path):
    text = CARD.replace("wrn-10-1", name).replace("image_size = 16", "image_size = 32")
    (tmp_path / "mine.toml").write_text(text)
    spec, *_ = plan_runs(str(tmp_path / "mine.toml"), "dense", None, {}, ["1"], [0], [], data_root=tmp_path)
    network = problem_of(spec).architectures[0].create()
    data = sets.load(spec.task.data, seed=0, root=tmp_path)
    assert network(data.some_to_train(4)).shape == (4, 3)


@pytest.mark.parametrize("words", [("plan", "--method", "roast"), ("show",), ("run", "--method", "roast")])
def test_commands_look_at_the_folder_under_the_data_root(
    words: tuple[str, ...], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(CARD)
    if words[0] != "run":
        known = digest(tmp_path) if words[0] == "show" else "2 runs: 2 waiting."
        seeds = ("--seeds", "0") if words[0] == "plan" else ()
        assert known in call(words[0], "mine.toml", *words[1:], *seeds, "--data-root", str(tmp_path))[1]
        monkeypatch.setenv("NPASBENCH_DATA", str(tmp_path))
        assert call(words[0], "mine.toml", *words[1:])[0] == 0
    monkeypatch.setenv("NPASBENCH_DATA", str(tmp_path / "nowhere"))
    code, said = call(words[0], "mine.toml", *words[1:])
    assert (code, said.startswith(f"There is no folder {tmp_path}/nowhere/images. Put images there as")) == (1, True)
    assert not (tmp_path / "runs").exists()


def test_a_method_is_checked_on_a_folder(images: Path, tmp_path: Path):
    (tmp_path / "mine.toml").write_text(CARD)
    verdicts = check_method("dense", task=str(tmp_path / "mine.toml"), data_root=tmp_path)
    wrong = [f"{one.name}: {one.detail}" for one in verdicts if not one.passed]
    assert wrong == []
    assert len(verdicts) > 8


def test_retry_leaves_alone_what_has_other_images_and_does_the_others(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done: list[RunSpec] = []
    monkeypatch.setattr("npasbench.commands.retry.do_runs", lambda specs, *_, **__: done.extend(specs) or 0)
    Path("mine.toml").write_text(CARD)
    cards = ("mine.toml", "digits15-wrn-10-1")
    specs = [plan_runs(card, "roast", None, {}, ["0.5"], [0], [], data_root=tmp_path) for card in cards]
    for (spec,) in specs:
        directory = RunDirectory.of(tmp_path / "runs", spec)
        directory.create(spec)
        directory.fail("the disk was gone", "")
    image_files.write_kind(images / "train" / "ant", "web.webp")
    said = CliRunner().invoke(npasbench, ["retry", "runs", "--data-root", "."])
    assert said.exit_code == 1
    assert [spec.task.name for spec in done] == ["digits15-wrn-10-1"]
    assert "left alone: 1 run, such as runs/mine/roast/0.5/seed0-" in said.stderr
    assert "another task: start the 'run' command again." in said.stderr
    assert len(list((tmp_path / "runs/mine").rglob("failure.json"))) == 1


def test_runs_of_images_as_they_were_are_told_where_runs_begin_anew(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npasbench.commands.working._do", lambda *_, **__: False)
    Path("mine.toml").write_text(CARD)
    before = plan_runs("mine.toml", "roast", None, {}, ["0.5"], [0, 1], [], data_root=tmp_path)
    for spec in before:
        RunDirectory.of(tmp_path / "runs", spec).create(spec)
    RunDirectory.of(tmp_path / "runs", before[0]).result_file.write_text("{}")
    words = ("mine.toml", "--method", "roast", "--budget", "0.5", "--seeds", "1", "--data-root", ".")
    assert "other images" not in call("run", *words)[1]
    assert "other images" not in call("plan", *words)[1]
    image_files.write_kind(images / "train" / "ant", "web.webp")
    name = min(spec.folder.name for spec in before)
    for command in ("run", "plan"):
        (told,) = [line for line in call(command, *words)[1].splitlines() if "other images" in line]
        assert told.startswith(
            f"mine: 2 runs in runs/mine (1 with a result), such as {name} of roast/0.5, are of other images than 'images' holds"
        )
        assert told.endswith("put the images back as they were, and to be rid of them, remove their folders.")
    (now,) = plan_runs("mine.toml", "roast", None, {}, ["0.5"], [1], [], data_root=tmp_path)
    RunDirectory.of(tmp_path / "runs", now).create(now)
    RunDirectory.of(tmp_path / "runs", now).fail("it was too slow", "")
    for command in ("run", "plan"):
        assert "other images" not in call(command, *words)[1], "nothing begins"
