"""Image files decoded ahead of need, by processes beside the one that trains.

What is decoded is a pure function of the request, so the number of processes decides no result: the variable
``NPASBENCH_LOADERS`` gives it. They are started from a fork server, since the process that trains may hold a GPU, and
end with it, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker, util
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from npasbench import fork_server, streams
from npasbench.data.files import Files
from npasbench.errors import DataError, UsageError

VARIABLE = "NPASBENCH_LOADERS"
_MOST = 16
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []))
_PRELOADED = ["npasbench.data.decoding"]


@dataclass(frozen=True)
class Request:
    """Some of the images, by index: their centres, or crops drawn by the streams of ``(seed, epoch, index)``."""

    indices: Sequence[int]
    crops: tuple[int, int] | None = None
    """Seed and epoch."""


def loaders(device: torch.device) -> int:
    """How many processes decode for one that computes on ``device``; 0 if it does so itself.

    Raises:
        UsageError: if the variable holds no number.
    """
    if multiprocessing.current_process().daemon:  # may have no children
        return 0
    given = os.environ.get(VARIABLE, "")
    if given:
        if not re.fullmatch(r"\d{1,4}", given):
            raise UsageError(
                f"{VARIABLE} is '{given}'. Give the number of processes that decode images, such as 4, or 0."
            )
        return int(given)
    if device.type != "cuda":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // max(1, torch.cuda.device_count())))


class Loader:
    """Decodes images of ``files`` for one user after another; :meth:`close` ends its processes, which start at the first use."""

    def __init__(self, files: Files, device: torch.device, processes: int | None = None) -> None:
        self.files, self.device = files, device
        self.processes = loaders(device) if processes is None else processes
        self._requests: list[Request] = []
        self._user = 0
        self._started: list[DataLoader[Any]] = []
        self._at = torch.full((max(1, self.processes), 2), -1)

    def load(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """For each request uint8 ``[images, 3, size, size]``, in order, on the CPU, pinned where a GPU is to read it.

        Raises:
            DataError: naming an image that cannot be read, or what a process was reading when it died.
        """
        self._user += 1
        mine, self._requests[:] = self._user, requests
        decoded = self._decoded() if self._requests else iter(())
        while mine == self._user:
            images = next(decoded, None)
            if images is None:
                return
            if isinstance(images, str):
                self.close()
                raise DataError(images)
            yield images
        raise RuntimeError("another use of this loader has begun")

    def close(self) -> None:
        """End the processes."""
        _end(self._started)

    def _decoded(self) -> Iterator[Tensor | str]:
        if self.processes == 0:
            source = _Decoded(self.files, None)
            yield from (source[request] for request in list(self._requests))
            return
        try:
            with _deaf_children():
                decoded = iter(self._start())
            yield from decoded
        except RuntimeError as error:
            dead = re.search(r"worker \(pid\(s\) ([\d, ]+)\)", str(error))
            if dead is None:
                raise
            self.close()
            raise DataError(self._sentence_for_dead({int(pid) for pid in dead[1].split(",")})) from None

    def _start(self) -> DataLoader[Any]:
        if not self._started:
            fork_server.start(_PRELOADED)
            self._at.fill_(-1).share_memory_()  # type: ignore[no-untyped-call]
            loader = DataLoader(
                _Decoded(self.files, self._at),
                batch_size=None,
                sampler=self._requests,
                num_workers=self.processes,
                multiprocessing_context="forkserver",
                persistent_workers=True,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_begin,
                generator=torch.Generator(),  # by default it draws from the global one
            )
            self._started.append(loader)
            util.Finalize(self, _end, args=(self._started,), exitpriority=100)
        return self._started[0]

    def _sentence_for_dead(self, pids: set[int]) -> str:
        at = [self.files.path(index) for pid, index in self._at.tolist() if pid in pids and index >= 0]
        where = f" while it read {' or '.join(at)}" if at else ""
        return (
            f"A process that decodes images has died{where}. Most likely memory ran out, or shared memory (/dev/shm): give "
            f"more, or set {VARIABLE} to less than {self.processes}. If it dies at the same image again, remove the image."
        )


class _Decoded(Dataset[Any]):
    """What a request asks for; a sentence in place of the images if one of them cannot be read."""

    def __init__(self, files: Files, at: Tensor | None) -> None:
        self.files, self.at = files, at

    def __getitem__(self, request: Request) -> Tensor | str:
        images = torch.empty(len(request.indices), *self.files.shape[1:], dtype=torch.uint8)
        try:
            for place, index in enumerate(request.indices):
                self._note(index)
                images[place] = self._image(index, request.crops)
        except DataError as error:
            return str(error)
        self._note(-1)
        return images

    def _image(self, index: int, crops: tuple[int, int] | None) -> Tensor:
        from npasbench.data.decoding import centre, random_resized

        path, size = self.files.path(index), self.files.size
        if crops is None:
            return centre(path, size, self.files.resize)
        seed, epoch = crops
        return random_resized(path, size, streams.stream_seed(seed, "crop", epoch, index))

    def _note(self, index: int) -> None:
        """Leave behind which image is being read, in case this process dies over it."""
        worker = get_worker_info()
        if self.at is not None and worker is not None:
            self.at[worker.id, 0], self.at[worker.id, 1] = os.getpid(), index


def _end(started: list[DataLoader[Any]]) -> None:
    """End the processes; also called when their loader is forgotten, and before this process waits for its children."""
    for loader in started:
        iterator: Any = getattr(loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            for process in iterator._workers:  # torch leaves them be when Python is about to exit
                process.kill()
    started.clear()


def _begin(_: int) -> None:
    """Begin a process: it is asked to end by its parent alone, and ends with it."""
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """What is started here never gets the signals that go to all processes of a job; they reach this one afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
