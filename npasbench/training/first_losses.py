"""The losses of a training's first mini-batches, with their graphs, for whoever wants derivatives and no step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from npasbench.training.loop import Training


def first_losses(training: Training, *, batches: int) -> Iterator[Tensor]:
    """The losses on so many mini-batches from epoch 0 on, in training mode; running statistics stay as they are."""
    network, per_epoch = training.network.train(), training.batches.steps_per_epoch
    with _without_running_statistics(network):
        for epoch in range(-(-batches // per_epoch)):
            for batch in itertools.islice(training.batches.epoch(epoch), batches - epoch * per_epoch):
                yield from training.losses(network, batch)


@contextlib.contextmanager
def _without_running_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by the batch alone. Nothing is written and put back: a graph may still hold the running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
