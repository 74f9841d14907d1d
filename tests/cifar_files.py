"""Small CIFAR sets in the published layout: Python 2 pickles of the same names and keys, with random pixels.

torchvision reads a file only if its MD5 sum is the published one. A test that wants small files read says so to
torchvision's class, and to nothing of npasbench.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from torchvision import datasets

FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
CLASSES = {"cifar10": 10, "cifar100": 100}
TRAIN_A_CLASS, TEST_A_CLASS = 5, 2

PLUGIN = """
from torchvision import datasets
from npasbench.baselines.roast import Roast

sums = {sums!r}
known = datasets.CIFAR100
known.train_list, known.test_list = [["train", sums["train"]]], [["test", sums["test"]]]
known.meta = {{**known.meta, "md5": sums["meta"]}}

class SmallFiles(Roast):
    "In every process that imports this plugin torchvision takes the small files of a test for the published ones."
"""


def write(root: Path, name: str = "cifar100", seed: int = 0) -> dict[str, str]:
    """A set of five training images a class and two to test; its files' MD5 sums."""
    rng = np.random.default_rng(seed)
    if name == "cifar100":
        contents = {
            "train": _part(rng, name, TRAIN_A_CLASS, b"training batch 1 of 1"),
            "test": _part(rng, name, TEST_A_CLASS, b"testing batch 1 of 1"),
            "meta": {b"fine_label_names": _names(100), b"coarse_label_names": _names(20)},
        }
    else:
        contents = {f"data_batch_{k}": _part(rng, name, 1, b"training batch %d of 5" % k) for k in range(1, 6)}
        contents["test_batch"] = _part(rng, name, TEST_A_CLASS, b"testing batch 1 of 1")
        contents["batches.meta"] = {b"num_cases_per_batch": 10, b"label_names": _names(10), b"num_vis": 3072}
    folder = root / FOLDER[name]
    folder.mkdir(parents=True)
    for file, content in contents.items():
        with (folder / file).open("wb") as out:
            _Python2Pickler(out, protocol=2).dump(content)
    return {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in contents}


def accept(monkeypatch: pytest.MonkeyPatch, name: str, sums: Mapping[str, str]) -> None:
    """Have torchvision take files with these sums for the published ones, in this process."""
    known = getattr(datasets, name.upper())
    for which in ("train_list", "test_list"):
        monkeypatch.setattr(known, which, [[file, sums[file]] for file, _ in getattr(known, which)])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": sums[known.meta["filename"]]})


def _part(rng: np.random.Generator, name: str, of_each: int, label: bytes) -> dict[bytes, Any]:
    """One file's content: rows of 1,024 red, 1,024 green and 1,024 blue pixels."""
    labels = [int(one) for one in rng.permutation(np.repeat(np.arange(CLASSES[name]), of_each))]
    content: dict[bytes, Any] = {
        b"filenames": [b"image_%06d.png" % k for k in range(len(labels))],
        b"batch_label": label,
        b"data": rng.integers(0, 256, (len(labels), 3 * 32 * 32), dtype=np.uint8),
    }
    fine_and_coarse = {b"fine_labels": labels, b"coarse_labels": [one // 5 for one in labels]}
    return {**content, **(fine_and_coarse if name == "cifar100" else {b"labels": labels})}


def _names(count: int) -> list[bytes]:
    return [b"class %d" % k for k in range(count)]


class _Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 wrote its ``str``, in which the published files are kept."""

    def save_bytes(self, given: bytes) -> None:
        short = len(given) < 256
        head = pickle.SHORT_BINSTRING if short else pickle.BINSTRING
        self.write(head + len(given).to_bytes(1 if short else 4, "little") + given)
        self.memoize(given)

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, bytes: save_bytes}
