"""Frankle, Dziugaite, Roy & Carbin, "Linear mode connectivity and the lottery ticket hypothesis" (ICML 2020).

Iterative magnitude pruning with rewinding (Algorithm 2): train, remove the smallest of the remaining weights over the
whole network, set what remains back to its values early in the first training, and train again. Here every training
takes the whole recipe, its schedule from the start, as all trainings of a task do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from npasbench.api import Findings, Knobs, Problem, Progress, SearchContext
from npasbench.pruning.masks import among, largest
from npasbench.pruning.method import PruningMethod, found, initial, masked, masks_of
from npasbench.pruning.network import PREFIX, MaskedNetwork
from npasbench.pruning.scores import magnitude

_EARLY, _KEPT = "early.", "kept."


class LotteryKnobs(Knobs):
    """Each round removes the share ``rate`` of what remains; weights go back to where the first training was at ``rewind``.

    ``rewind`` is a share of training: 0 is the initial network, as in the lottery tickets of 2019.
    """

    rate: float = Field(0.2, gt=0, lt=1)
    rewind: float = Field(0.05, ge=0, lt=1)


class Lottery(PruningMethod):
    """Trains and prunes round by round, and trains the ticket that is left from early weights on."""

    knobs = LotteryKnobs
    cite = """@inproceedings{frankle2020linear,
  title = {Linear mode connectivity and the lottery ticket hypothesis},
  author = {Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

    def time_factor(self, problem: Problem) -> float:
        """A whole training for each round, and the last."""
        return 1.2 * (1 + len(remaining(10**6, max(1, round(10**6 * problem.budget.fraction)), self.settings.rate)))

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """The ticket: masks that keep exactly what the budget allows, and the early weights.

        Raises:
            LayerCollapse: if nothing of a layer remains.
        """
        first = Rewindable(initial(problem, context.seed))
        network: MaskedNetwork = first
        rounds = remaining(first.prunable, first.keep, self.settings.rate)
        for number, keep in enumerate(rounds, start=1):
            context.train(f"round-{number}", network)
            masks = largest(among(magnitude(network.weights), network.masks), keep)
            network = rewound(initial(problem, context.seed), first.early.state_dict(), masks)
        ticket = found(network.masks, remaining=rounds)
        return Findings(ticket.facts, {**ticket.tensors, **kept(network)})

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """Removed weights stay at zero; the first training notes its early weights in passing."""
        super().after_step(network, progress)
        if isinstance(network, Rewindable) and progress.step == round(self.settings.rewind * progress.steps):
            network.note()

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The dense network with the ticket's early weights under its masks; without findings as it is."""
        masks = masks_of(findings)
        return rewound(masked(problem), early_of(findings), masks) if masks else masked(problem)


class Rewindable(MaskedNetwork):
    """``network``, which can note its weights and running statistics: ``early`` holds a copy, at first the initial ones."""

    def __init__(self, network: MaskedNetwork) -> None:
        super().__init__(network.architecture, network.layers, network.budget)
        self.early = copy.deepcopy(network.architecture).requires_grad_(False)

    def note(self) -> None:
        """Remember the architecture as it is now."""
        self.early.load_state_dict(self.architecture.state_dict())


def kept(network: MaskedNetwork) -> dict[str, Tensor]:
    """The architecture's state on the CPU, for findings: of a masked weight only what its mask keeps, in a row."""
    masks = {name.removeprefix(PREFIX): mask for name, mask in network.masks.items()}
    state = network.architecture.state_dict()
    whole = {f"{_EARLY}{name}": value.cpu() for name, value in state.items() if name not in masks}
    return whole | {f"{_KEPT}{name}": state[name][mask].cpu() for name, mask in masks.items()}


def early_of(findings: Findings) -> dict[str, Tensor]:
    """The state that :func:`kept` put there, zero where a weight was removed, or that was once kept whole."""
    early = {}
    for name, value in findings.tensors.items():
        if name.startswith(_EARLY):
            early[name.removeprefix(_EARLY)] = value
        elif name.startswith(_KEPT):
            mask = findings.tensors[f"{PREFIX}{name.removeprefix(_KEPT)}"]
            early[name.removeprefix(_KEPT)] = torch.zeros(mask.shape, dtype=value.dtype).masked_scatter_(mask, value)
    return early


def rewound(network: MaskedNetwork, early: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> MaskedNetwork:
    """``network`` with early weights and statistics, under masks."""
    network.architecture.load_state_dict(early)
    network.masks = masks
    return network


def remaining(total: int, keep: int, rate: float) -> list[int]:
    """How many weights remain after each round, ``1 - rate`` of those before, the last exactly ``keep``."""
    rounds = max(1, math.ceil(round(math.log(keep / total) / math.log(1 - rate), 9)))
    return [*(max(keep, round(total * (1 - rate) ** number)) for number in range(1, rounds)), keep]
