"""The throw-away network in which SSN learns who shares with whom (Plummer et al., ICLR 2022, section 3.2).

One bank for all layers, four templates each, all of them resized from the whole bank, mixed with the softmax of what the
layer learns: this is what layers are compared by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from npasbench.sharing.generate import DIMENSIONS, BankedWeights, projection
from npasbench.sharing.groups import by_shape
from npasbench.sharing.initial import normal, orthogonal
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.network import WeightGenerator
from npasbench.sharing.warping import TEMPLATES, Warp, image_shape

BANK_STD = (2 / 9) ** 0.5
"""Kaiming-normal for a 3x3 kernel, with which a bank is filled (the release's rule)."""


class LearningWeights(WeightGenerator):
    """``softmax(coefficients) [layers, 4]`` over four images of one ``bank``, resized to every layer."""

    kinds = BankedWeights.kinds

    def __init__(
        self, layers: Sequence[LayerSpec], bank: int, share: Literal["wavg", "emb"], rng: torch.Generator
    ) -> None:
        super().__init__()
        self.specs, self.rows = tuple(layers), [list(group) for group in by_shape(layers).values()]
        self.warp = Warp([group[0].shape for group in self.rows], bank)
        self.bank = nn.ParameterDict({"0": nn.Parameter(normal(bank, std=BANK_STD, rng=rng))})
        self.coefficients, self.embeddings, self.projections = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        if share == "wavg":
            self.coefficients["0"] = nn.Parameter(orthogonal(len(layers), TEMPLATES, rng))
        else:
            self.embeddings["0"] = nn.Parameter(orthogonal(len(layers), DIMENSIONS, rng))
            self.projections["0"] = projection(TEMPLATES, rng)

    def forward(self) -> dict[str, Tensor]:
        """Rows resized, mixed, columns resized: three batched steps for each shape."""
        bank = self.bank["0"]
        with torch.autocast(bank.device.type, enabled=False):
            mixture = torch.softmax(self._raw(), dim=1)
            order = {layer.name: row for row, layer in enumerate(self.specs)}
            alphas = [mixture[[order[layer.name] for layer in group]] for group in self.rows]
            warped = self.warp(bank, alphas)
        return {
            layer.name: row.view(layer.shape)
            for group, rows in zip(self.rows, warped, strict=True)
            for layer, row in zip(group, rows.unbind(0), strict=True)
        }

    def vectors(self) -> Tensor:
        """What each layer has learned, raw as published: embeddings ``[layers, 24]`` or coefficients ``[layers, 4]``."""
        learned: Tensor = (self.embeddings if "0" in self.embeddings else self.coefficients)["0"]
        return learned.detach()

    def fixed(self) -> Tensor:
        """Nothing: where images are read depends on shapes alone."""
        return torch.zeros(0)

    def described(self) -> list[dict[str, Any]]:
        """The one group as ``npasbench inspect`` shows it."""
        bank = self.bank["0"].numel()
        images = [image_shape(layer.shape, bank) for layer in self.specs]
        layers = [
            {
                "layer": index,
                "name": layer.name,
                "shape": list(layer.shape),
                "templates": TEMPLATES,
                "start": 0,
                "end": bank - bank % TEMPLATES,
                "resized_from": list(image),
            }
            for index, (layer, image) in enumerate(zip(self.specs, images, strict=True))
        ]
        read = max(TEMPLATES * height * width for height, width in images)
        return [{"group": 0, "bank_size": bank, "unused": bank - read, "layers": layers}]

    def _raw(self) -> Tensor:
        raw: Tensor = self.coefficients["0"] if "0" in self.coefficients else self.embeddings["0"]
        for one in self.projections.values():
            raw = one(raw)  # [layers, 24] -> [layers, 4]
        return raw
