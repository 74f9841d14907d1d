"""Mini-batches of a data set, augmented a batch at a time on the device; decoded as they are needed if they lie in files.

Order and augmentation are pure functions of seed, epoch and step, drawn on the CPU: every device sees the same
images, and a run that goes on in the middle of an epoch sees those that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from npasbench import card, streams
from npasbench.data import augment
from npasbench.data.dataset import DataSet
from npasbench.data.files import Files
from npasbench.data.loading import Loader, Request
from npasbench.data.normalise import as_inputs, black
from npasbench.errors import UsageError
from npasbench.method import Batch

Rows = Callable[[int], tuple[int, int]]
"""From the length of a batch to the first of its rows that are asked for, and the one after the last."""


Choice = Callable[[Tensor], Tensor]
"""Batch after batch: from its indices, on the device, to its images there."""


class Batches:
    """The training batches of a data set, every example once an epoch.

    The last batch of an epoch may be short. If one example alone were left for it, that example joins the batch
    before: BatchNorm cannot be trained on a single value.

    Raises:
        UsageError: for a batch size below one.
    """

    def __init__(self, dataset: DataSet, data: card.Data, batch_size: int, seed: int, device: torch.device) -> None:
        if batch_size < 1:
            raise UsageError(f"A batch needs at least one example, not {batch_size}.")
        inputs = dataset.train_inputs
        self.inputs = _InFiles(inputs, data, seed, device) if isinstance(inputs, Files) else _InMemory(inputs, device)
        self.labels = dataset.train_labels.to(device)
        self.black = black(inputs.shape[1], data.normalise).to(device) if data.shift else None
        self.data, self.batch_size, self.seed, self.device = data, batch_size, seed, device

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.labels), self.batch_size)
        joins = rest == 1 and full > 0
        return full if rest == 0 or joins else full + 1

    def epoch(self, epoch: int, start_step: int = 0, rows: Rows | None = None) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from the given step of it on.

        Where images lie in files, only the ``rows`` that are asked for are decoded; the others hold nothing of use.
        """
        steps = self.steps_per_epoch
        order = torch.randperm(len(self.labels), generator=streams.generator(self.seed, "order", epoch))
        ends = [len(order) if step == steps - 1 else (step + 1) * self.batch_size for step in range(steps)]
        bounds = [(step * self.batch_size, ends[step]) for step in range(start_step, steps)]
        images_of = self.inputs.choose([order[start:end] for start, end in bounds], epoch, rows)
        on_device = order.to(self.device)
        for step, (start, end) in enumerate(bounds, start_step):
            indices = on_device[start:end]
            inputs = self._augment(as_inputs(images_of(indices), self.data.normalise), epoch, step)
            yield Batch(inputs, self.labels.index_select(0, indices), indices)

    def close(self) -> None:
        """End the processes that decode images, if there are any."""
        self.inputs.close()

    def _augment(self, images: Tensor, epoch: int, step: int) -> Tensor:
        if not (self.data.shift or self.data.flip or self.data.cutout):
            return images
        generator = streams.generator(self.seed, "augmentation", epoch, step)
        if self.data.shift:
            offsets = augment.draw_offsets(len(images), self.data.shift, generator)
            images = augment.shift(images, offsets.to(self.device), self.data.shift, self.black)
        if self.data.flip:
            images = augment.mirror(images, augment.draw_mirrored(len(images), generator).to(self.device))
        if self.data.cutout:
            centres = augment.draw_centres(len(images), images.shape[2], images.shape[3], generator)
            images = augment.cut_out(images, centres.to(self.device), self.data.cutout)
        return images


class _InMemory:
    """All images on the device."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.to(device)

    def choose(self, chosen: list[Tensor], epoch: int, rows: Rows | None) -> Choice:  # noqa: ARG002
        """The images of those that are asked for."""
        return lambda indices: self.images.index_select(0, indices)

    def close(self) -> None:
        """Nothing."""


class _InFiles:
    """Images that are decoded when their batch comes up, and copied to a GPU while it still computes the one before."""

    def __init__(self, files: Files, data: card.Data, seed: int, device: torch.device) -> None:
        self.loader, self.device = Loader(files, device), device
        self.seed = seed if data.crop == "random-resized" else None
        self.copying = _stream(device)

    def choose(self, chosen: list[Tensor], epoch: int, rows: Rows | None) -> Choice:
        """The images of the next of the batches that have been ``chosen``."""
        crops = None if self.seed is None else (self.seed, epoch)
        spans = [(0, len(indices)) if rows is None else rows(len(indices)) for indices in chosen]
        asked = [indices[start:end].tolist() for indices, (start, end) in zip(chosen, spans, strict=True)]
        decoded = self.loader.load(Request(indices, crops) for indices in asked)
        coming = zip(spans, decoded, strict=True)

        def next_of(indices: Tensor) -> Tensor:
            span, images = next(coming)
            return self._on_device(images, span, len(indices))

        return next_of

    def close(self) -> None:
        """End the processes that decode."""
        self.loader.close()

    def _on_device(self, images: Tensor, span: tuple[int, int], length: int) -> Tensor:
        here = self._copied(images)
        if len(here) == length:
            return here
        whole = here.new_zeros(length, *here.shape[1:])
        whole[slice(*span)] = here
        return whole

    def _copied(self, images: Tensor) -> Tensor:
        if self.copying is None:
            return images.to(self.device)
        with torch.cuda.stream(self.copying):
            here = images.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copying)
        here.record_stream(computing)
        return here


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
