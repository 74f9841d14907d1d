"""Norms whose gain starts at zero, as timm's residual branches begin: behind them no weight has a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from npasbench.measuring.count import parameter_kinds


@contextlib.contextmanager
def gains_at_one(network: nn.Module) -> Iterator[None]:
    """Within it each norm's weight that is zero throughout is one. A network without any stays as it is."""
    kinds = parameter_kinds(network)
    silent = [
        parameter
        for name, parameter in network.named_parameters()
        if kinds[name] == "norm" and name.rpartition(".")[2] == "weight" and not bool(parameter.any())
    ]
    with torch.no_grad():
        for gain in silent:
            gain.fill_(1.0)
    try:
        yield
    finally:
        with torch.no_grad():
            for gain in silent:
                gain.zero_()
