"""A weight generator that composes layers from SuperWeights, with coefficients that layers may share.

Teterwak et al. (WACV 2024, section 3.1). A SuperWeight is a learned mixture of its templates; which layers mix alike is a
list of class numbers for each SuperWeight, and it may change during training (:meth:`ComposedWeights.unshare`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.errors import UsageError
from npasbench.sharing.clusters import by_member
from npasbench.sharing.composing import Patch, Plan, Store, Weight, compose, make_plan
from npasbench.sharing.initial import normal, orthogonal
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.network import WeightGenerator
from npasbench.sharing.superweights import Cluster

PUBLISHED_STD = math.sqrt(2 / 9)
"""The release fills every bank as if it held 3x3 kernels of one channel."""

Classes = dict[str, list[int]]
"""For each SuperWeight (``cluster_index``) the class of each layer that uses it: layers of one class mix alike."""


class ComposedWeights(WeightGenerator):
    """Weights of ``layers``, in ``clusters``, from ``templates`` (flat) and ``coefficients`` ``[classes, n]`` a SuperWeight.

    ``counts[cluster][index]`` is the number of templates of each SuperWeight. ``he`` starts every layer at the deviation
    that its architecture gives it; otherwise all start at sqrt(2 / 9), as published.
    """

    kinds = ("templates", "coefficients")

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        clusters: Sequence[Cluster],
        counts: Sequence[Sequence[int]],
        classes: Classes,
        *,
        he: bool,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.clusters, self.counts = tuple(clusters), tuple(map(tuple, counts))
        self.classes: Classes = {key: list(numbers) for key, numbers in classes.items()}
        self.layers = tuple(layers)
        self.stores = _stores(self.clusters, self.counts)
        self.templates = nn.Parameter(torch.zeros(sum(n * size for _, n, size in self.stores.values())))
        self.coefficients = nn.ParameterDict()
        self.listening = False
        self.searched: dict[str, Any] = {}
        self.keeps_classes = False  # a search's network stays tied
        self.weight_gradients: dict[str, Tensor] | None = None
        for key, store in self.stores.items():
            users = self.users(key)
            target = math.sqrt(sum(layer.std**2 for layer in users) / len(users)) if he else PUBLISHED_STD
            with torch.no_grad():
                extent = slice(store.start, store.start + store.templates * store.size)
                self.templates[extent] = normal(store.templates * store.size, std=target, rng=rng)
            self.coefficients[key] = nn.Parameter(self._first_coefficients(key, target, he, rng))
        self._follow_classes()

    def forward(self) -> dict[str, Tensor]:
        """One product for each SuperWeight, whatever the number of layers and members that use it."""
        with torch.autocast(self.templates.device.type, enabled=False):
            if self.listening and torch.is_grad_enabled():
                plan, matrices = self.each_plan, [self._heard(key) for key in self.stores]
            else:
                plan, matrices = self.plan, [self.coefficients[key] for key in self.stores]
            composed = compose(self.templates, plan, matrices)
        weights = dict(zip((layer.name for layer in self.layers), composed, strict=True))
        if self.weight_gradients is not None and torch.is_grad_enabled():
            self._watch(weights)
        return weights

    def users(self, key: str) -> list[LayerSpec]:
        """The layers that use a SuperWeight, in the order of its classes."""
        cluster, index = map(int, key.split("_"))
        return [self.clusters[cluster].layers[position] for position in self.clusters[cluster].users(index)]

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Each layer's cluster and the number of SuperWeights that it is composed of."""
        return {
            layer.name: {"cluster": number, "superweights": cluster.level(layer) + 1}
            for number, cluster in enumerate(self.clusters)
            for layer in cluster.layers
        }

    def described(self) -> list[dict[str, Any]]:
        """The clusters as ``npasbench inspect`` shows them; layers are numbered within their member."""
        number = {layer.name: k for own in by_member(self.layers) for k, layer in enumerate(own)}
        return [
            {
                "cluster": place,
                "kernel": list(cluster.kernel),
                "superweights": [
                    {"index": index, "size": size, "templates": self.counts[place][index]}
                    for index, size in enumerate(cluster.sizes)
                ],
                "layers": [
                    {
                        "member": layer.member,
                        "layer": number[layer.name],
                        "name": layer.name,
                        "shape": list(layer.shape),
                        "superweights": cluster.level(layer) + 1,
                    }
                    for layer in cluster.layers
                ],
            }
            for place, cluster in enumerate(self.clusters)
        ]

    # Who mixes alike

    def evidence(self, key: str) -> Tensor:
        """The gradient of each user's own coefficients, summed while listening: ``[users, n]``."""
        return self.get_buffer(f"evidence{key}")

    def set_classes(self, classes: Classes) -> None:
        """Give every SuperWeight these classes, with coefficients of zero where their number has changed."""
        for key, numbers in classes.items():
            if len(numbers) != len(self.classes[key]):
                raise UsageError(f"SuperWeight {key} has {len(self.classes[key])} users, not {len(numbers)}.")
            own = self.coefficients[key]
            if max(numbers) + 1 != own.shape[0]:
                self.coefficients[key] = nn.Parameter(own.new_zeros(max(numbers) + 1, own.shape[1]))
        self.classes = {key: list(numbers) for key, numbers in classes.items()}
        self._follow_classes()

    def _follow_classes(self) -> None:
        """The plans of the present classes: one row for each class, and one for each user while listening."""
        self.plan = self._plan(self.classes)
        self.each_plan = self._plan({key: list(range(len(numbers))) for key, numbers in self.classes.items()})
        for key, numbers in self.classes.items():
            self.register_buffer(f"index{key}", torch.tensor(numbers, device=self.templates.device), persistent=False)
            if f"evidence{key}" not in self._buffers and len(numbers) > max(numbers) + 1:
                self.register_buffer(f"evidence{key}", torch.zeros(len(numbers), self.stores[key].templates))

    def _plan(self, classes: Mapping[str, Sequence[int]]) -> Plan:
        keys = {key: place for place, key in enumerate(self.stores)}
        row = {
            (key, layer.name): number
            for key, numbers in classes.items()
            for layer, number in zip(self.users(key), numbers, strict=True)
        }
        home = {
            layer.name: (number, cluster) for number, cluster in enumerate(self.clusters) for layer in cluster.layers
        }
        weights = []
        for layer in self.layers:
            number, cluster = home[layer.name]
            patches = [
                Patch(keys[key], row[key, layer.name], region)
                for region in cluster.regions(cluster.level(layer))
                for key in [f"{number}_{region.superweight}"]
            ]
            weights.append(Weight(layer.shape, cluster.unit, tuple(patches)))
        rows = [1 + max(classes[key]) for key in self.stores]
        return make_plan(list(self.stores.values()), rows, weights)

    # Evidence

    def _heard(self, key: str) -> Tensor:
        """A row for each user, whose gradient is added to the evidence where users share a class."""
        each: Tensor = self.coefficients[key].index_select(0, self.get_buffer(f"index{key}"))
        if f"evidence{key}" in self._buffers:
            _listen(each, self.evidence(key).add_)
        return each

    def _watch(self, weights: Mapping[str, Tensor]) -> None:
        """Add the gradient of every composed weight to ``weight_gradients``."""
        for name, weight in weights.items():
            _listen(weight, functools.partial(self._note, name))

    def _note(self, name: str, gradient: Tensor) -> None:
        if self.weight_gradients is not None:
            known = self.weight_gradients.get(name)
            self.weight_gradients[name] = gradient.clone() if known is None else known + gradient

    def _first_coefficients(self, key: str, std: float, he: bool, rng: torch.Generator) -> Tensor:
        """Orthogonal over the classes of each member; ``he``: rows scaled to the deviation of the layers of the class."""
        numbers, users, n = self.classes[key], self.users(key), self.stores[key].templates
        rows = torch.zeros(max(numbers) + 1, n)
        for member in sorted({layer.member for layer in users}):
            own = [place for place, layer in enumerate(users) if layer.member == member]
            drawn = orthogonal(len(own), n, rng)
            for row, place in reversed(list(enumerate(own))):
                if numbers.index(numbers[place]) == place:
                    rows[numbers[place]] = drawn[row]
        if not he:
            return rows
        wanted = torch.zeros(len(rows))
        for number in range(len(rows)):
            squares = [layer.std**2 for layer, one in zip(users, numbers, strict=True) if one == number]
            wanted[number] = math.sqrt(sum(squares) / len(squares)) / std
        scaled: Tensor = rows / rows.norm(dim=1, keepdim=True) * wanted[:, None]
        return scaled


def _listen(tensor: Tensor, hear: Callable[[Tensor], object]) -> None:
    """Call ``hear`` with the tensor's gradient, which goes on as it is."""

    def hook(gradient: Tensor) -> None:
        hear(gradient)

    if tensor.requires_grad:
        tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def _stores(clusters: Sequence[Cluster], counts: Sequence[Sequence[int]]) -> dict[str, Store]:
    """Where each SuperWeight's templates lie, in the order of clusters and SuperWeights."""
    stores: dict[str, Store] = {}
    start = 0
    for number, (cluster, own) in enumerate(zip(clusters, counts, strict=True)):
        for index, (size, n) in enumerate(zip(cluster.sizes, own, strict=True)):
            stores[f"{number}_{index}"] = Store(start, n, size)
            start += n * size
    return stores
