"""The commit that results come from."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import npasbench

KEPT_COMMIT = "commit.json"
"""In a copy of the code: the commit that it was copied from."""


@functools.cache
def commit() -> dict[str, Any]:
    """The commit of the tree that npasbench was imported from and whether it has changes since; None outside of one."""
    root = Path(npasbench.__file__).resolve().parent.parent
    if (root / KEPT_COMMIT).exists():
        kept: dict[str, Any] = json.loads((root / KEPT_COMMIT).read_text(encoding="utf-8"))
        return kept
    head = _git(root, "rev-parse", "HEAD") if (root / "pyproject.toml").exists() else None
    if head is None:
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
