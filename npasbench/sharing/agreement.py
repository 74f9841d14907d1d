"""Which layers agree: cosines of gradients, and the groups of those that point the same way.

Teterwak et al. (WACV 2024, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn import functional

Linkage = Literal["average", "published"]


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of two tensors, both cropped to the leading rows and columns that they have in common.

    0 where it is no number: beside zeros, and beside what is not finite.
    """
    extent = tuple(slice(min(a, b)) for a, b in zip(one.shape, other.shape, strict=True))
    a, b = one[extent].reshape(-1).double(), other[extent].reshape(-1).double()
    found = float(functional.cosine_similarity(a, b, dim=0, eps=1e-30))
    return found if math.isfinite(found) else 0.0


def cosines(tensors: Sequence[Tensor]) -> Tensor:
    """``[n, n]``: the cosine of every pair, one with itself is 1."""
    similarities = torch.eye(len(tensors), dtype=torch.float64)
    for i in range(len(tensors)):
        for j in range(i):
            similarities[i, j] = similarities[j, i] = cosine(tensors[i], tensors[j])
    return similarities


def agreeing(similarities: Tensor, threshold: float, rule: Linkage, *, both_directions: bool = True) -> list[int]:
    """A group number for each of n, from 0 in order of appearance: those whose similarity lies above a threshold.

    ``average``: average linkage, cut where the mean similarity of two groups falls to the threshold. ``published``: the
    release's label overwriting, which depends on the order of pairs, over each pair once or in both directions. Below a
    threshold of -1 all are one group.
    """
    n = len(similarities)
    if n == 1 or threshold < -1:  # where the published rule would still leave several groups
        return [0] * n
    if rule == "published":
        labels = _overwritten(similarities, threshold, both_directions)
    else:
        distances = np.clip(1 - similarities.numpy(), 0, 2)
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances, checks=False), "average")
        labels = fcluster(tree, np.nextafter(1 - threshold, -np.inf), "distance").tolist()
    return in_order(labels)


def _overwritten(similarities: Tensor, threshold: float, both_directions: bool) -> list[int]:
    """From the most similar pair on, the second one takes the first one's label."""
    n = len(similarities)
    queue = sorted(
        (
            (float(similarities[i, j]), i, j)
            for i in range(n)
            for j in range(n)
            if i < j or (both_directions and i != j)
        ),
        reverse=True,
    )
    labels = list(range(n))
    for similarity, i, j in queue:
        if similarity <= threshold:
            break
        labels[j] = labels[i]
    return labels


def in_order(labels: Sequence[int]) -> list[int]:
    """The same groups, numbered from 0 in the order in which they appear."""
    known: dict[int, int] = {}
    return [known.setdefault(label, len(known)) for label in labels]
