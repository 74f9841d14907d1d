"""Processes that share one training: each takes its parts of every batch, and all take the same step.

What a BatchNorm sees is one part. A batch is cut into parts of the card's ``norm_images``, or into one for each process;
one process that is given the same parts takes the same step, up to the rounding of sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from npasbench.errors import MethodError, TeamEnded, UsageError
from npasbench.method import Batch

_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Team:
    """``rank`` of ``size`` processes; alone, every call is the identity and free.

    In a team, every call that all make together raises :class:`TeamEnded` if another process is gone.
    """

    rank: int = 0
    size: int = 1
    talk: Any = None
    """The group that says small things, on the CPU."""
    meeting: Path | None = None

    @property
    def leads(self) -> bool:
        """Whether this process claims, writes and evaluates."""
        return self.rank == 0

    @classmethod
    def join(cls, rank: int, size: int, meeting: Path, device: torch.device) -> Team:
        """Wait until all processes have come to the file ``meeting``."""
        if size == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{meeting.resolve()}", rank=rank, world_size=size, timeout=_PATIENCE
        )
        return cls(rank, size, dist.new_group(backend="gloo", timeout=_PATIENCE), meeting)

    def leave(self) -> None:
        """End the team, with or without the others."""
        if self.size > 1:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def complain(self, sentence: str) -> None:
        """Leave behind why this process fails: the first one only sees that it is gone."""
        if self.meeting is not None and not self.leads:
            self.meeting.with_suffix(".complaint").write_text(sentence, encoding="utf-8")

    def complaint(self) -> str:
        """What another process left behind; empty if nothing."""
        if self.meeting is None:
            return ""
        try:
            return self.meeting.with_suffix(".complaint").read_text(encoding="utf-8")
        except OSError:
            return ""

    def end_after(self, error: Exception) -> None:
        """Nothing, alone.

        Raises:
            TeamEnded: in a team, whose processes no longer stand at the same place.
        """
        if self.size > 1:
            raise TeamEnded(str(error)) from error

    def agree(self, value: Any) -> Any:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        with _together():
            dist.broadcast_object_list(box, src=0, group=self.talk)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        every: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(every, value, group=self.talk)
        return every

    def most(self, wish: int) -> int:
        """The largest wish of all processes."""
        if self.size == 1:
            return wish
        box = torch.tensor([wish])
        with _together():
            dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self.talk)
        return int(box)

    def add_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Every parameter's gradient becomes its sum over all processes, None where none has one; returns summed losses."""
        if self.size == 1:
            return loss
        present = torch.tensor([float(p.grad is not None) for p in parameters], device=loss.device)
        heads = torch.cat([loss.reshape(1), present.to(loss.dtype)])
        self.add(heads)
        here = [p for p, count in zip(parameters, heads[1:].tolist(), strict=True) if count]
        for dtype in dict.fromkeys(p.dtype for p in here):
            self._add_gradients([p for p in here if p.dtype == dtype])
        return heads[0]

    def add(self, tensor: Tensor) -> None:
        """Its sum over all processes, in place."""
        if self.size > 1:
            with _together():
                dist.all_reduce(tensor)

    def _add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.add(flat)
        for parameter, part in zip(parameters, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def check_same(self, network: nn.Module) -> None:
        """See that all processes hold the same weights.

        Raises:
            MethodError: if they do not: the method decides by something that differs between processes.
        """
        if self.size == 1:
            return
        sums = [float(p.detach().double().sum()) for p in network.parameters()]
        if any(other != sums and not _all_nan(other, sums) for other in self.gather(sums)):
            raise MethodError(
                f"The weights of the {self.size} processes of this run have drifted apart. Its method decides by "
                "something that differs between processes, such as a random number of its own; run it on one GPU."
            )


def parts_of(batch: Batch, norm_images: int | None, team: Team) -> tuple[list[Batch], int]:
    """This process's parts of a batch, and how many parts it has in all.

    Parts are consecutive; a last one of a single image joins the one before, since BatchNorm cannot be trained on it.
    """
    mine, parts = _bounds(len(batch.labels), norm_images, team)
    if parts == 1:
        return ([batch] if mine else []), 1
    return [_part(batch, start, end) for start, end in mine], parts


def rows_of(norm_images: int | None, team: Team) -> Callable[[int], tuple[int, int]] | None:
    """From a batch's length to the first row of this process's parts and the one after the last; None if it has all."""
    if team.size == 1:
        return None

    def rows(total: int) -> tuple[int, int]:
        mine, _ = _bounds(total, norm_images, team)
        return (mine[0][0], mine[-1][1]) if mine else (0, 0)

    return rows


def _bounds(total: int, norm_images: int | None, team: Team) -> tuple[list[tuple[int, int]], int]:
    """Where this process's parts of a batch begin and end, and how many parts it has in all."""
    length = norm_images or -(-total // team.size)
    starts = list(range(0, total, length))
    if len(starts) > 1 and total - starts[-1] == 1:
        starts.pop()
    bounds = list(zip(starts, [*starts[1:], total], strict=True))
    if len(bounds) == 1:
        return (bounds if team.leads else []), 1
    return bounds[team.rank * len(bounds) // team.size : (team.rank + 1) * len(bounds) // team.size], len(bounds)


def check_parts(network: nn.Module, batch_size: int, norm_images: int | None, team: Team) -> None:
    """See that a team can take this network's batches in parts without changing the result.

    Raises:
        UsageError: if a BatchNorm would see fewer images than the card says, or there are fewer parts than processes.
    """
    if team.size == 1:
        return
    share = batch_size // team.size
    if norm_images is None and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise UsageError(
            f"With {team.size} GPUs a BatchNorm of this network would see {share} images at once, but the card lets it see "
            f"the whole batch of {batch_size}. Set norm_images = {share} in the [recipe] of a card of your own, or take "
            "one GPU."
        )
    if norm_images is not None and batch_size < norm_images * team.size:
        raise UsageError(
            f"A batch of {batch_size} in parts of norm_images = {norm_images} cannot be shared by {team.size} GPUs. "
            f"Take at most {max(1, batch_size // norm_images)}."
        )


class Statistics:
    """Running means and variances while the parts of one batch come by: each part starts from where the batch started.

    After :meth:`finish` they are the mean over all parts, whichever process saw them.
    """

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
        found = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        self._buffers = list({id(buffer): buffer for buffer in found}.values())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self._counters = [(counter, counter.clone()) for counter in {id(c): c for c in counters}.values()]

    @contextlib.contextmanager
    def of_one_part(self) -> Iterator[None]:
        """Around the forward and backward of one part."""
        self._rewind()
        yield
        for total, buffer in zip(self._sums, self._buffers, strict=True):
            total += buffer

    def finish(self, parts: int, team: Team) -> None:
        """Put the means over all ``parts`` in place, as of one batch."""
        self._rewind()
        for total, buffer in zip(self._sums, self._buffers, strict=True):
            team.add(total)
            buffer.copy_(total / parts)
        for counter, _ in self._counters:
            counter += 1

    def _rewind(self) -> None:
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        for counter, start in self._counters:
            counter.copy_(start)


def _part(batch: Batch, start: int, end: int) -> Batch:
    return replace(
        batch, inputs=batch.inputs[start:end], labels=batch.labels[start:end], indices=batch.indices[start:end]
    )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Around what all processes do together: a call that fails has lost another process."""
    try:
        yield
    except RuntimeError as error:
        raise TeamEnded("Another process that trained this run is gone.") from error


def _all_nan(one: list[float], other: list[float]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))
