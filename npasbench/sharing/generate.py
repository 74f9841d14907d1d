"""Weights of a whole network out of banks of templates: few batched products, whatever the number of layers.

SSN (Plummer et al., ICLR 2022, section 3.1). What a layer reads is fixed when the network is built; here it is turned into
one :func:`~npasbench.sharing.mixing.mix` for each bank, followed by whatever upsampling the layers need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from npasbench.sharing.initial import normal, orthogonal
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.mixing import Order, Read, mix, write_order
from npasbench.sharing.network import WeightGenerator
from npasbench.sharing.placement import unread
from npasbench.sharing.store import Group
from npasbench.sharing.upsample import Stretch, resize

Share = Literal["wavg", "emb", "avg"]
DIMENSIONS = 24
"""Length of a layer's embedding under ``emb``."""
_TINY = 1e-12


@dataclass(frozen=True)
class _Reading:
    """How one bank is read: ``reads`` in order, and for each tensor that mixing gives the layers that use it."""

    reads: tuple[Read, ...]
    order: Order
    users: tuple[tuple[int, ...], ...]
    rows: dict[int, list[int]] = field(default_factory=dict)
    """For each number of templates K the layers of the coefficient matrix's rows."""


class BankedWeights(WeightGenerator):
    """Layers' weights from ``bank`` (one for each group), ``coefficients`` or ``embeddings`` and ``projections``.

    ``upsamplers`` holds what upsampled layers learn of their own, ``unshared`` the weights of layers that are alone.
    """

    kinds = ("bank", "coefficients", "embeddings", "projections", "upsamplers", "unshared")

    def __init__(
        self,
        groups: Sequence[Group],
        share: Share,
        stretch: Stretch,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.groups, self.share, self.stretch = tuple(groups), share, stretch
        self.scales: dict[str, float] = {}
        self.readings = [_reading(group) for group in groups]
        self.bank, self.coefficients, self.embeddings = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.projections, self.upsamplers, self.unshared = nn.ModuleDict(), nn.ParameterDict(), nn.ParameterDict()
        for index, (group, reading) in enumerate(zip(self.groups, self.readings, strict=True)):
            if group.dense:
                layer = group.layers[0]
                self.unshared[str(index)] = nn.Parameter(normal(*layer.shape, std=layer.std, rng=rng))
            else:
                self.bank[str(index)] = nn.Parameter(torch.zeros(group.bank))
                self._add_coefficients(index, reading, rng)
                self._add_upsamplers(index, group, rng)

    def forward(self) -> dict[str, Tensor]:
        """One product for each block that is read, then upsampling where a layer is larger than its bank."""
        weights: dict[str, Tensor] = {}
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            for index, group in enumerate(self.groups):
                if group.dense:
                    weights[group.layers[0].name] = self.unshared[str(index)]
                else:
                    weights |= self._group_weights(index, group, self.readings[index])
        return weights

    @torch.no_grad()
    def preserve_variance(self) -> None:
        """Fix a factor for each layer, so that its weight now has the deviation of the layer's own initialisation."""
        weights = self()
        layers = [layer for group in self.groups if not group.dense for layer in group.layers]
        self.scales = {layer.name: layer.std / _deviation(weights[layer.name]) for layer in layers}
        for key, rows in self._matrices():
            self.register_buffer(
                f"factors{key}", _column([self.scales[layer.name] for layer in rows]), persistent=False
            )

    @torch.no_grad()
    def slow_coefficients(self) -> None:
        """Write coefficients in units in which one moves a weight as far as a step on the weight itself would.

        A template of deviation s has the norm s sqrt(P); coefficients are multiplied by it and their factors divided, so
        their steps become smaller by its square. Under ``emb`` all layers of one projection share a mean norm.
        """
        for key, rows in self._matrices():
            norms = _column([max(1.0, layer.std * math.sqrt(layer.size)) for layer in rows])
            if self.share == "wavg":
                self.coefficients[key].mul_(norms)
            elif self.share == "emb":
                norms = norms.mean()
                for parameter in self.projections[key].parameters():
                    parameter.mul_(norms)
            else:
                continue
            self.register_buffer(f"factors{key}", self._factors(key, rows) / norms, persistent=False)

    def mixing(self, index: int) -> list[Tensor]:
        """The coefficients of a group, ``[layers, K]`` for each number of templates K, times fixed scales."""
        return [self._matrix(f"{index}_{k}", k, len(rows)) for k, rows in self.readings[index].rows.items()]

    def allocation(self) -> dict[str, dict[str, Any]]:
        """Each layer's group, its templates and where they lie in the group's bank."""
        return {
            layer.name: {"group": index, **_described(group, position)}
            for index, group in enumerate(self.groups)
            for position, layer in enumerate(group.layers)
        }

    def fixed(self) -> Tensor:
        """Every layer's scale; the factors of coefficients follow from these and the layers' deviations."""
        return torch.tensor(list(self.scales.values()))

    # Parameters

    def _add_coefficients(self, index: int, reading: _Reading, rng: torch.Generator) -> None:
        """Orthogonal over all layers with the same number of templates, as the release has it."""
        for k, rows in reading.rows.items():
            if self.share == "wavg":
                self.coefficients[f"{index}_{k}"] = nn.Parameter(orthogonal(len(rows), k, rng))
            elif self.share == "emb":
                self.embeddings[f"{index}_{k}"] = nn.Parameter(orthogonal(len(rows), DIMENSIONS, rng))
                self.projections[f"{index}_{k}"] = projection(k, rng)

    def _add_upsamplers(self, index: int, group: Group, rng: torch.Generator) -> None:
        for position, block in enumerate(group.blocks):
            rows, columns = (0, 0) if block.copies is None else self.stretch.parameters(block.copies)
            key, size = f"{index}_{position}", rows * columns
            if self.stretch.kind == "wavg" and size:
                self.upsamplers[key] = nn.Parameter(orthogonal(rows, columns, rng))
            elif size:
                self.upsamplers[key] = nn.Parameter(torch.full((rows, columns), 1 / size))

    # Weights

    def _group_weights(self, index: int, group: Group, reading: _Reading) -> dict[str, Tensor]:
        read = mix(self.bank[str(index)], reading.reads, reading.order, self.mixing(index))
        weights: dict[str, Tensor] = {}
        for flat, users in zip(read, reading.users, strict=True):
            for position in users:
                weights[group.layers[position].name] = self._shaped(flat, index, group, position)
        return weights

    def _shaped(self, flat: Tensor, index: int, group: Group, position: int) -> Tensor:
        layer, block = group.layers[position], group.blocks[position]
        if block.small is not None:
            weight = resize(flat.view(block.small), layer.shape)
        elif block.copies is not None:
            learned = self.upsamplers.get(f"{index}_{position}", flat)
            weight = self.stretch.apply(flat, learned, layer.size).view(layer.shape)
        else:
            weight = flat.view(layer.shape)
        scale = self.scales.get(layer.name, 1.0) if block.templates == 1 else 1.0
        return weight if scale == 1.0 else weight * scale

    def _matrix(self, key: str, k: int, layers: int) -> Tensor:
        """``[layers, K]``; under ``emb`` a projection of embeddings, ``W e + b``; under ``avg`` all 1 / K."""
        matrix: Tensor
        if self.share == "wavg":
            matrix = self.coefficients[key]
        elif self.share == "emb":
            matrix = self.projections[key](self.embeddings[key])
        else:
            matrix = self.bank[key.split("_")[0]].new_full((layers, k), 1 / k)
        factors: Tensor | None = getattr(self, f"factors{key}", None)
        return matrix if factors is None else matrix * factors

    def _matrices(self) -> Iterator[tuple[str, list[LayerSpec]]]:
        """The key of each coefficient matrix and the layers of its rows."""
        for index, (group, reading) in enumerate(zip(self.groups, self.readings, strict=True)):
            for k, rows in reading.rows.items():
                yield f"{index}_{k}", [group.layers[position] for position in rows]

    def _factors(self, key: str, rows: Sequence[LayerSpec]) -> Tensor:
        known: Tensor | None = getattr(self, f"factors{key}", None)
        return torch.ones(len(rows), 1) if known is None else known


def _deviation(weight: Tensor) -> float:
    """The deviation of a weight, or its root mean square where all entries are nearly one value."""
    size = float(weight.square().mean().sqrt())
    spread = float(weight.std(correction=0))
    return max(spread if spread > size / 10 else size, _TINY)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None]


