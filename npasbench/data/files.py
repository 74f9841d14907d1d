"""Image files that are decoded when they are needed, where all of them would not fit into memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

Names = np.ndarray[Any, np.dtype[np.bytes_]]


@dataclass(frozen=True, eq=False)
class Files:
    """Images ``[N, 3, size, size]`` that lie in files; ``names`` ``[N]`` are paths below ``folder``, as bytes.

    Indexed as a tensor would be along its first dimension, it gives fewer of them.
    """

    folder: Path
    names: Names
    size: int
    resize: int
    """How long the shorter side becomes before the centre is cut out."""
    content: str | None = None
    """The digest of all images of the folder, where it is known."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of a tensor of all images."""
        return len(self.names), 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: slice | Tensor) -> Files:
        return replace(self, names=self.names[which if isinstance(which, slice) else which.numpy()])

    def path(self, index: int) -> str:
        """Where one image lies."""
        return os.path.join(self.folder, os.fsdecode(self.names[index]))  # noqa: PTH118 - called for every image
