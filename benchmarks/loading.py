"""The loaders against the network's step: is it ever they that the device waits for?

    python benchmarks/loading.py [--rounds 20] [--device cuda] [--only memory,files]

Three contestants take turns over the same batches: steps on one batch that is there already; the loader alone; and
steps on what the loader gives, as in training. In memory: 32x32 images, shifted, mirrored and cut out, and WRN-16-4.
In files: JPEG images of 500 by 375 pixels, generated here (noise, about 110 kB each as in ImageNet, no photographs), cut at
random to 224x224, and ResNet-18 on the CPU, ResNet-50 under bfloat16 on CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rounds import compare
from torch import Tensor, nn
from torch.nn import functional

from npasbench.card import Data, Normalise
from npasbench.data.batches import Batches
from npasbench.data.dataset import DataSet
from npasbench.data.files import Files
from npasbench.data.loading import VARIABLE, loaders
from npasbench.networks import architecture

FIGURES = Normalise(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CIFAR = Data(set="cifar100", protocol="full-last", shift=4, flip=True, cutout=16, normalise=FIGURES)
IMAGENET = Data(
    set="imagenet", protocol="full-last", image_size=224, crop="random-resized", flip=True, normalise=FIGURES
)
DIFFERENT = 256
"""Files that are generated; an epoch reads each several times."""


@dataclass(frozen=True)
class Case:
    """One network with one way of loading; an epoch has ``batches`` batches."""

    network: str
    data: Data
    batch_size: int
    batches: int
    bfloat16: bool


def cases(device: torch.device) -> dict[str, Case]:
    """What is measured on this device."""
    if device.type == "cuda":
        return {
            "memory": Case("wrn-16-4", CIFAR, 128, 200, bfloat16=False),
            "files": Case("resnet50", IMAGENET, 256, 40, bfloat16=True),
        }
    return {
        "memory": Case("wrn-16-4", CIFAR, 32, 4, bfloat16=False),
        "files": Case("resnet18", IMAGENET, 16, 4, bfloat16=False),
    }


def in_memory(case: Case) -> DataSet:
    """Random pixels, as many as the epoch needs."""
    count = case.batch_size * case.batches
    images, labels = torch.randn(count, 3, 32, 32), torch.randint(100, (count,))
    return DataSet("random", images, labels, images, labels, 100)


def in_files(case: Case, folder: Path) -> DataSet:
    """Names of generated files, as many as the epoch needs."""
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(lambda number: write_image(folder, number), range(DIFFERENT)))
    count = case.batch_size * case.batches
    files = Files(folder, np.resize(np.array(names, dtype=np.bytes_), count), 224, 256)
    labels = torch.randint(1000, (count,))
    return DataSet("generated", files, labels, files, labels, 1000, normalise=FIGURES)


def write_image(folder: Path, number: int) -> bytes:
    """A JPEG file of 500 by 375 pixels: noise at three scales."""
    rng = np.random.default_rng(number)
    scales = [rng.normal(128, 60, (375 // scale + 1, 500 // scale + 1, 3)).clip(0, 255) for scale in (2, 16, 64)]
    layers = [Image.fromarray(one.astype(np.uint8)).resize((500, 375), Image.Resampling.BICUBIC) for one in scales]
    pixels = np.mean([np.asarray(layer, dtype=np.float32) for layer in layers], axis=0)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=95)
    return b"%04d.jpg" % number


def contestants(case: Case, batches: Batches, device: torch.device) -> dict[str, Callable[[], object]]:
    """Each does an epoch."""
    classes, side = (1000, 224) if case.data is IMAGENET else (100, 32)
    network = architecture(case.network, classes=classes, input_shape=(3, side, side)).create().to(device).train()
    layout = torch.channels_last if case.bfloat16 else torch.contiguous_format
    network = network.to(memory_format=layout)
    step = one_step(network, case, layout, device)
    there = next(iter(batches.epoch(0)))
    epochs = iter(range(10**6))

    def loaded() -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.inputs, batch.labels) for batch in batches.epoch(next(epochs)))

    def steps() -> None:
        for _ in range(case.batches):
            step(there.inputs, there.labels)
        wait(device)

    def load() -> None:
        for _ in loaded():
            pass
        wait(device)

    def train() -> None:
        for inputs, labels in loaded():
            step(inputs, labels)
        wait(device)

    return {"steps alone": steps, "loader alone": load, "steps on what is loaded": train}


def one_step(
    network: nn.Module, case: Case, layout: torch.memory_format, device: torch.device
) -> Callable[[Tensor, Tensor], None]:
    """Forward, backward and SGD's step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(inputs: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=case.bfloat16):
            loss = functional.cross_entropy(network(inputs.contiguous(memory_format=layout)), labels)
        loss.backward()
        optimizer.step()

    return step


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, case: Case, rounds: int, device: torch.device) -> None:
    """One table."""
    with tempfile.TemporaryDirectory() as folder:
        data = in_memory(case) if name == "memory" else in_files(case, Path(folder))
        with contextlib.closing(Batches(data, case.data, case.batch_size, 0, device)) as batches:
            images = case.batches * case.batch_size
            beside = f", {loaders(device)} processes decode ({VARIABLE})" if name == "files" else ""
            print(f"\n{name}: {case.network}, batch {case.batch_size}, {images} images a turn, on {device}{beside}")
            for row in compare(contestants(case, batches, device), "steps alone", rounds, warmup=1):
                print(f"{row.line()}  {images / row.seconds:9.0f} images/s", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="memory,files")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    for name in options.only.split(","):
        measure(name, cases(device)[name], options.rounds, device)


if __name__ == "__main__":
    main()
