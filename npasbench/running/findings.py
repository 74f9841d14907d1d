"""``findings.pt``: what a method's search found, read without running anything that it may hold.

Bool tensors lie in it as packed bits, all in one row.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench.errors import RunError
from npasbench.method import Findings
from npasbench.running.files import atomic
from npasbench.running.reading import fault_of, short

if TYPE_CHECKING:
    from torch import Tensor

_LIMIT = 2_000_000_000
"""Bytes, packed or not."""


def write_findings(path: Path, found: Findings, costs: Mapping[str, float | None]) -> None:
    """Keep what a search found, and what it cost."""
    import torch

    bits = {name: tensor for name, tensor in found.tensors.items() if tensor.dtype == torch.bool}
    content = {
        "facts": dict(found.facts),
        "tensors": {name: tensor for name, tensor in found.tensors.items() if name not in bits},
        "bits": {"row": _packed(list(bits.values())), "shapes": {name: list(one.shape) for name, one in bits.items()}},
        "order": list(found.tensors),
        "costs": dict(costs),
    }
    with atomic(path) as file:
        torch.save(content, file)


def found_before(path: Path) -> tuple[Findings, dict[str, float | None]]:
    """What :func:`write_findings` kept there, or an older version of it, which packed nothing."""
    import torch

    content = torch.load(path, weights_only=True)
    return _findings(content), dict(content["costs"])


def read_findings(path: Path) -> Findings:
    """Findings as tensors and plain values; none without a file.

    Raises:
        RunError: if the file is not what torch writes, is packed, or too large.
    """
    import torch

    if not path.exists():
        return Findings()
    try:
        if fault := fault_of(path, _LIMIT):
            raise RunError(f"{path} {fault}.")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > _LIMIT:
            raise RunError(f"{path} is packed, or too large unpacked; torch writes no such file.")
        return _findings(torch.load(path, weights_only=True, map_location="cpu"))
    except RunError:
        raise
    except Exception as error:  # torch's and zipfile's readers fail in many ways
        raise RunError(f"{path} cannot be read: {type(error).__name__}: {short(error, 200)}.") from None


def _findings(content: dict[str, Any]) -> Findings:
    tensors = dict(content["tensors"])
    if "bits" in content:
        tensors |= _unpacked(content["bits"]["row"], content["bits"]["shapes"])
        tensors = {name: tensors[name] for name in content["order"]}
    return Findings(content["facts"], tensors)


def _packed(tensors: list[Tensor]) -> Tensor:
    """Bool tensors one after another, eight entries in a byte."""
    import numpy as np
    import torch

    row = torch.cat([torch.zeros(0, dtype=torch.bool), *(one.detach().cpu().flatten() for one in tensors)])
    return torch.from_numpy(np.packbits(row.numpy()))


def _unpacked(row: Tensor, shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The bool tensors by name."""
    import numpy as np
    import torch

    sizes = [math.prod(shape) for shape in shapes.values()]
    if min(sizes, default=0) < 0 or not (sum(sizes) + 7) // 8 == len(row) <= _LIMIT // 8:
        raise ValueError(f"{len(row):,} bytes of masks do not hold {sum(sizes):,} entries")
    flat = torch.from_numpy(np.unpackbits(row.cpu().numpy(), count=sum(sizes)).astype(bool))
    parts = torch.split(flat, sizes) if sizes else ()
    return {name: part.reshape(shape).clone() for (name, shape), part in zip(shapes.items(), parts, strict=True)}
