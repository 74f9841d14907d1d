"""Step 1 of the SuperWeight search: which layers share parameters, and which start with the same coefficients.

Teterwak et al. (WACV 2024, section 3.2). Layers of the deepest member whose gradients point the same way stay together;
the layers of every other member join the cluster of the layer that they correspond to, by name where the depth is the
same, else by gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from npasbench.sharing.agreement import Linkage, agreeing, cosine, cosines
from npasbench.sharing.clusters import Map, deepest, kernel_class, renumbered
from npasbench.sharing.composed import Classes
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.superweights import Cluster

Link = tuple[int, int] | None
"""The member and layer whose coefficients a layer starts with, or None for its own."""


@dataclass(frozen=True)
class Split:
    """What a search has found, for every layer of every member: its cluster, and whose coefficients it shares."""

    clusters: Map
    links: list[list[Link]]


class Evidence:
    """The gradients of all composed weights, and what the members have in common.

    ``gradients`` holds one tensor for each layer's name, ``coarse`` the bins, ``depths`` for each member something that
    is equal for members of the same depth.
    """

    def __init__(
        self,
        members: Sequence[Sequence[LayerSpec]],
        gradients: Mapping[str, Tensor],
        coarse: Map,
        depths: Sequence[object],
    ) -> None:
        self.members, self.gradients, self.coarse, self.depths = members, gradients, coarse, depths
        self.lead = deepest(members)
        own = coarse[self.lead]
        self._counterparts: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._similarities = {
            number: cosines([self._gradient(self.lead, k) for k, one in enumerate(own) if one == number])
            for number in sorted(set(own))
        }

    def split(self, threshold: float, rule: Linkage, link_threshold: float | None = None) -> Split:
        """The clusters in which the lead's layers agree beyond ``threshold``, joined by all other members' layers.

        With ``link_threshold`` a layer shares coefficients only with one whose gradient's cosine lies above it.
        """
        found: Map = [[-1] * len(layers) for layers in self.members]
        found[self.lead] = self._lead_clusters(threshold, rule)
        links: list[list[Link]] = [[None] * len(layers) for layers in self.members]
        attached = [self.lead]
        for member in range(len(self.members)):
            if member == self.lead:
                continue
            for k in range(len(self.members[member])):
                target = self._known_counterpart(member, k, attached)
                if target is None:
                    found[member][k] = self._alone(member, k)
                    continue
                found[member][k] = found[target[0]][target[1]]
                if link_threshold is None or self._agreement((member, k), target) > link_threshold:
                    links[member][k] = target
            attached.append(member)
        return Split(renumbered(found), links)

    def _lead_clusters(self, threshold: float, rule: Linkage) -> list[int]:
        own, numbers, used = self.coarse[self.lead], [-1] * len(self.coarse[self.lead]), 0
        for number, similarities in self._similarities.items():
            groups = agreeing(similarities, threshold, rule)
            for k, group in zip((k for k, one in enumerate(own) if one == number), groups, strict=True):
                numbers[k] = used + group
            used += 1 + max(groups)
        return numbers

    def _known_counterpart(self, member: int, k: int, attached: Sequence[int]) -> tuple[int, int] | None:
        """As :meth:`_counterpart`, which is the same at every threshold."""
        if (member, k) not in self._counterparts:
            self._counterparts[member, k] = self._counterpart(member, k, attached)
        return self._counterparts[member, k]

    def _counterpart(self, member: int, k: int, attached: Sequence[int]) -> tuple[int, int] | None:
        """The same layer of an attached member of the same depth; else the lead's layer of the bin that agrees most."""
        name = _local(self.members[member][k])
        for other in attached:
            if self.depths[other] == self.depths[member]:
                names = [_local(layer) for layer in self.members[other]]
                if name in names and self._same_kernel((member, k), (other, names.index(name))):
                    return other, names.index(name)
        places = [p for p, number in enumerate(self.coarse[self.lead]) if number == self.coarse[member][k]]
        if not places:
            return None
        return self.lead, max(places, key=lambda place: self._agreement((member, k), (self.lead, place)))

    def _alone(self, member: int, k: int) -> int:
        """The cluster of a layer whose bin no layer of the lead is in: its bin, beyond all clusters of the lead."""
        return sum(map(len, self.members)) + self.coarse[member][k]

    def _agreement(self, one: tuple[int, int], other: tuple[int, int]) -> float:
        return cosine(self._gradient(*one), self._gradient(*other))

    def _same_kernel(self, one: tuple[int, int], other: tuple[int, int]) -> bool:
        return kernel_class(self.members[one[0]][one[1]]) == kernel_class(self.members[other[0]][other[1]])

    def _gradient(self, member: int, k: int) -> Tensor:
        return self.gradients[self.members[member][k].name]


def linked_classes(
    clusters: Sequence[Cluster], members: Sequence[Sequence[LayerSpec]], links: Sequence[Sequence[Link]], tied: bool
) -> Classes:
    """For each SuperWeight the class of each user: all one, each its own, or as linked where both ends use it."""
    target = {
        members[member][k].name: members[link[0]][link[1]].name
        for member, own in enumerate(links)
        for k, link in enumerate(own)
        if link is not None
    }
    classes: Classes = {}
    for number, cluster in enumerate(clusters):
        for index in range(len(cluster.sizes)):
            names = [cluster.layers[position].name for position in cluster.users(index)]
            known: dict[str, int] = {}
            classes[f"{number}_{index}"] = [
                0 if tied else known.setdefault(_root(name, target, names), len(known)) for name in names
            ]
    return classes


def _root(name: str, target: Mapping[str, str], users: Sequence[str]) -> str:
    """The layer at the end of a chain of links, as far as it leads over users."""
    while name in target and target[name] in users:
        name = target[name]
    return name


def _local(layer: LayerSpec) -> str:
    """A layer's name within its own network."""
    return layer.name.split(".", 2)[2] if layer.name.startswith("members.") else layer.name
