"""Random sparse networks: the control that every pruning method must beat.

Masks are drawn before training and never change. Densities are Erdos-Renyi-kernel (Mocanu et al., Nature
Communications 2018; Evci et al., ICML 2020, section 3): layers with few weights for their dimensions stay denser.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from npasbench.api import Findings, Problem
from npasbench.pruning.densities import erk
from npasbench.pruning.method import PruningMethod, masked
from npasbench.pruning.network import MaskedNetwork


class RandomErk(PruningMethod):
    """Random masks with Erdos-Renyi-kernel densities, drawn before training and kept. There are no knobs."""

    cite = """@article{mocanu2018scalable,
  title = {Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science},
  author = {Mocanu, Decebal Constantin and Mocanu, Elena and Stone, Peter and Nguyen, Phuong H. and Gibescu, Madeleine
    and Liotta, Antonio},
  journal = {Nature Communications},
  volume = {9},
  year = {2018}
}"""

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> MaskedNetwork:  # noqa: ARG002
        """The dense network's own initial weights under random masks.

        Raises:
            BudgetTooSmall: if the budget does not leave at least one weight for each layer.
        """
        network = masked(problem)
        network.masks = random_masks(network.weights, rng, network.keep)
        return network


def random_masks(weights: Mapping[str, Tensor], rng: torch.Generator, keep: int) -> dict[str, Tensor]:
    """Bool masks by name that keep ``keep`` of all weights, each layer its Erdos-Renyi-kernel share, uniformly at random."""
    counts = erk([weight.shape for weight in weights.values()], keep)
    masks = {}
    for (name, weight), count in zip(weights.items(), counts, strict=True):
        flat = torch.zeros(weight.numel(), dtype=torch.bool)
        flat[torch.randperm(weight.numel(), generator=rng)[:count]] = True
        masks[name] = flat.view(weight.shape)
    return masks
