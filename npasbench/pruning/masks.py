"""Masks from scores: which weights of any named tensors remain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from npasbench.errors import LayerCollapse, MethodError, NpasbenchError

Masks = dict[str, Tensor]


def largest(scores: Mapping[str, Tensor], keep: int) -> Masks:
    """Bool masks by name, True for exactly the ``keep`` largest of all scores; of equal scores the first remain.

    The same scores give the same masks on every device.

    Raises:
        LayerCollapse: if a tensor would be left without any True.
        MethodError: if there are fewer scores than ``keep``, or a score is NaN.
    """
    flat = in_a_row(scores, keep)
    if keep == 0:
        return apart(torch.zeros_like(flat, dtype=torch.bool), scores)
    threshold = flat.kthvalue(flat.numel() - keep + 1).values
    above, ties = flat > threshold, flat == threshold
    return apart(above | (ties & (ties.cumsum(0) <= keep - above.sum())), scores)


def in_a_row(scores: Mapping[str, Tensor], keep: int) -> Tensor:
    """All scores as one vector, of which ``keep`` can be chosen; raises as :func:`largest`."""
    flat = torch.cat([score.detach().flatten() for score in scores.values()])
    if not 0 <= keep <= flat.numel():
        raise MethodError(f"{keep:,} of {flat.numel():,} weights cannot be kept.")
    undefined = int(flat.isnan().sum())
    if undefined:
        raise MethodError(f"{undefined:,} of {flat.numel():,} pruning scores are NaN: the network diverged.")
    return flat


def apart(kept: Tensor, scores: Mapping[str, Tensor]) -> Masks:
    """A mask over the vector that :func:`in_a_row` gave, by name and of the scores' shapes; raises as :func:`largest`."""
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    masks = {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    empty = [name.removeprefix("architecture.") for name, mask in masks.items() if not bool(mask.any())]
    if empty:
        raise LayerCollapse(empty, int(kept.sum()))
    return masks


class CannotRank(LayerCollapse):
    """A rule gives whole layers no score but zero, so that which of their weights remain would be chance."""

    def __init__(self, rule: str, layers: Iterable[str], of: int) -> None:
        self.layers = tuple(layers)
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        NpasbenchError.__init__(
            self,
            f"{rule} cannot rank the weights of {', '.join(self.layers[:3])}{more}: {len(self.layers)} of {of} layers get no "
            "gradient at initialisation, as where a gain behind them that is no norm's starts at zero (norms' are taken as "
            "one), they are zero themselves, or grasp, which differentiates twice, meets weights whose generator can be "
            "differentiated only once. "
            "Use a rule that does not look at the loss, such as magnitude or synflow.",
        )


def ranked(scores: Mapping[str, Tensor], rule: str) -> Mapping[str, Tensor]:
    """The scores that ``rule`` has taken from gradients, if each layer's can be compared with others.

    Single scores of zero are none to refuse: a weight that only ever meets padding has no say.

    Raises:
        CannotRank: if all scores of a layer are zero.
    """
    silent = [name.removeprefix("architecture.") for name, score in scores.items() if not bool(score.any())]
    if silent:
        raise CannotRank(rule, silent, len(scores))
    return scores


def among(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, those of removed weights below any other, so that what is removed stays removed."""
    return {name: score.masked_fill(~masks[name], -math.inf) for name, score in scores.items()}
