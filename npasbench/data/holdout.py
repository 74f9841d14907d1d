"""The tenth of the training examples that a protocol holds out."""

from __future__ import annotations

import torch
from torch import Tensor

from npasbench import streams
from npasbench.errors import UsageError

HELD_OUT_BY = ("holdout-best", "tune")
"""The protocols that train on what is left."""


def held_out(examples: int, seed: int) -> Tensor:
    """Which of the training examples are held out: bool ``[examples]``, a tenth of them, rounded down, at least one.

    Drawn by the seed's stream ``holdout`` and without regard to classes, as in the release of Plummer et al. (ICLR
    2022), whose own draw was not seeded: of CIFAR's 50,000 images 5,000.

    Raises:
        UsageError: if nothing would be left to train on.
    """
    if examples < 2:
        raise UsageError(f"Of {examples} training examples none can be held out; use the protocol 'full-last'.")
    held = torch.zeros(examples, dtype=torch.bool)
    order = torch.randperm(examples, generator=streams.generator(seed, "holdout"))
    held[order[: max(1, examples // 10)]] = True
    return held
