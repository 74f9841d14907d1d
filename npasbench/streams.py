"""Named random streams: what one part of a run draws moves nobody else's numbers.

A stream is a pure function of the run's seed, its name and any further numbers (epoch, step): ``split``, ``init``,
``order``, ``augmentation``, ``method``, ``training``.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def stream_seed(seed: int, name: str, *numbers: int) -> int:
    """A 63-bit seed for the stream ``name`` of ``seed``; its low and high halves are both well mixed."""
    text = "/".join([str(seed), name, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *numbers: int) -> torch.Generator:
    """A CPU generator at the start of that stream."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *numbers))


@contextlib.contextmanager
def global_stream(seed: int, name: str) -> Iterator[None]:
    """Run a block with torch's global generator at the start of a stream, and put it back afterwards.

    Architectures draw their initial weights from the global generator; this keeps them on a stream of their own.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(stream_seed(seed, name))
        yield
