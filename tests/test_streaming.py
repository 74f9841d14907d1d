"""Images decoded as they are needed: the same whatever decodes them and wherever a run was interrupted."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from npasbench import data as sets
from npasbench import streams
from npasbench.card import Data
from npasbench.data import decoding
from npasbench.data.batches import Batches
from npasbench.data.files import Files
from npasbench.data.loading import Loader, Request, loaders
from npasbench.errors import DataError, UsageError
from npasbench.method import Batch
from npasbench.training.team import Team, parts_of, rows_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIVEN = Data(
    set="folder", folder="images", protocol="full-last", image_size=12, crop="random-resized", shift=1, flip=True
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root")
    image_files.write(path / "images", a_class=7)
    return path


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("NPASBENCH_LOADERS", raising=False)


@pytest.fixture(params=[0, 2])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("NPASBENCH_LOADERS", str(request.param))
    number: int = request.param
    return number


@contextlib.contextmanager
def streamed(root: Path, seed: int = 5, data: Data = GIVEN) -> Iterator[Batches]:
    with contextlib.closing(Batches(sets.load(data, seed=0, root=root), data, 4, seed, CPU)) as batches:
        yield batches


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "labels", "indices"))


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[int, list[Batch]]:
    """Two epochs as one process decodes them."""
    with streamed(root) as batches:
        return {epoch: list(batches.epoch(epoch)) for epoch in (0, 1)}


# The same images


def test_batches_are_the_same_whatever_decodes_them_and_from_any_step(
    processes: int, root: Path, expected: dict[int, list[Batch]]
):
    with streamed(root) as batches:
        assert batches.steps_per_epoch == len(expected[0]) == 5
        for epoch, start in ((0, 0), (1, 0), (0, 3), (1, 1), (0, 4)):
            torch.rand(1)  # the global generator has no say
            given = list(batches.epoch(epoch, start))
            assert len(given) == 5 - start
            assert all(map(same, given, expected[epoch][start:]))


def test_an_epoch_that_is_left_early_leaves_nothing_to_the_next(
    processes: int, root: Path, expected: dict[int, list[Batch]]
):
    with streamed(root) as batches:
        assert same(next(iter(batches.epoch(1))), expected[1][0])
        abandoned = batches.epoch(0)
        assert all(map(same, itertools.islice(abandoned, 2), expected[0]))
        assert all(map(same, batches.epoch(1), expected[1]))
        with pytest.raises(RuntimeError, match="another use of this loader has begun"):
            next(abandoned)


def test_decoding_draws_nothing_from_the_global_generator(processes: int, root: Path):
    with streamed(root) as batches:
        torch.manual_seed(1)
        untouched = torch.get_rng_state()
        list(batches.epoch(0))
        assert torch.equal(torch.get_rng_state(), untouched)


def test_another_seed_epoch_or_image_gives_another_crop(root: Path, expected: dict[int, list[Batch]]):
    epochs = [torch.cat([batch.inputs[batch.indices.argsort()] for batch in expected[epoch]]) for epoch in (0, 1)]
    with streamed(root, seed=6) as batches:
        other = torch.cat([batch.inputs for batch in batches.epoch(0)])
    assert epochs[0].shape == other.shape == (21, 3, 12, 12)
    images = [*epochs[0], *epochs[1], *other]
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_test_images_are_streamed_in_order(processes: int, root: Path, monkeypatch: pytest.MonkeyPatch):
    kept = torch.cat(list(sets.load(GIVEN, seed=0, root=root).test(100)))
    monkeypatch.setattr("npasbench.data.holding.IN_MEMORY", 0)
    data = sets.load(GIVEN, seed=0, root=root)
    assert isinstance(data.test_inputs, Files)
    sizes = [len(part) for part in data.test(4)]
    assert (sizes, data.test_labels.tolist()) == ([4, 2], [0, 0, 1, 1, 2, 2])
    assert torch.equal(torch.cat(list(data.test(4))), kept)


def test_large_images_are_tested_in_smaller_batches(root: Path):
    large = GIVEN.model_copy(update={"image_size": 2048})
    assert [len(part) for part in sets.load(large, seed=0, root=root).test(100)] == [4, 2]


# Random crops are torchvision's


def picture(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def test_a_random_crop_is_torchvisions_drawn_from_the_stream_of_seed_epoch_and_index(tmp_path: Path):
    path = picture(tmp_path)
    files = Files(tmp_path, np.array([b"picture.png"] * 30), 16, 16)
    (given,) = Loader(files, CPU).load([Request(range(30), (3, 2))])
    theirs = v2.Compose([v2.RandomResizedCrop(16), v2.PILToTensor()])
    with Image.open(path) as image:
        for index in range(30):
            torch.manual_seed(streams.stream_seed(3, "crop", 2, index))
            assert torch.equal(given[index], theirs(image))


def test_crops_are_distributed_as_torchvisions(tmp_path: Path):
    crop = v2.RandomResizedCrop(16)
    with Image.open(picture(tmp_path)) as image:
        torch.manual_seed(0)
        theirs = [crop.make_params([image]) for _ in range(2000)]
        ours = []
        for index in range(2000):
            with decoding._drawn_from(streams.stream_seed(0, "crop", 1, index)):
                ours.append(crop.make_params([image]))
    for name in ("top", "left", "height", "width"):
        assert ks_2samp([one[name] for one in ours], [one[name] for one in theirs]).pvalue > 0.01
    areas = [one["height"] * one["width"] for one in ours]
    assert (min(areas) < 0.1 * 40 * 56, max(areas) > 0.9 * 40 * 56) == (True, True)


# A team


@pytest.mark.parametrize(("norm_images", "size"), [(None, 2), (None, 3), (2, 2), (3, 2), (5, 2), (30, 2)])
def test_each_process_decodes_the_rows_of_its_own_parts(norm_images: int | None, size: int):
    for total in (1, 2, 3, 4, 7, 10, 21):
        batch = Batch(torch.arange(total), torch.arange(total), torch.arange(total))
        asked = []
        for rank in range(size):
            rows = rows_of(norm_images, Team(rank, size))
            assert rows is not None
            mine, _ = parts_of(batch, norm_images, Team(rank, size))
            start, end = rows(total)
            assert [row for part in mine for row in part.inputs.tolist()] == list(range(start, end))
            asked += range(start, end)
        assert asked == list(range(total))
    assert rows_of(norm_images, Team()) is None


def test_rows_that_are_not_asked_for_are_not_decoded(root: Path, expected: dict[int, list[Batch]], tmp_path: Path):
    loaded = sets.load(GIVEN, seed=0, root=root)
    unasked = expected[0][2].indices[2:].tolist()
    names = loaded.train_inputs.names.copy()  # type: ignore[union-attr]
    names[unasked] = b"nowhere.jpg"
    files = Files(loaded.train_inputs.folder, names, 12, 12)  # type: ignore[union-attr]
    batches = Batches(sets.DataSet("few", files, loaded.train_labels, files, loaded.train_labels, 3), GIVEN, 4, 5, CPU)
    batch = next(batches.epoch(0, 2, rows=lambda length: (0, length // 2)))
    assert torch.equal(batch.inputs[:2], expected[0][2].inputs[:2])
    assert torch.equal(batch.labels, expected[0][2].labels)
    assert batch.inputs.shape == expected[0][2].inputs.shape
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        next(batches.epoch(0, 2))
    nothing = next(batches.epoch(0, 2, rows=lambda _: (0, 0)))
    assert nothing.inputs.shape == batch.inputs.shape


# What goes wrong


def test_a_damaged_image_is_named_by_the_process_that_trains(processes: int, tmp_path: Path):
    victim = image_files.write(tmp_path / "images") / "train" / "bee" / "bee_002.JPEG"
    data = sets.load(GIVEN, seed=0, root=tmp_path)
    victim.write_bytes(victim.read_bytes()[:300])
    with contextlib.closing(Batches(data, GIVEN, 4, 0, CPU)) as batches:
        with pytest.raises(DataError, match=r"bee_002\.JPEG cannot be read as an image: .*(?i:truncated)") as caught:
            list(batches.epoch(0))
        assert "Traceback" not in str(caught.value)
        victim.unlink()
        with pytest.raises(DataError, match=r"bee_002\.JPEG cannot be read as an image: No such file"):
            list(batches.epoch(0))
    assert_no_children()


def test_a_process_that_dies_is_told_with_what_it_was_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NPASBENCH_LOADERS", "1")
    image_files.write_kind(tmp_path, "web.webp")
    os.mkfifo(tmp_path / "endless.jpg")
    loader = Loader(Files(tmp_path, np.array([b"web.webp", b"endless.jpg"]), 8, 8), CPU)
    images = loader.load([Request([0]), Request([1])])
    assert next(images).shape == (1, 3, 8, 8)
    until = time.monotonic() + 60
    while loader._at[0, 1] != 1 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(int(loader._at[0, 0]), signal.SIGKILL)
    with pytest.raises(
        DataError, match=r"A process that decodes images has died while it read .*endless\.jpg\."
    ) as caught:
        next(images)
    assert "set NPASBENCH_LOADERS to less than 1" in str(caught.value)


def test_processes_end_when_they_are_closed_or_forgotten(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NPASBENCH_LOADERS", "2")
    files = sets.load(GIVEN, seed=0, root=root).train_inputs
    assert isinstance(files, Files)
    for end in (Loader.close, lambda _: None):
        loader = Loader(files, CPU)
        next(iter(loader.load([Request([0]), Request([1]), Request([2])])))
        assert len(multiprocessing.active_children()) == 2
        end(loader)
        del loader
        gc.collect()
        assert_no_children()


def assert_no_children() -> None:
    until = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


LEADER = """
import signal, sys, time
from multiprocessing.forkserver import _forkserver
from pathlib import Path
import numpy as np, torch
from npasbench.data.files import Files
from npasbench.data.loading import Loader, Request

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    loader = Loader(Files(Path(sys.argv[1]), np.array([b"web.webp"]), 8, 8), torch.device("cpu"))
    images = loader.load([Request([0])] * 100)
    next(images), next(images)
    print(*loader._at[:, 0].tolist(), _forkserver._forkserver_pid, flush=True)
    if sys.argv[2] == "wait":
        while True:
            time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "wait"])
