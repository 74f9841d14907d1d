"""Checkpoints: everything that a killed run needs to end as if it had never been interrupted.

A checkpoint is a plain file of tensors, numbers and strings, loaded with ``weights_only=True``. It is written beside
the last one, which is kept as ``*.previous`` and serves if the new one turns out to be damaged.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npasbench.running.files import atomic


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, tensors and plain values; the last checkpoint becomes ``*.previous``.

    Raises:
        RunError: if the disk is full or read-only; the last checkpoint stays.
    """
    new = path.with_suffix(".new")
    with atomic(new) as file:
        torch.save(state, file)
    if path.exists():
        path.replace(previous(path))
    new.replace(path)


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that can be read, or None, and a sentence for each that could not."""
    complaints = []
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            state: dict[str, Any] = torch.load(candidate, map_location=device, weights_only=True)
        except Exception as error:
            complaints.append(f"{candidate.name} is damaged and left aside ({type(error).__name__}).")
        else:
            return state, complaints
    return None, complaints


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is kept."""
    return path.with_suffix(".previous.pt")


def remove_checkpoints(path: Path) -> None:
    """Remove a finished run's checkpoints."""
    for candidate in (path, previous(path), path.with_suffix(".new")):
        candidate.unlink(missing_ok=True)


def random_states() -> dict[str, Any]:
    """The state of every global generator, as tensors and numbers."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put every global generator where :func:`random_states` saw it."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
