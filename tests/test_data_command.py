"""``npasbench data``: what is missing and how to get it, and what can be fetched or unpacked by itself."""

from __future__ import annotations

import errno
import http.client
import io
import json
import sys
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import cifar_files
import image_files
import numpy as np
import pytest
import scipy.io
import torch
from calling import call
from click.testing import CliRunner
from PIL import Image
from torchvision import datasets
from torchvision.datasets import imagenet

from npasbench.cli import npasbench
from npasbench.data.corrupted import CORRUPTIONS

WNIDS = ("n01440764", "n01443537")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small CIFAR-100 files, which torchvision takes for the published ones, and where "the network" has them."""
    elsewhere = tmp_path / "network"
    cifar_files.accept(monkeypatch, "cifar100", cifar_files.write(elsewhere))

    def copied(url: str, root: str, filename: str, md5: str) -> None:
        assert (url, filename, md5) == (datasets.CIFAR100.url, datasets.CIFAR100.filename, datasets.CIFAR100.tgz_md5)
        sys.stdout.write("Downloading ...\n")
        target = Path(root) / "cifar-100-python"
        target.mkdir(exist_ok=True)
        for file in (elsewhere / "cifar-100-python").iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", copied)
    return tmp_path / "data"


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fail)


# Checking


def test_what_is_missing_is_told_with_how_to_get_it_and_the_exit_code_is_1(tmp_path: Path):
    code, said = call("data", "check", "cifar100-wrn-16-4", "--data-root", tmp_path)
    assert code == 1
    assert said.startswith(f"missing   cifar100: There is no CIFAR100 in {tmp_path}")
    assert f"CIFAR100('{tmp_path}', download=True)" in said


def test_a_set_that_comes_along_is_never_missing(tmp_path: Path):
    assert call("data", "check", "digits15-wrn-10-1", "--data-root", tmp_path) == (
        0,
        "ok        digits: is here and whole\n",
    )


def test_a_suite_is_checked_set_by_set_each_once(published: Path):
    code, said = call("data", "check", "cifar-papers", "--data-root", published, "--json")
    report = json.loads(said)
    assert (code, report["data_root"]) == (1, str(published))
    assert [one["set"] for one in report["sets"]] == ["cifar10", "cifar100"]
    assert all(not one["ready"] and one["said"] for one in report["sets"])
    assert report["sets"][1]["tasks"] == ["cifar100-wrn-28-10-published"]


def test_damaged_files_are_missing_too(published: Path):
    call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    (published / "cifar-100-python" / "meta").write_bytes(b"other")
    code, said = call("data", "check", "cifar100-wrn-16-4", "--data-root", published)
    assert code == 1
    assert "the MD5 sum is not that of the published file" in said


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path):
    code, said = call("data", "check", "cifar100-wrn-16-5", "--data-root", tmp_path)
    assert code == 2
    assert "Did you mean 'cifar100-wrn-16-4'" in said


FOLDER_CARD = """
schema = 1
name = "mine"
version = 1
title = "Mine"
description = "Mine."
metrics = ["accuracy"]
members = ["wrn-10-1"]
budgets = [0.5]
seeds = [0, 1, 2]
data = { set = "folder", folder = "images", protocol = "holdout-last", image_size = 16 }

[recipe]
epochs = 1
batch_size = 4
optimizer = { name = "sgd", lr = 0.05 }
schedule = { name = "cosine" }
threads = 1
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card of a folder of images, which lie beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    image_files.write(tmp_path / "images", a_class=3, to_test=2)
    (tmp_path / "mine.toml").write_text(FOLDER_CARD)
    return tmp_path / "mine.toml"


def test_images_are_decoded_once_and_a_damaged_one_is_named(mine: Path, monkeypatch: pytest.MonkeyPatch):
    check = ("data", "check", mine, "--data-root", mine.parent)
    victims = [mine.parent / "images" / "val" / "bee" / f"bee_{number:03}.JPEG" for number in range(2)]
    whole = victims[0].read_bytes()
    for victim in victims:
        victim.write_bytes(whole[:200])
    code, said = call(*check)
    assert code == 1, said
    assert said.startswith("missing   images: ")
    assert all(f"{victim} cannot be read as an image" in said for victim in victims)
    assert call(*check) == (1, said), "what was wrong is looked at again"
    assert call(*check, "--quick") == (0, "ok        images: 9 + 6 images of 3 classes listed, not decoded\n")
    for victim in victims:
        victim.write_bytes(whole)
    expected = 0, "ok        images: is here and whole: 9 + 6 images of 3 classes, each of which can be decoded\n"
    assert call(*check) == expected
    monkeypatch.setattr("npasbench.data.decoding.read_rgb", None)
    assert call(*check) == expected