def test_processes_end_with_their_parent_and_not_by_its_signals(how: str, tmp_path: Path):
    image_files.write_kind(tmp_path, "web.webp")
    (tmp_path / "leader.py").write_text(LEADER)
    environment = {**os.environ, "NPASBENCH_LOADERS": "2"}
    words = [sys.executable, str(tmp_path / "leader.py"), str(tmp_path), how]
    leader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        assert leader.stdout is not None
        children = [int(pid) for pid in leader.stdout.readline().split()]
        assert len(children) == 3, "two that decode, and the fork server"
        if how == "wait":
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                os.killpg(leader.pid, number)
            time.sleep(0.3)
            assert all(map(alive, children))
            leader.kill()
        assert leader.wait(timeout=60) == (0 if how == "exit" else -signal.SIGKILL)
    finally:
        leader.kill()
    until = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_number_of_processes_is_the_variables_or_follows_cores_and_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (loaders(CPU), loaders(CUDA)) == (0, 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert loaders(CUDA) == 16
    monkeypatch.setenv("NPASBENCH_LOADERS", "7")
    assert (loaders(CPU), loaders(CUDA)) == (7, 7)
    monkeypatch.setenv("NPASBENCH_LOADERS", "many")
    with pytest.raises(UsageError, match=r"NPASBENCH_LOADERS is 'many'\. Give the number of processes"):
        loaders(CPU)


# From end to end

CARD = """
schema = 1
name = "task"
version = 1
title = "Coloured squares"
description = "Three colours, a few images each."
members = ["wrn-10-1"]
budgets = [0.5]
metrics = ["accuracy", "nll"]
seeds = [0, 1, 2]

[data]
set = "folder"
folder = "images"
protocol = "holdout-best"
image_size = 16
crop = "random-resized"
flip = true

[recipe]
epochs = 3
batch_size = 4
optimizer = { name = "sgd", lr = 0.05, momentum = 0.9 }
schedule = { name = "cosine" }
threads = 1
"""

MORTAL = """
import os, signal
from pathlib import Path
from npasbench.baselines.roast import Roast

class Mortal(Roast):
    def after_step(self, network, progress):
        super().after_step(network, progress)
        if progress.step == 7 and not Path({mark!r}).exists():
            Path({mark!r}).touch()
            os.kill(-os.getpgrp(), signal.SIGKILL)
"""


def run(folder: Path, loaders: int, *words: str) -> subprocess.CompletedProcess[str]:
    """One run below ``folder``, in which the images lie."""
    command = [
        sys.executable,
        "-m",
        "npasbench",
        "run",
        "task.toml",
        "--budget",
        "0.5",
        "--seeds",
        "0",
        "--device",
        "cpu",
    ]
    command += ["--workers", "1", "--checkpoint-seconds", "0", "--data-root", str(folder), *words]
    environment = {**os.environ, "NPASBENCH_LOADERS": str(loaders)}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        start_new_session=True,
    )


