"""Windows: every layer reads its own window of one bank, times a trained scale. An example, not a published method."""

from itertools import accumulate

import torch
from torch import nn

from npasbench.api import BudgetTooSmall, Knobs, SharingMethod, WeightGenerator
from npasbench.sharing.initial import common_std, normal


class WindowsKnobs(Knobs):
    """``scaled`` gives each layer a trained scale; without it all layers have the bank's deviation."""

    scaled: bool = True


class Windows(SharingMethod):
    """Windows start evenly spread over the bank: side by side at the dense size, overlapping below it."""

    knobs = WindowsKnobs

    def generator(self, layers, parameters, rng):
        scales = len(layers) if self.settings.scaled else 0
        if parameters <= scales:
            raise BudgetTooSmall(smallest=scales + 1)
        return WindowedBank(layers, parameters - scales, bool(scales), rng)


class WindowedBank(WeightGenerator):
    """``bank [n]`` and, if scaled, ``scales [layers]``: the kinds under which both are counted."""

    def __init__(self, layers, parameters, scaled, rng):
        super().__init__()
        self.layers, self.sizes = layers, [layer.size for layer in layers]
        dense, std = sum(self.sizes), common_std(layers)
        self.bank = nn.Parameter(normal(min(parameters, dense), std=std, rng=rng))
        self.scales = nn.Parameter(torch.tensor([layer.std / std for layer in layers])) if scaled else None
        n = len(self.bank)
        starts = [before * n // dense for before in accumulate(self.sizes[:-1], initial=0)]
        places = [start + torch.arange(size) for start, size in zip(starts, self.sizes, strict=True)]
        self.register_buffer("places", torch.cat(places) % n, persistent=False)  # follows from the shapes: not stored

    def forward(self):
        windows = self.bank.index_select(0, self.places).split(self.sizes)  # one gather, so one gradient buffer
        scales = [1.0] * len(windows) if self.scales is None else self.scales.unbind()
        given = zip(self.layers, windows, scales, strict=True)
        return {layer.name: (window * scale).view(layer.shape) for layer, window, scale in given}
