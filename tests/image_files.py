"""Small image folders for tests: ``train/<class>/`` and ``val/<class>/`` with images of odd sizes and kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CLASSES = ("ant", "bee", "cat")
KINDS = ("grey.jpg", "cmyk.jpg", "palette.png", "alpha.png", "sixteen.png", "clear.gif.png", "web.webp", "bits.bmp")


def write(folder: Path, *, a_class: int = 4, to_test: int = 2, classes: Sequence[str] = CLASSES, seed: int = 0) -> Path:
    """JPEG files of odd sizes, each class in a colour of its own, which can be learned."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", a_class), ("val", to_test)):
        for place, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                colour = np.roll([200, 60, 30], place)
                height, width = rng.integers(20, 60, 2)
                pixels = np.clip(colour + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{name}_{number:03}.JPEG", "JPEG")
    return folder


def write_kind(path: Path, kind: str, seed: int = 0) -> Path:
    """One image of a kind that is not plain RGB, 37 by 23 pixels."""
    rng = np.random.default_rng(seed)
    rgb = Image.fromarray(rng.integers(0, 256, (23, 37, 3), dtype=np.uint8))
    grey = rng.integers(0, 2**16, (23, 37)).astype(np.uint16)
    file = path / kind
    path.mkdir(parents=True, exist_ok=True)
    if kind == "grey.jpg":
        rgb.convert("L").save(file)
    elif kind == "cmyk.jpg":
        rgb.convert("CMYK").save(file)
    elif kind == "palette.png":
        rgb.convert("P").save(file)
    elif kind == "alpha.png":
        rgb.putalpha(Image.fromarray((grey >> 8).astype(np.uint8)))
        rgb.save(file)
    elif kind == "sixteen.png":
        Image.fromarray(grey).save(file)
    elif kind == "clear.gif.png":
        rgb.convert("P").save(file, transparency=bytes(range(256)))
    elif kind == "bits.bmp":
        rgb.convert("1").save(file)
    else:
        rgb.save(file)
    return file


def write_meta(folder: Path) -> None:
    """``meta.bin`` as torchvision makes it of ImageNet's devkit: names of the classes, and the validation images' wnids."""
    wnids = sorted(path.name for path in (folder / "train").iterdir())
    names = {wnid: (f"a {wnid}", f"the {wnid}") for wnid in wnids}
    torch.save((names, [path.parent.name for path in sorted((folder / "val").glob("*/*"))]), folder / "meta.bin")