def projection(templates: int, rng: torch.Generator) -> nn.Linear:
    """Embedding to coefficients, drawn uniformly within 1 / sqrt(24) as linear layers are by default."""
    linear = nn.Linear(DIMENSIONS, templates)
    bound = 1 / math.sqrt(DIMENSIONS)
    with torch.no_grad():
        for parameter in (linear.weight, linear.bias):
            parameter.copy_((2 * torch.rand(parameter.shape, generator=rng) - 1) * bound)
    return linear


def described(groups: Sequence[Group], layers: Sequence[LayerSpec]) -> list[dict[str, Any]]:
    """Groups as ``npasbench inspect`` shows them: bank, unread entries, and each layer's block, layers in network order."""
    number = {layer.name: index for index, layer in enumerate(layers)}
    return [
        {
            "group": index,
            "bank_size": group.bank,
            "unused": 0 if group.dense else unread(group.blocks, group.bank),
            **({"dense": True} if group.dense else {}),
            "layers": [
                {"layer": number[layer.name], "name": layer.name, "shape": list(layer.shape)}
                | _described(group, position)
                for position, layer in sorted(enumerate(group.layers), key=lambda item: number[item[1].name])
            ],
        }
        for index, group in enumerate(groups)
    ]


def _described(group: Group, position: int) -> dict[str, Any]:
    if group.dense:
        return {"templates": 1}
    block = group.blocks[position]
    copies = {} if block.copies is None else {"copies": block.copies}
    small = None if block.small is None else list(block.small)
    return {"templates": block.templates, "start": block.start, "end": block.end, "resized_from": small, **copies}


def _reading(group: Group) -> _Reading:
    """Layers that read one block with coefficients become rows of one product; equal blocks without are read once."""
    readers: dict[tuple[int, int, int], list[int]] = {}
    for position, (layer, block) in enumerate(zip(group.layers, group.blocks, strict=False)):
        size = layer.size if not block.upsampled else block.end - block.start
        readers.setdefault((block.start, block.templates, size), []).append(position)
    counts = sorted({k for _, k, _ in readers if k > 1})
    reads: list[Read] = []
    users: list[tuple[int, ...]] = []
    rows: dict[int, list[int]] = {k: [] for k in counts}
    for (start, k, size), positions in readers.items():
        if k == 1:
            reads.append(Read(start, 1, size))
            users.append(tuple(positions))
        else:
            reads.append(Read(start, k, size, len(positions), counts.index(k), len(rows[k])))
            rows[k] += positions
            users += [(position,) for position in positions]
    return _Reading(tuple(reads), write_order(reads, group.bank), tuple(users), rows)
