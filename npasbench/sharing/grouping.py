"""Which layers share a bank: the groupings of SSN (Plummer et al., ICLR 2022, section 3.2; tables of its release).

Each function gives one group number for each layer, 0 to P - 1 without a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from npasbench.errors import UsageError
from npasbench.sharing.layers import LayerSpec


def numbered(keys: Sequence[Hashable]) -> list[int]:
    """Equal keys together, groups numbered as they first appear."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(key, len(known)) for key in keys]


def by_class(layers: Sequence[LayerSpec]) -> list[int]:
    """One group for each class of layer: convolutions, linear layers (attention's projections too), embeddings."""
    return numbered([_class(layer) for layer in layers])


def by_class_and_shape(layers: Sequence[LayerSpec]) -> list[int]:
    """One group for each class and exact shape, those of one class next to each other."""
    keys = [(_class(layer), layer.shape) for layer in layers]
    classes = list(dict.fromkeys(kind for kind, _ in keys))
    order = {key: index for index, key in enumerate(sorted(dict.fromkeys(keys), key=lambda key: classes.index(key[0])))}
    return [order[key] for key in keys]


def at_random(layers: int, groups: int, rng: torch.Generator) -> list[int]:
    """No group empty: one layer of each group, the others drawn uniformly, all shuffled."""
    groups = min(groups, layers)
    drawn = torch.cat([torch.arange(groups), torch.randint(groups, (layers - groups,), generator=rng)])
    return [int(group) for group in drawn[torch.randperm(layers, generator=rng)]]


def by_similarity(vectors: torch.Tensor, groups: int, seed: int, *, standardised: bool = False) -> list[int]:
    """K-means over what each layer learned, ``[layers, dimensions]``; each layer alone where there are too few.

    ``standardised`` gives every dimension mean 0 and deviation 1 before; the release takes them raw.
    """
    from sklearn.cluster import KMeans

    points = vectors.detach().to("cpu", torch.float64).numpy()
    if len(points) <= groups:
        return list(range(len(points)))
    if standardised:
        deviation = points.std(0)
        points = (points - points.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    distinct = min(groups, len(np.unique(points, axis=0)))
    labels = KMeans(distinct, n_init=10, random_state=seed % 2**32).fit_predict(points)
    return numbered([int(label) for label in labels])


def by_table(name: str, layers: Sequence[LayerSpec]) -> list[int]:
    """A published table by name: ``wrn-28-10`` (14 groups) or ``resnet-50`` (32 groups).

    Raises:
        UsageError: if the network is not the one that the table is for.
    """
    groups = _TABLES[name](layers)
    if groups is None:
        raise UsageError(
            f"The published table manual-{name} is for the layers of {name}, not for these {len(layers)}; "
            "give a list with one group number for each layer instead."
        )
    return groups


def _class(layer: LayerSpec) -> str:
    return "linear" if layer.kind == "attention" else layer.kind


def _wrn_28_10(layers: Sequence[LayerSpec]) -> list[int] | None:
    """In each stage the six equal convolutions behind the first block together, everything else alone."""
    repeated = {0: {5, 6, 7, 8, 9, 4}, 1: set(range(13, 19)), 2: set(range(22, 28))}
    if len(layers) != 29 or any(len({layers[i].shape for i in stage}) != 1 for stage in repeated.values()):
        return None
    stages = {layer: stage for stage, members in repeated.items() for layer in members}
    return numbered([("stage", stages[i]) if i in stages else ("alone", i) for i in range(29)])


def _resnet_50(layers: Sequence[LayerSpec]) -> list[int] | None:
    """In each module the blocks behind the first share by position (reduce, 3x3, expand), everything else is alone."""
    blocks = re.compile(r"(?:.*\.)?layer(?P<module>\d)\.(?P<block>\d+)\.conv(?P<position>\d)\.weight")
    keys: list[Hashable] = []
    for index, layer in enumerate(layers):
        match = blocks.fullmatch(layer.name)
        shared = match is not None and match["block"] != "0"
        keys.append((match["module"], match["position"]) if match is not None and shared else index)
    return numbered(keys) if sum(isinstance(key, tuple) for key in keys) == 36 else None


_TABLES: dict[str, Callable[[Sequence[LayerSpec]], list[int] | None]] = {
    "wrn-28-10": _wrn_28_10,
    "resnet-50": _resnet_50,
}
TABLES = tuple(_TABLES)
