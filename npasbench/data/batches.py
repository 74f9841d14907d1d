"""Mini-batches of a data set that is held on the device, augmented a batch at a time.

Order and augmentation are pure functions of seed, epoch and step, drawn on the CPU: every device sees the same
images, and a run that goes on in the middle of an epoch sees those that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from npasbench import card, streams
from npasbench.data import augment
from npasbench.data.dataset import DataSet
from npasbench.data.normalise import black
from npasbench.errors import UsageError
from npasbench.method import Batch


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
        self.inputs, self.labels = dataset.train_inputs.to(device), dataset.train_labels.to(device)
        self.black = black(self.inputs.shape[1], data.normalise).to(device) if data.shift else None
        self.data, self.batch_size, self.seed, self.device = data, batch_size, seed, device

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.labels), self.batch_size)
        joins = rest == 1 and full > 0
        return full if rest == 0 or joins else full + 1

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from the given step of it on."""
        steps = self.steps_per_epoch
        order = torch.randperm(len(self.labels), generator=streams.generator(self.seed, "order", epoch))
        on_device = order.to(self.device)
        for step in range(start_step, steps):
            end = len(order) if step == steps - 1 else (step + 1) * self.batch_size
            indices = on_device[step * self.batch_size : end]
            inputs = self._augment(self.inputs.index_select(0, indices), epoch, step)
            yield Batch(inputs, self.labels.index_select(0, indices), indices)

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
