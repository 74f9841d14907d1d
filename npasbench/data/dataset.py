"""The examples of a data set, in memory or in files, and the seeded draws of training examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from npasbench import streams
from npasbench.card import Normalise
from npasbench.data.files import Files
from npasbench.data.holding import fits, held
from npasbench.data.holdout import HELD_OUT_BY, held_out
from npasbench.data.loading import Loader, Request
from npasbench.data.normalise import as_inputs
from npasbench.errors import UsageError

Inputs = Tensor | Files
_CPU = torch.device("cpu")
_PIXELS_AT_ONCE = 2**24
"""In a batch that is only predicted: no limit for small images, about 330 of 224 by 224 pixels."""


@dataclass(frozen=True)
class DataSet:
    """Training and test examples: inputs ``[N, channels, height, width]``, labels int64 ``[N]``.

    Inputs are float32 as a network is given them; or uint8, to be normalised by ``normalise``; or files that hold such.
    ``held_inputs`` and ``held_labels`` are training examples that are not trained on, where a protocol reads some.
    """

    name: str
    train_inputs: Inputs
    train_labels: Tensor
    test_inputs: Inputs
    test_labels: Tensor
    classes: int
    held_inputs: Inputs | None = None
    held_labels: Tensor | None = None
    normalise: Normalise | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, ``(channels, height, width)``."""
        return tuple(self.train_inputs.shape[1:])

    def test(self, batch_size: int, device: torch.device = _CPU) -> Iterator[Tensor]:
        """The test inputs in order, float32 ``[up to batch_size, channels, height, width]``; of large images fewer."""
        return self._in_order(_held(self.test_inputs), batch_size, device)

    def held(self, batch_size: int, device: torch.device = _CPU, loader: Loader | None = None) -> Iterator[Tensor]:
        """The held-out inputs in order, as they would be tested, in batches as of :meth:`test`; none without them.

        ``loader`` is what :meth:`held_loader` gave, to be used again and again.
        """
        if self.held_inputs is None:
            return iter(())
        return self._in_order(_held(self.held_inputs), batch_size, device, loader)

    def held_loader(self, device: torch.device) -> Loader | None:
        """What decodes the held-out inputs; None if they are in memory, or will be, or there are none."""
        inputs = self.held_inputs
        return Loader(inputs, device) if isinstance(inputs, Files) and not fits(inputs) else None

    def some_to_train(self, most: int) -> Tensor:
        """The first training inputs, not augmented, float32 ``[up to most, channels, height, width]``."""
        return torch.cat(list(self._in_order(self.train_inputs[:most], most, _CPU)))

    def _in_order(
        self, inputs: Inputs, batch_size: int, device: torch.device, loader: Loader | None = None
    ) -> Iterator[Tensor]:
        height, width = inputs.shape[2:]
        size = max(1, min(batch_size, _PIXELS_AT_ONCE // (height * width)))
        for images in (
            _decoded(inputs, size, device, loader) if isinstance(inputs, Files) else torch.split(inputs, size)
        ):
            yield as_inputs(images.to(device, non_blocking=True), self.normalise)

    def under(self, protocol: str, seed: int) -> Self:
        """The examples as a card's protocol has them: see docs/add_a_task.md."""
        if protocol not in HELD_OUT_BY:
            return self
        out = held_out(len(self.train_labels), seed)
        held = self.train_inputs[out], self.train_labels[out]
        left = replace(self, train_inputs=self.train_inputs[~out], train_labels=self.train_labels[~out])
        if protocol == "tune":
            return replace(left, test_inputs=held[0], test_labels=held[1])
        return replace(left, held_inputs=held[0], held_labels=held[1])


def _held(inputs: Inputs) -> Inputs:
    """In memory, if there is room."""
    return held(inputs) if isinstance(inputs, Files) else inputs


def _decoded(files: Files, size: int, device: torch.device, loader: Loader | None) -> Iterator[Tensor]:
    """By ``loader``, which goes on; else by one that ends here."""
    own = loader or Loader(files, device)
    try:
        yield from own.load(
            Request(range(start, min(start + size, len(files)))) for start in range(0, len(files), size)
        )
    finally:
        if own is not loader:
            own.close()


def draw_of_each_class(labels: Tensor, classes: Sequence[str], per_class: int, seed: int) -> Tensor:
    """Which examples ``[N]`` (bool) the seed's stream ``split`` draws: ``per_class`` of each of the named classes.

    Raises:
        UsageError: if a class has too few of them.
    """
    refuse_too_few(labels, classes, per_class)
    generator = streams.generator(seed, "split")
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(classes)):
        those = (labels == label).nonzero().flatten()
        drawn[those[torch.randperm(len(those), generator=generator)[:per_class]]] = True
    return drawn


def refuse_too_few(labels: Tensor, classes: Sequence[str], per_class: int) -> None:
    """See that each of the named classes has ``per_class`` of the examples with these labels.

    Raises:
        UsageError: naming the class that has the fewest.
    """
    counts = labels.bincount(minlength=len(classes))
    least = int(counts.argmin())
    most = int(counts[least])
    if per_class > most:
        has = f"class '{classes[least]}' has only {most:,} training image{'' if most == 1 else 's'}"
        raise UsageError(f"train_per_class is {per_class:,}, but {has}. Give at most {most:,}.")
