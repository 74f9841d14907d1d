"""Several architectures side by side, as an ensemble's members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Members(nn.Module):
    """Runs every member on the same inputs; logits are ``[members, batch, classes]``."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, ...] -> [members, batch, classes]``."""
        return torch.stack([member(inputs) for member in self.members])
