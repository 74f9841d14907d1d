"""The bytes that tensors hold while a block runs, followed operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, follows the storages that operations create, until they are freed; backward included.

    ``now`` and ``peak`` are bytes beyond what was there at the start. Views and in-place results add nothing; memory
    that a kernel takes and gives back within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._followed: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; what first appears among its arguments was there before, what it returns may be new."""
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor.untyped_storage(), 0)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._followed:
            return

        def freed(_: object) -> None:
            del self._followed[key]
            self.now -= size

        self._followed[key] = weakref.ref(storage, freed)
        self.now += size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
