"""Where a result comes from: commit, versions, machine, source of the method, times."""

from __future__ import annotations

import functools
import inspect
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import npasbench
from npasbench.addon import AddOn, around, bare
from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.registry import Registry, source_hash
from npasbench.running.commit import commit


def provenance(spec: RunSpec, assembled: Method, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Everything about a run that does not decide its result but that a reader will ask for."""
    method = type(bare(assembled))
    addons = {one.name: addon_provenance(spec, one) for one in around(assembled)}
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
        "processes": processes,
        "images_a_norm_sees": spec.task.recipe.norm_images or spec.task.recipe.batch_size,
        "method_summary": _summary(method),
        "method_cite": method.cite,
        "method_origin": _origin(spec),
        "method_source": source_hash(method),
        **({"addons": addons} if addons else {}),
        "command": spec.command(),
    }


def addon_provenance(spec: RunSpec, addon: AddOn) -> dict[str, Any]:
    """Where an add-on comes from, and what it says of itself."""
    source = Registry(spec.plugins).addons.get(addon.name)
    return {
        "summary": _summary(type(addon)),
        "cite": addon.cite,
        "origin": source.origin if source else "",
        "source": source_hash(type(addon)),
    }


def _summary(method: type[Method]) -> str:
    return inspect.cleandoc(method.__doc__ or "").split("\n\n")[0]


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
