"""One image file as the pixels that a network sees, through Pillow and torchvision's transforms.

torchvision is imported with this module: import it where images are decoded, not where they are planned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from npasbench.errors import DataError

_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def centre(path: str, size: int, resize: int) -> Tensor:
    """uint8 ``[3, size, size]``: the shorter side becomes ``resize``, then the centre is cut out.

    Raises:
        DataError: naming the file, if it cannot be read as an image.
    """
    shrunk = functional.resize(read_rgb(path), [resize])
    pixels: Tensor = functional.pil_to_tensor(functional.center_crop(shrunk, [size, size]))
    return pixels


def random_resized(path: str, size: int, seed: int) -> Tensor:
    """uint8 ``[3, size, size]``: torchvision's ``RandomResizedCrop`` with its defaults, drawn from ``seed`` alone.

    Raises:
        DataError: as for :func:`centre`.
    """
    image = read_rgb(path)
    with _drawn_from(seed):
        cut = v2.RandomResizedCrop(size)(image)
    pixels: Tensor = functional.pil_to_tensor(cut)
    return pixels


def read_rgb(path: str) -> Image.Image:
    """The image in RGB: grey is repeated, an alpha channel dropped, 16 bits become 8; CMYK and palettes are converted.

    Raises:
        DataError: naming the file, if it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError among them
        raise DataError(
            f"{path} cannot be read as an image: {_why(error)}. Put a whole copy in its place, or remove it. Of a set "
            "'folder' that makes another task: start the 'run' command again."
        ) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "Pillow does not know its format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Run a block with the CPU's global generator at ``seed``; a GPU's is left alone, unlike by ``torch.manual_seed``."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
