"""Which layers share a bank: the groupings of SSN (Plummer et al., ICLR 2022, section 3.2; tables of its release).

Each function gives one group number for each layer, 0 to P - 1 without a gap.
"""

from __future__ import annotations

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
    """A published table by name: ``wrn-28-10`` (14 groups) or ``resnet-50``.

    The latter has 32 groups with the release's stem of three convolutions (timm's ``resnet50d``), 30 with a stem of one.

    Raises:
        UsageError: if the network is not the one that the table is for: other layers, or layers of other shapes.
    """
    groups = _TABLES[name](layers)
    if groups is None:
        raise UsageError(
            f"The published table manual-{name} is for the layers of {_FOR[name]}; these {len(layers)} layers differ from "
            "them in number or shapes. Give a list with one group number for each layer instead."
        )
    return groups


def _class(layer: LayerSpec) -> str:
    return "linear" if layer.kind == "attention" else layer.kind


_ANY = 0
"""Stands for input channels and classes, which differ from task to task."""
Shapes = list[tuple[int, ...]]


def _wrn_28_10(layers: Sequence[LayerSpec]) -> list[int] | None:
    """In each stage the six equal convolutions behind the first block together, everything else alone."""
    shapes: Shapes = [(16, _ANY, 3, 3)]
    keys: list[Hashable] = ["stem"]
    for width, inputs in ((160, 16), (320, 160), (640, 320)):
        shapes += [(width, inputs, 3, 3), (width, width, 3, 3), (width, inputs, 1, 1), *[(width, width, 3, 3)] * 6]
        keys += [*((width, i) for i in range(3)), *[width] * 6]
    return numbered([*keys, "classifier"]) if _are(layers, [*shapes, (_ANY, 640)]) else None


def _resnet_50(layers: Sequence[LayerSpec]) -> list[int] | None:
    """In each module the blocks behind the first share by position (reduce, 3x3, expand), everything else is alone.

    The stem is three convolutions as in the release, or one; a first block's shortcut follows its convolutions.
    """
    deep: Shapes = [(32, _ANY, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    for stem in ([(64, _ANY, 7, 7)], deep):
        shapes: Shapes = list(stem)
        keys: list[Hashable] = [("stem", i) for i in range(len(stem))]
        for width, inputs, blocks in ((64, 64, 3), (128, 256, 4), (256, 512, 6), (512, 1024, 3)):
            shapes += [
                *_bottleneck(inputs, width),
                (4 * width, inputs, 1, 1),
                *_bottleneck(4 * width, width) * (blocks - 1),
            ]
            keys += [
                *((width, "first", i) for i in range(4)),
                *((width, i) for _ in range(1, blocks) for i in range(3)),
            ]
        if _are(layers, [*shapes, (_ANY, 2048)]):
            return numbered([*keys, "classifier"])
    return None


def _bottleneck(inputs: int, width: int) -> Shapes:
    return [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]


def _are(layers: Sequence[LayerSpec], shapes: Shapes) -> bool:
    """Whether these layers have these shapes, in their order."""
    return len(layers) == len(shapes) and all(
        len(layer.shape) == len(shape)
        and all(want in (_ANY, has) for has, want in zip(layer.shape, shape, strict=True))
        for layer, shape in zip(layers, shapes, strict=True)
    )


_TABLES: dict[str, Callable[[Sequence[LayerSpec]], list[int] | None]] = {
    "wrn-28-10": _wrn_28_10,
    "resnet-50": _resnet_50,
}
_FOR = {"wrn-28-10": "wrn-28-10", "resnet-50": "resnet-50 (resnet50 of torchvision or timm, timm:resnet50d)"}
TABLES = tuple(_TABLES)