def test_files_that_are_not_read_are_told(mine: Path):
    check = ("data", "check", mine, "--data-root", mine.parent)
    (mine.parent / "images" / "train" / ".DS_Store").write_text("hidden")
    (mine.parent / "images" / "val" / "bee" / "notes.txt").write_text("no image")
    assert "9 + 6 images" in call(*check)[1]
    assert "; 1 file is not read, such as val/bee/notes.txt: images lie in a class folder and end in" in call(*check)[1]
    (mine.parent / "images" / "train" / "bee" / "bee_000.JPEG").rename(mine.parent / "images" / "train" / "bee.JPEG")
    code, said = call(*check, "--quick")
    assert (code, "8 + 6 images" in said) == (0, True)
    assert "; 2 files are not read, such as train/bee.JPEG: images" in said


def test_preparing_ends_with_what_checking_says(mine: Path):
    words = (mine, "--data-root", mine.parent)
    assert call("data", "prepare", *words) == call("data", "check", *words)
    victim = mine.parent / "images" / "val" / "bee" / "bee_001.JPEG"
    victim.write_bytes(victim.read_bytes()[:200])
    code, said = call("data", "prepare", *words)
    assert (code, said) == call("data", "check", *words)
    assert said.startswith(f"missing   images: {victim} cannot be read as an image")
    assert code == 1
    assert call("data", "prepare", *words, "--quick") == call("data", "check", *words, "--quick")
    victim.parent.rename(victim.parent.with_name("wasp"))
    code, said = call("data", "prepare", *words)
    assert (code, said) == call("data", "check", *words)
    assert "only train has bee; only val has wasp" in said


def test_every_task_that_asks_for_too_much_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    image_files.write(tmp_path / "images", a_class=3, to_test=2)
    for name, asked in (("one", "3"), ("two", "4"), ("six", "5")):
        extra = f"train_per_class = {asked}, protocol"
        Path(f"{name}.toml").write_text(FOLDER_CARD.replace('"mine"', f'"{name}"').replace("protocol", extra))
    Path("all.toml").write_text(
        'schema = 1\nname = "all"\ntitle = "All"\ntasks = ["one.toml", "two.toml", "six.toml"]\n'
        '[[entry]]\nlabel = "roast"\nmethod = "roast"\n'
    )
    code, said = call("data", "check", "all.toml", "--data-root", tmp_path)
    assert (code, said.count("\n")) == (1, 2)
    assert said.startswith("wrong     images: Task 'two': train_per_class is 4, but class 'ant' has only 3")
    assert "\n  Task 'six': train_per_class is 5, but class 'ant' has only 3" in said
    assert call("plan", "all.toml", "--data-root", tmp_path)[1].startswith("Task 'two': train_per_class is 4")


def test_a_card_that_asks_for_corrupted_images_of_another_set_is_wrong(mine: Path):
    mine.write_text(FOLDER_CARD.replace("image_size", "corrupted = true, image_size"))
    code, said = call("data", "check", mine, "--data-root", mine.parent)
    assert (code, said.startswith("wrong     images: Task 'mine': There are no corrupted test images of 'folder'")) == (
        1,
        True,
    )


def test_what_can_be_prepared_is_told_with_the_command(tmp_path: Path):
    said = call("data", "check", "cifar100-wrn-28-10-x4", "--data-root", tmp_path)[1]
    command = f"Or have it done: npasbench data prepare cifar100-wrn-28-10-x4 --data-root {tmp_path}\n"
    assert said.count(command) == 1, "the corrupted images cannot be"
    (tmp_path / "CIFAR-100-C.tar").touch()
    assert call("data", "check", "cifar100-wrn-28-10-x4", "--data-root", tmp_path)[1].count(command) == 2
    (tmp_path / "CIFAR-100-C").mkdir()
    assert call("data", "check", "cifar100-wrn-28-10-x4", "--data-root", tmp_path)[1].count(command) == 1
    assert "have it done" not in call("data", "check", "imagenet-resnet50", "--data-root", tmp_path)[1]
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    assert "have it done" in call("data", "check", "imagenet-resnet50", "--data-root", tmp_path)[1]


