"""Evci et al., "Rigging the Lottery: Making All Tickets Winners" (ICML 2020).

Sparse from the first step to the last: masks start at random with Erdos-Renyi-kernel densities and move while the
network trains. Every so many steps each layer drops its smallest weights and grows as many where the gradient is largest.

The paper's code also resets the momentum of what grows; here it does not, as hooks between steps see no optimizer. Removed
weights gather no momentum, and what they had when they were dropped is multiplied by 0.9 in each step at SGD's usual 0.9. So
with ``every = 10`` one grown weight in five to ten starts with what is left of its old momentum, at most 0.35 of it; with
the paper's 100 it is 2.7e-5 of it.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from npasbench.api import Findings, Knobs, Problem, Progress
from npasbench.pruning.masks import largest
from npasbench.pruning.method import PruningMethod, masked_network
from npasbench.pruning.network import MaskedNetwork

from .random_erk import RandomErk


class RigLKnobs(Knobs):
    """The masks move ``every`` so many optimizer steps (the paper's Delta T) ``until`` that share of training (T_end).

    By default these are the paper's 100 steps, or where training is too short for that, as many as leave ten moves before
    ``until``, at least 1. ``fraction`` is the share of a layer's weights that moves at first (alpha); a cosine takes it
    to zero.
    """

    every: PositiveInt | None = None
    until: float = Field(0.75, ge=0, le=1)
    fraction: float = Field(0.3, gt=0, lt=1)


class RigL(PruningMethod):
    """Sparse training with masks that move: drops the smallest weights, grows where gradients are largest."""

    name = "rigl"
    knobs = RigLKnobs
    cite = """@inproceedings{evci2020rigging,
  title = {Rigging the Lottery: Making All Tickets Winners},
  author = {Evci, Utku and Gale, Trevor and Menick, Jacob and Castro, Pablo Samuel and Elsen, Erich},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

    # Section 3, (1): sparsity distribution

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> MaskedNetwork:
        """The dense network's own initial weights under random masks with Erdos-Renyi-kernel densities."""
        return RandomErk().build(problem, findings, rng)

    # Section 3, (2): update schedule, and Algorithm 1

    def after_backward(self, network: nn.Module, progress: Progress) -> None:
        """Either the masks move, and the step has no gradient (Algorithm 1), or masked weights have none."""
        share = self.moving(progress)
        if not share:
            super().after_backward(network, progress)
            return
        own = masked_network(self, network)
        own.masks = own.masks | {
            name: moved(weight, weight.grad, own.masks[name], share)
            for name, weight in own.weights.items()
            if weight.grad is not None
        }
        for parameter in network.parameters():
            parameter.grad = None

    def moving(self, progress: Progress) -> float:
        """The share of each layer's weights that moves now: alpha / 2 * (1 + cos(pi t / T_end)), 0 between updates."""
        end = self.settings.until * progress.steps
        every = self.settings.every or default_every(end)
        if progress.step == 0 or progress.step >= end or progress.step % every:
            return 0.0
        return float(self.settings.fraction / 2 * (1 + math.cos(math.pi * progress.step / end)))


def default_every(end: float) -> int:
    """The paper's 100 steps, or where that leaves fewer than ten moves before step ``end``, the most that leave ten; at least 1."""
    return max(1, min(100, math.ceil(end / 10) - 1))


# Section 3, (3) and (4): drop and grow


def moved(weight: Tensor, gradient: Tensor, mask: Tensor, share: float) -> Tensor:
    """A layer's next mask: its smallest weights are dropped, and as many grow where the gradient's magnitude is largest.

    ``floor(share * weights)`` move. Dropped weights may grow at once; then they stay as they were. All others start at
    zero, which every masked weight is. All tensors have one shape; ``mask`` is bool, and so is the result.
    """
    active = int(mask.sum())
    moving = int(share * active)
    if moving == 0 or active == mask.numel():
        return mask
    magnitude = weight.detach().abs().masked_fill(~mask, -1.0)
    staying = largest({"": magnitude}, active - moving)[""]
    candidates = gradient.abs().masked_fill(staying, -1.0)
    return staying | largest({"": candidates}, moving)[""]
