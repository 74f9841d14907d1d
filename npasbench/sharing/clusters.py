"""Which layers may share before anything is known about them: bins of neighbouring layers with equal kernels.

Teterwak et al. (WACV 2024, section 3.2). Layers of one kernel are cut into contiguous runs, as many as the deepest member
needs to have the wanted number of bins; every member is cut into as many, so that bins align by relative depth.
"""

from __future__ import annotations

from collections.abc import Sequence

from npasbench.errors import UsageError
from npasbench.sharing.groups import contiguous_runs
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.superweights import Cluster

Map = list[list[int]]
"""For each member the cluster of each of its layers."""


def by_member(layers: Sequence[LayerSpec]) -> list[list[LayerSpec]]:
    """The layers of each member, in network order."""
    members: list[list[LayerSpec]] = [[] for _ in range(1 + max((layer.member for layer in layers), default=0))]
    for layer in layers:
        members[layer.member].append(layer)
    return members


def deepest(members: Sequence[Sequence[LayerSpec]]) -> int:
    """The member with the most layers, the first among equals: it decides about bins."""
    return max(range(len(members)), key=lambda member: len(members[member]))


def kernel_class(layer: LayerSpec) -> tuple[int, tuple[int, ...], bool]:
    """What layers of one bin have in common: kernel shape, and whether each output sees some channels only (depthwise)."""
    kernel = layer.shape[2:]
    return len(kernel), kernel, layer.groups > 1


def coarse_map(members: Sequence[Sequence[LayerSpec]], bins: int) -> Map:
    """The bin of each layer, with about ``bins`` bins for the layers of the deepest member."""
    lead = deepest(members)
    classes = sorted({kernel_class(layer) for layers in members for layer in layers})
    found: Map = [[-1] * len(layers) for layers in members]
    first = 0
    for kind in classes:
        places = [[k for k, layer in enumerate(layers) if kernel_class(layer) == kind] for layers in members]
        host = lead if places[lead] else next(member for member, own in enumerate(places) if own)
        runs = max(1, round(bins * len(places[host]) / len(members[host])))
        for own, numbers in zip(places, found, strict=True):
            for place, run in zip(own, contiguous_runs(len(own), runs), strict=True):
                numbers[place] = first + run
        first += runs
    return renumbered(found)


def renumbered(found: Sequence[Sequence[int]]) -> Map:
    """The same map with the clusters that have layers numbered from 0 without a gap, in their old order."""
    used = sorted({number for numbers in found for number in numbers})
    return [[used.index(number) for number in numbers] for numbers in found]


def clusters_of(members: Sequence[Sequence[LayerSpec]], found: Sequence[Sequence[int]]) -> list[Cluster]:
    """The clusters of a map, their layers ordered by member and layer.

    Raises:
        UsageError: for a map of other members or layers, with a gap, or that mixes kernels.
    """
    if [len(numbers) for numbers in found] != [len(layers) for layers in members]:
        raise UsageError(
            f"clusters holds {[len(numbers) for numbers in found]} numbers for its members; these networks have "
            f"{[len(layers) for layers in members]} layers to compose. Give one list for each member, a number for each layer."
        )
    pairs = [
        (number, layer)
        for numbers, layers in zip(found, members, strict=True)
        for number, layer in zip(numbers, layers, strict=True)
    ]
    wanted = range(1 + max(number for number, _ in pairs))
    clusters = []
    for number in wanted:
        own = tuple(layer for other, layer in pairs if other == number)
        if not own:
            raise UsageError(f"No layer is in cluster {number}; number clusters 0, 1, 2 and so on, without a gap.")
        kernels = {layer.shape[2:] for layer in own}
        if len(kernels) > 1:
            raise UsageError(
                f"Cluster {number} mixes kernels {sorted(kernels)}; layers of one cluster need kernels of one shape."
            )
        clusters.append(Cluster(own))
    return clusters
