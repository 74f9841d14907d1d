"""Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow".

NeurIPS 2020. No data: R is the sum of the outputs for an input of ones, all parameters at their absolute values, and a
weight's synaptic flow is |w * dR/dw|. Flow is conserved from layer to layer, so that pruning little by little, measured
anew each time, leaves something of every layer (Algorithm 1). The paper shows it for layers that follow one another;
beside a shortcut a branch can still lose all its flow, which ``level`` prevents.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from npasbench.api import Findings, Knobs, Problem, SearchContext
from npasbench.errors import UsageError
from npasbench.pruning.flow import positive
from npasbench.pruning.masks import Masks, among, largest
from npasbench.pruning.method import PruningMethod, found, initial
from npasbench.pruning.scores import synflow_round


class SynFlowKnobs(Knobs):
    """After round k of ``rounds`` the share ``density ** (k / rounds)`` of all weights remains.

    ``level`` holds what every layer passes on at one size, so that residual branches keep their flow; in a chain of
    layers and ReLUs without biases it changes no score's rank. ``level = false`` is the paper's own network, which loses
    whole layers of some residual networks.
    """

    rounds: PositiveInt = 100
    level: bool = True


class SynFlow(PruningMethod):
    """Keeps the weights through which most synaptic flow passes, without any data, before the network is trained."""

    name = "synflow"
    knobs = SynFlowKnobs
    cite = """@inproceedings{tanaka2020pruning,
  title = {Pruning neural networks without any data by iteratively conserving synaptic flow},
  author = {Tanaka, Hidenori and Kunin, Daniel and Yamins, Daniel L. K. and Ganguli, Surya},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """Algorithm 1 on the initial network.

        Raises:
            LayerCollapse: if nothing of a layer remains.
        """
        network = initial(problem, context.seed)
        rounds, level = self.settings.rounds, self.settings.level
        shape = problem.input_shape
        return found(synflow(network, network.weights, shape, keep=network.keep, rounds=rounds, level=level))


def synflow(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    *,
    keep: int,
    rounds: int = 100,
    level: bool = True,
) -> Masks:
    """Masks for ``weights``, by their names in ``network``, that keep exactly ``keep`` of them; the network stays as it is.

    Raises:
        LayerCollapse: if nothing of a tensor remains.
        UsageError: without an input shape.
    """
    if not input_shape:
        raise UsageError("SynFlow sends ones through the network and needs to know the shape of its input.")
    flowing = positive(network)
    own = {name: flowing.get_parameter(name) for name in weights}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in own.items()}
    for number in remaining(sum(weight.numel() for weight in own.values()), keep, rounds):
        masks = largest(among(synflow_round(flowing, own, input_shape, level=level), masks), number)
        with torch.no_grad():
            for name, weight in own.items():
                weight.mul_(masks[name])
    return masks


def remaining(total: int, keep: int, rounds: int) -> list[int]:
    """How many weights remain after each round: an exponential from ``total`` to exactly ``keep``."""
    return [*(round(total * (keep / total) ** (k / rounds)) for k in range(1, rounds)), keep]