# Preparing CIFAR


def test_cifar_is_downloaded_by_torchvision_and_then_checked(published: Path):
    code, said = call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    assert (code, said) == (0, f"ok        cifar100: is here and whole; was downloaded from {datasets.CIFAR100.url}\n")
    assert call("data", "check", "cifar100-wrn-16-4", "--data-root", published)[0] == 0


def test_what_is_whole_is_not_downloaded_again(published: Path, monkeypatch: pytest.MonkeyPatch):
    call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    failing(monkeypatch, AssertionError("downloaded again"))
    code, said = call("data", "prepare", "cifar100-wrn-28-4", "--data-root", published)
    assert (code, said) == (0, "ok        cifar100: is here and whole\n")


def test_a_damaged_file_is_replaced(published: Path):
    call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    (published / "cifar-100-python" / "meta").write_bytes(b"other")
    assert call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)[0] == 0


def test_what_was_downloaded_is_looked_at_before_it_is_called_whole(published: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", lambda *_, **__: None)
    code, said = call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    assert code == 1
    assert said.startswith("missing   cifar100: There is no CIFAR100 in")


def test_json_is_nothing_but_json_whatever_torchvision_prints(published: Path):
    words = ["data", "prepare", "cifar100-wrn-16-4", "--data-root", str(published), "--json"]
    result = CliRunner().invoke(npasbench, words)
    (one,) = json.loads(result.stdout)["sets"]
    assert (one["set"], one["ready"], one["optional"], one["tasks"]) == ("cifar100", True, False, ["cifar100-wrn-16-4"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            urllib.error.URLError("Name or service not known"),
            ["cannot be fetched", "Name or service not known", "copy"],
        ),
        (http.client.IncompleteRead(b"", 9), ["cannot be fetched", "IncompleteRead", "copy"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["The disk that holds", "is full. Make room"]),
        (PermissionError(errno.EACCES, "Permission denied", "/mnt/data"), ["/mnt/data cannot be written"]),
        (RuntimeError("File not found or corrupted."), ["An archive in", "is damaged", "Remove it"]),
        (tarfile.ReadError("not a gzip file"), ["An archive in", "is damaged"]),
    ],
)
def test_what_goes_wrong_is_a_sentence(
    error: BaseException, words: list[str], published: Path, monkeypatch: pytest.MonkeyPatch
):
    failing(monkeypatch, error)
    code, said = call("data", "prepare", "cifar100-wrn-16-4", "--data-root", published)
    assert code == 1
    assert said.startswith("missing   cifar100: ")
    assert [word for word in words if word not in said] == []


def test_without_a_network_the_real_download_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    code, said = call("data", "prepare", "cifar100-wrn-16-4", "--data-root", tmp_path)
    assert code == 1
    assert "http://127.0.0.1:9/cifar-100-python.tar.gz cannot be fetched from this machine" in said
    assert f"copy {tmp_path / 'cifar-100-python'} here" in said
    checked = call("data", "check", "cifar100-wrn-16-4", "--data-root", tmp_path)[1].partition("\n  Or have it done")[0]
    assert said.startswith(f"{checked}\n  It could not be prepared: http://"), "what is missing is told too"


# Corrupted test images


def test_corrupted_images_are_optional_and_unpacked_if_their_archive_lies_there(published: Path):
    task = ("cifar100-wrn-28-10-x4", "--data-root", published)
    code, said = call("data", "prepare", *task)
    assert code == 0
    assert "optional  CIFAR-100-C: There are no corrupted test images" in said
    with tarfile.open(published / "CIFAR-100-C.tar", "w") as tar:
        for name in ("labels", *CORRUPTIONS):
            array = np.zeros(10 if name == "labels" else (10, 32, 32, 3), np.uint8)
            file = io.BytesIO()
            np.save(file, array)
            entry = tarfile.TarInfo(f"CIFAR-100-C/{name}.npy")
            entry.size = file.tell()
            file.seek(0)
            tar.addfile(entry, file)
    assert "ok        CIFAR-100-C: is here and whole" in call("data", "prepare", *task)[1]
    assert "ok        CIFAR-100-C: is here and whole" in call("data", "check", *task)[1]
    assert not list(published.glob(".*"))


def test_a_damaged_archive_of_corrupted_images_is_named(published: Path):
    published.mkdir()
    (published / "CIFAR-100-C.tar").write_bytes(b"no archive")
    code, said = call("data", "prepare", "cifar100-wrn-28-10-x4", "--data-root", published)
    assert code == 0, "it is optional"
    assert f"optional  CIFAR-100-C: An archive in {published} is damaged" in said
    assert not list(published.glob(".*"))


# ImageNet


def jpeg(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 100, 50)).save(folder / name)
    return folder / name


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with ImageNet's three archives in its folder ``imagenet``: two classes, their MD5 sums taken for granted."""
    base, work = tmp_path / "data" / "imagenet", tmp_path / "work"
    base.mkdir(parents=True)
    rows = [(k + 1, wnid, f"fish {k}, a fish", "a fish", 0) for k, wnid in enumerate(WNIDS)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    devkit = work / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    scipy.io.savemat(devkit / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n")
    with tarfile.open(base / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(devkit.parent, arcname="ILSVRC2012_devkit_t12")
    with tarfile.open(base / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS:
            inner = work / f"{wnid}.tar"
            with tarfile.open(inner, "w") as tar:
                tar.add(jpeg(work / wnid, f"{wnid}_1.JPEG"), arcname=f"{wnid}_1.JPEG")
            outer.add(inner, arcname=inner.name)
    with tarfile.open(base / "ILSVRC2012_img_val.tar", "w") as tar:
        for k in (1, 2):
            name = f"ILSVRC2012_val_{k:08d}.JPEG"
            tar.add(jpeg(work / "val", name), arcname=name)
    monkeypatch.setattr(imagenet, "check_integrity", lambda path, *_: Path(path).is_file())
    return tmp_path / "data"


def test_imagenets_archives_are_unpacked_by_torchvision(archives: Path, monkeypatch: pytest.MonkeyPatch):
    from npasbench.data.prepare import _unpack_imagenet

    said = _unpack_imagenet("imagenet", archives)
    assert said == f"was unpacked in {archives / 'imagenet'}; the archives can be removed"
    found = sorted(str(path.relative_to(archives / "imagenet")) for path in archives.rglob("*.JPEG"))
    assert found == [
        f"train/{WNIDS[0]}/{WNIDS[0]}_1.JPEG",
        f"train/{WNIDS[1]}/{WNIDS[1]}_1.JPEG",
        f"val/{WNIDS[0]}/ILSVRC2012_val_00000002.JPEG",
        f"val/{WNIDS[1]}/ILSVRC2012_val_00000001.JPEG",
    ]
    assert torch.load(archives / "imagenet" / "meta.bin", weights_only=True)[1] == [WNIDS[1], WNIDS[0]]
    assert not list((archives / "imagenet").glob(".*"))


def test_what_an_interrupted_unpacking_left_is_no_data_set(archives: Path, monkeypatch: pytest.MonkeyPatch):
    from npasbench.data.prepare import _unpack_imagenet

    def dies(*_: Any, **__: Any) -> None:
        (archives / "imagenet" / ".train.unpacking" / WNIDS[0]).mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(imagenet, "parse_train_archive", dies)
        with pytest.raises(KeyboardInterrupt):
            _unpack_imagenet("imagenet", archives)
    assert not (archives / "imagenet" / "train").exists()
    _unpack_imagenet("imagenet", archives)
    assert (archives / "imagenet" / "train" / WNIDS[1]).is_dir()


def test_without_its_archives_imagenet_says_where_they_are_to_be_had(tmp_path: Path):
    code, said = call("data", "prepare", "imagenet-resnet50", "--data-root", tmp_path)
    assert code == 1
    assert f"ILSVRC2012_devkit_t12.tar.gz is not in {tmp_path / 'imagenet'}" in said
    assert "register at https://image-net.org/" in said


def test_one_missing_archive_is_named(archives: Path):
    (archives / "imagenet" / "ILSVRC2012_img_val.tar").unlink()
    code, said = call("data", "prepare", "imagenet-resnet50", "--data-root", archives)
    assert code == 1
    assert "missing   imagenet: There is no ImageNet in" in said
    assert "It could not be prepared: ILSVRC2012_img_val.tar is not in" in said


def test_a_data_root_that_is_a_file_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    for verb in ("check", "prepare"):
        code, said = call("data", verb, "cifar100-wrn-16-4", "--data-root", tmp_path / "file")
        assert (code, f"{tmp_path}/file is no folder. Name the folder" in said) == (2, True)
