"""A data set in memory, and the seeded draw of training examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from npasbench import streams
from npasbench.errors import UsageError


@dataclass(frozen=True)
class DataSet:
    """Training and test examples: inputs float32 ``[N, channels, height, width]``, labels int64 ``[N]``."""

    name: str
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, ``(channels, height, width)``."""
        return tuple(self.train_inputs.shape[1:])

    def test(self, batch_size: int) -> Iterator[Tensor]:
        """The test inputs in order, in batches ``[up to batch_size, channels, height, width]``."""
        return iter(torch.split(self.test_inputs, batch_size))


def draw_of_each_class(labels: Tensor, classes: int, per_class: int, seed: int, *, leave: int = 0) -> Tensor:
    """Which examples ``[N]`` (bool) the seed's stream ``split`` draws: ``per_class`` of each class.

    Raises:
        UsageError: if a class has too few of them, ``leave`` being left to test.
    """
    most = int(labels.bincount(minlength=classes).min()) - leave
    if per_class > most:
        why = "leave every class an example to test" if leave else "are there of every class"
        raise UsageError(f"train_per_class is {per_class}, but at most {most} {why}.")
    generator = streams.generator(seed, "split")
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        those = (labels == label).nonzero().flatten()
        drawn[those[torch.randperm(len(those), generator=generator)[:per_class]]] = True
    return drawn
