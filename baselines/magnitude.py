"""Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression" (arXiv 1710.01878).

Section 3: weights of least magnitude are removed while the network trains, on the cubic schedule
s_t = s_f (1 - (1 - t)^3), here between 20 % and 80 % of training; what is removed stays removed.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from npasbench.api import Knobs, Progress
from npasbench.pruning.masks import among
from npasbench.pruning.method import PruningMethod, masked_network
from npasbench.pruning.network import MaskedNetwork
from npasbench.pruning.schedule import reached, remaining
from npasbench.pruning.scores import magnitude
from npasbench.sharing.allocation import in_proportion


class MagnitudeKnobs(Knobs):
    """``scope`` compares weights over the network or within each layer; pruning runs from ``begin`` to ``end`` of training."""

    scope: Literal["global", "layer"] = "global"
    begin: float = Field(0.2, ge=0, lt=1)
    end: float = Field(0.8, gt=0, le=1)
    every: PositiveInt = 3
    """Optimizer steps between two prunings."""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"pruning cannot begin at {self.begin} and end at {self.end} of training")
        return self


class Magnitude(PruningMethod):
    """Trains dense and removes the smallest weights step by step, until the budget is met."""

    knobs = MagnitudeKnobs
    cite = """@article{zhu2017prune,
  title = {To prune, or not to prune: exploring the efficacy of pruning for model compression},
  author = {Zhu, Michael and Gupta, Suyog},
  journal = {arXiv:1710.01878},
  year = {2017}
}"""

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """Remove what the schedule says, and keep removed weights at zero."""
        masked = masked_network(self, network)
        knobs = self.settings
        t = reached(progress.step, progress.steps, begin=knobs.begin, end=knobs.end, every=knobs.every)
        if t is not None:
            self._prune(masked, t)
        masked.apply_masks()

    def _prune(self, network: MaskedNetwork, t: float) -> None:
        """Prune to the sparsity at ``t`` (0 to 1) of the schedule, by magnitude among the weights that remain."""
        scores = among(magnitude(network.weights), network.masks)
        if self.settings.scope == "global":
            network.keep_largest(scores, remaining(network.prunable, network.keep, t))
            return
        shares = in_proportion([score.numel() for score in scores.values()], network.keep)
        for (name, score), keep in zip(scores.items(), shares, strict=True):
            network.keep_largest({name: score}, remaining(score.numel(), keep, t))
