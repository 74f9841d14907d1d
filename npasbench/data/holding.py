"""Images that lie in files, decoded once and held in memory where they are small enough."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from npasbench.data.files import Files, Names
from npasbench.data.loading import Loader, Request, loaders

IN_MEMORY = 2**31
"""Bytes that the images of one part may take, three for each pixel, to be held in memory."""
_AT_ONCE = 256
_WORTH_A_PROCESS = 1000
"""So many images are decoded in the time that a process takes to start."""


def fits(files: Files) -> bool:
    """Whether the images may be held in memory."""
    return torch.Size(files.shape).numel() <= IN_MEMORY


def held(files: Files) -> Tensor | Files:
    """The images in memory, uint8 ``[N, 3, size, size]``, if they fit; for the next runs of this process too.

    Raises:
        DataError: naming an image that cannot be read.
    """
    if not fits(files):
        return files
    return _decoded(
        files.folder, files.names.tobytes(), str(files.names.dtype), files.size, files.resize, files.content
    )


@functools.lru_cache(maxsize=2)
def _decoded(folder: Path, names: bytes, kind: str, size: int, resize: int, content: str | None) -> Tensor:  # noqa: ARG001
    """All images; whoever gets them must not change them."""
    listed: Names = np.frombuffer(names, dtype=kind)
    files = Files(folder, listed, size, resize)
    images = torch.empty(files.shape, dtype=torch.uint8)
    beside = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = Loader(files, torch.device("cpu"), min(loaders(beside), len(files) // _WORTH_A_PROCESS))
    starts = range(0, len(files), _AT_ONCE)
    try:
        requests = (Request(range(start, min(start + _AT_ONCE, len(files)))) for start in starts)
        for start, part in zip(starts, loader.load(requests), strict=True):
            images[start : start + len(part)] = part
    finally:
        loader.close()
    return images
