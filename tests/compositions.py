"""Composed weights of drawn layers, and the same weights put together plainly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from npasbench.api import LayerSpec
from npasbench.sharing.clusters import by_member, clusters_of
from npasbench.sharing.composed import Classes, ComposedWeights

Shape = tuple[int, ...]


def layers_in(*members: Sequence[Shape], std: float = 1.0) -> list[LayerSpec]:
    """Layers of members of no network, named as in an ensemble."""
    return [
        LayerSpec(f"members.{member}.{k}.weight", shape, "convolution", member=member, std=std)
        for member, shapes in enumerate(members)
        for k, shape in enumerate(shapes)
    ]


def composed(
    layers: Sequence[LayerSpec],
    found: Sequence[Sequence[int]] | None = None,
    *,
    templates: int = 2,
    rows: int | None = None,
    he: bool = True,
    seed: int = 0,
) -> ComposedWeights:
    """Composed weights in one cluster, or as ``found``; layers mix alike in turns of ``rows``, or each as it does."""
    members = by_member(layers)
    clusters = clusters_of(members, [[0] * len(own) for own in members] if found is None else found)
    classes: Classes = {}
    for number, cluster in enumerate(clusters):
        for index in range(len(cluster.sizes)):
            users = range(len(cluster.users(index)))
            classes[f"{number}_{index}"] = [k % rows if rows else k for k in users]
    counts = [[templates + index % 2 for index in range(len(cluster.sizes))] for cluster in clusters]
    rng = torch.Generator().manual_seed(seed)
    return ComposedWeights(layers, clusters, counts, classes, he=he, rng=rng)


@st.composite
def compositions(draw: st.DrawFn) -> ComposedWeights:
    """Up to three members of layers with a kernel or none, in up to two clusters, some mixing alike."""
    extent = st.integers(1, 6)
    kernel = draw(st.sampled_from([(), (1,), (3, 3), (2, 1)]))
    shapes = st.tuples(extent, extent).map(lambda shape: (*shape, *kernel))
    members = draw(st.lists(st.lists(shapes, min_size=1, max_size=4), min_size=1, max_size=3))
    found = [draw(st.lists(st.integers(0, 1), min_size=len(own), max_size=len(own))) for own in members]
    if {number for own in found for number in own} != {0, 1}:
        found = [[0] * len(own) for own in members]
    layers = layers_in(*members)
    return composed(
        [replace(layer, std=draw(st.sampled_from([0.5, 1.0]))) for layer in layers],
        found,
        templates=draw(st.integers(1, 4)),
        rows=draw(st.sampled_from([None, 1, 2])),
        he=draw(st.booleans()),
    )


def plainly(weights: ComposedWeights) -> dict[str, Tensor]:
    """Every weight on its own, SuperWeight by SuperWeight, as the paper's release puts them together."""
    made: dict[str, Tensor] = {}
    for number, cluster in enumerate(weights.clusters):
        for position, layer in enumerate(cluster.layers):
            pieces = [
                superweight(weights, f"{number}_{index}", cluster.users(index).index(position))
                for index in range(cluster.level(layer) + 1)
            ]
            made[layer.name] = chained(pieces, cluster.shapes)
    return {layer.name: made[layer.name] for layer in weights.layers}


def superweight(weights: ComposedWeights, key: str, user: int) -> Tensor:
    """The templates of a SuperWeight, added up with the coefficients of one of its users."""
    start, templates, size = weights.stores[key]
    alpha = weights.coefficients[key][weights.classes[key][user]]
    chunks = weights.templates[start : start + templates * size].split(size)
    return sum((a * chunk for a, chunk in zip(alpha, chunks, strict=True)), torch.zeros(size, dtype=alpha.dtype))


def chained(pieces: Sequence[Tensor], shapes: Sequence[Shape]) -> Tensor:
    """The first piece as the first shape; each further one beside it, below it, or both; what juts out is cut off."""
    weight = pieces[0].view(shapes[0])
    for piece, (o, i, *kernel) in zip(pieces[1:], shapes[1:], strict=False):
        r, c = weight.shape[:2]
        beside = piece.numel() if o <= r else min(r, o) * max(0, i - c) * torch.Size(kernel).numel()
        if i > c:
            block = piece[:beside].view(min(r, o), i - c, *kernel)
            weight = torch.cat([weight[:o], block], dim=1)
        else:
            beside, weight = 0, weight[:, :i]
        if o > r:
            weight = torch.cat([weight, piece[beside:].view(o - r, i, *kernel)], dim=0)
    return weight