def outcome(runs: Path) -> tuple[dict[str, Any], tuple[object, ...]]:
    """The record, and what must be the same of two runs."""
    (folder,) = runs.glob("*/*/*/seed0-*")
    result = json.loads((folder / "result.json").read_text())
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bits = (folder / "correct.npy").read_bytes()
    return result, (result["metrics"], losses, (folder / "model.safetensors").read_bytes(), bits, folder.name)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with a card and its images."""
    image_files.write(tmp_path / "images", a_class=7)
    (tmp_path / "task.toml").write_text(CARD)
    return tmp_path


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_ends_bit_identical_whatever_decodes_its_images(task: Path):
    (task / "mortal.py").write_text(MORTAL.format(mark=str(task / "mark")))
    words = ["--method", "mortal", "--plugin", "mortal.py"]
    (task / "mark").touch()
    done = run(task, 0, *words, "--runs", "whole")
    assert done.returncode == 0, done.stdout + done.stderr
    record, whole = outcome(task / "whole")
    assert (record["state"], record["test_examples"]) == ("done", 6)
    assert record["certificate"]["passed"], record["certificate"]["detail"]
    assert record["held_out"]["examples"] > 0
    (task / "mark").unlink()
    assert run(task, 2, *words, "--runs", "killed").returncode == -signal.SIGKILL
    done = run(task, 2, *words, "--runs", "killed")
    assert done.returncode == 0, done.stdout + done.stderr
    again, killed = outcome(task / "killed")
    assert again["provenance"]["restarts"] == 1
    assert killed == whole


@pytest.mark.slow
def test_a_run_on_a_damaged_image_fails_with_a_sentence_that_names_it(task: Path):
    victim = task / "images" / "train" / "cat" / "cat_001.JPEG"
    victim.write_bytes(victim.read_bytes()[:300])
    done = run(task, 2, "--method", "roast")
    assert done.returncode == 1
    assert f"{victim} cannot be read as an image" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
