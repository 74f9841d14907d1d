"""Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), with the dependency graph of the library Torch-Pruning.

Whole channels go: the filters of smallest L1 norm, the norms' entries behind them, the columns of the next layers that
read them. So the network that is left is an ordinary dense one, smaller and faster. Layers whose outputs are added keep the
same channels.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from pydantic import Field
from torch import nn

from npasbench import streams
from npasbench.api import EpochContext, Findings, Knobs, Method, Problem, Structure
from npasbench.pruning.channels import follow
from npasbench.pruning.channels_choice import Scope, l1_norms
from npasbench.pruning.channels_graph import CannotFollow, of_members
from npasbench.pruning.channels_network import ThinnedNetwork


class ChannelL1Knobs(Knobs):
    """Channels go once, ``at`` that share of training, after the epoch in which it is reached.

    ``scope``: with ``layer`` the same share of channels goes everywhere; ``global`` compares the initial L1 norms, each
    layer's divided by their mean, over the whole network. That says how many channels remain where, the same for all seeds
    (it looks at seed 0), so that all of them train one network; which ones remain, the trained norms of each layer say.
    """

    at: float = Field(0.2, gt=0, le=1)
    scope: Scope = "layer"


class ChannelL1(Method):
    """Trains dense, removes the channels of smallest L1 norm, and trains what is left. The network gets smaller.

    As many channels remain as fit the budget, at least one everywhere. Inputs and logits keep theirs, and so do
    convolutions with groups that are not depthwise, GroupNorm, and layers whose channels cannot be told apart from outside.
    It needs the extra: pip install 'npasbench[pruning]'.
    """

    name = "channel-l1"
    knobs = ChannelL1Knobs
    cite = """@inproceedings{li2017pruning,
  title = {Pruning Filters for Efficient {ConvNets}},
  author = {Li, Hao and Kadav, Asim and Durdanovic, Igor and Samet, Hanan and Graf, Hans Peter},
  booktitle = {International Conference on Learning Representations},
  year = {2017}
}
@inproceedings{fang2023depgraph,
  title = {{DepGraph}: Towards Any Structural Pruning},
  author = {Fang, Gongfan and Ma, Xinyin and Song, Mingli and Bi Mi, Michael and Wang, Xinchao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023}
}"""

    def skip(self, problem: Problem) -> str | None:
        """At the dense size and above there is nothing to remove; a network may have no channels to be had apart."""
        if problem.budget.fraction >= 1:
            return "nothing to prune: the dense network fits"
        try:
            groups = of_members(problem.architectures, problem.input_shape, problem.excluded)
        except CannotFollow as error:
            return str(error)
        return None if groups else "no channel of it can be removed"

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> ThinnedNetwork:  # noqa: ARG002
        """The dense network, and what of it goes together."""
        groups = of_members(problem.architectures, problem.input_shape, problem.excluded)
        with streams.global_stream(0, "init"):
            norms = l1_norms(problem.create(), groups)
        return ThinnedNetwork(problem.create(), groups, problem.budget, self.settings.scope, norms)

    def final_count(self, network: nn.Module) -> int:
        """What is left when channels have gone."""
        return _thinned(network).final

    def final_network(self, network: nn.Module) -> nn.Module:
        """As small as it will be."""
        smaller = copy.deepcopy(_thinned(network))
        if not smaller.kept:
            smaller.thin()
        return smaller

    def after_epoch(self, network: nn.Module, context: EpochContext) -> None:
        """Remove channels, if this is the epoch; what remains keeps its momentum."""
        own, progress = _thinned(network), context.progress
        if not own.kept and progress.epoch + 1 >= self.settings.at * progress.epochs:
            follow(context.optimizer, own.thin())

    def structure(self, network: nn.Module) -> Structure:
        """The channels that remain, once others have gone."""
        return Structure(tensors=_thinned(network).kept)

    def restore(self, network: nn.Module, structure: Structure) -> None:
        """Remove the same channels."""
        if structure.tensors:
            _thinned(network).keep(structure.tensors)

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """Each group of channels, in how many tensors they lie, how many there were and how many remain."""
        own = _thinned(network)
        return {
            "channels": [
                {"layer": group.name, "tensors": len(group.slices), "channels": group.channels, "remain": number}
                for group, number in zip(own.groups, own.numbers, strict=True)
            ]
        }

    def side_information_bits(self, network: nn.Module) -> int:
        """One for each channel that could have gone."""
        return sum(group.channels for group in _thinned(network).groups)


def _thinned(network: nn.Module) -> ThinnedNetwork:
    if not isinstance(network, ThinnedNetwork):
        raise TypeError(f"channel-l1 works on the network it built, not on {type(network).__name__}")
    return network
