"""Initial values of banks, templates and coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from npasbench.sharing.layers import LayerSpec


def normal(*shape: int, std: float, rng: torch.Generator) -> Tensor:
    """Independent normal values of the given deviation."""
    return torch.randn(*shape, generator=rng) * std


def orthogonal(rows: int, columns: int, rng: torch.Generator) -> Tensor:
    """``[rows, columns]`` with orthonormal rows (or columns, where there are more rows), uniformly drawn.

    As ``torch.nn.init.orthogonal_``: the Q of a normal matrix with the signs of R's diagonal made positive.
    """
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=rng)
    q, r = torch.linalg.qr(tall)
    q = torch.mul(q, torch.sign(torch.diagonal(r)))
    return q if rows >= columns else q.T.contiguous()


def common_std(layers: Sequence[LayerSpec]) -> float:
    """The deviation of all the layers' initial weights taken together: root mean square, each scalar counting once."""
    return math.sqrt(sum(layer.size * layer.std**2 for layer in layers) / sum(layer.size for layer in layers))
