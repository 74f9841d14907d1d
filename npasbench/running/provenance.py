"""Where a result comes from: commit, versions, machine, source of the method, times."""

from __future__ import annotations

import functools
import inspect
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import npasbench
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.registry import Registry, source_hash


def provenance(spec: RunSpec, method: type[Method], device: torch.device) -> dict[str, Any]:
    """Everything about a run that does not decide its result but that a reader will ask for."""
    return {
        **commit(),
        "npasbench": npasbench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "host": platform.node(),
        "precision": spec.task.recipe.precision,
        "threads": spec.task.recipe.threads,
        "method_summary": inspect.cleandoc(method.__doc__ or "").split("\n\n")[0],
        "method_cite": method.cite,
        "method_origin": _origin(spec),
        "method_source": source_hash(method),
        "command": spec.command(),
    }


@functools.cache
def commit() -> dict[str, Any]:
    """The commit of the tree that npasbench was imported from and whether it has changes since; None outside of one."""
    root = Path(npasbench.__file__).resolve().parent.parent
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


def _origin(spec: RunSpec) -> str:
    source = Registry(spec.plugins).sources.get(spec.method)
    return source.origin if source else ""


@functools.cache
def _processor() -> str:
    """The processor's name, from the kernel where it says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
