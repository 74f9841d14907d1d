"""``findings.pt``: what a method's search found, read without running anything that it may hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

from npasbench.errors import RunError
from npasbench.method import Findings
from npasbench.running.reading import fault_of, short

_LIMIT = 2_000_000_000
"""Bytes, packed or not."""


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
        content = torch.load(path, weights_only=True, map_location="cpu")
        return Findings(content["facts"], content["tensors"])
    except RunError:
        raise
    except Exception as error:  # torch's and zipfile's readers fail in many ways
        raise RunError(f"{path} cannot be read: {type(error).__name__}: {short(error, 200)}.") from None
