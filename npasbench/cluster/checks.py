"""What this machine and this installation can do: one sentence for each thing that is looked at."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from npasbench.errors import DataError, NpasbenchError

if TYPE_CHECKING:
    from npasbench.card import Data
    from npasbench.registry import Registry

Level = Literal["ok", "note", "wrong"]
_GIGABYTE = 2**30


@dataclass(frozen=True)
class Check:
    """``note`` is worth knowing and no hindrance; ``wrong`` keeps runs from being done as they should."""

    name: str
    level: Level
    said: str


def machine_checks() -> Iterator[Check]:
    """Python, cores, memory, torch and its devices."""
    yield Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield Check("machine", "ok", f"{platform.node()}: {_cores()}, {_memory()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import torchvision  # noqa: F401 - of another build than torch's it does not import
    except Exception as error:
        yield Check(
            "torch", "wrong", f"cannot be imported: {_first_line(error)}. Install torch and torchvision together."
        )
        return
    yield Check("torch", "ok", f"{torch.__version__}, built for {_built_for(torch)}")
    yield from _gpu_checks(torch)


def installation_checks(data_root: Path | None) -> Iterator[Check]:
    """Dependencies, methods, tasks, the commit, data sets."""
    from npasbench.registry import Registry

    yield from _dependency_checks()
    yield _commit_check()
    registry = Registry()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        methods, broken = _methods(registry)
        sets, tasks, unreadable = _tasks(registry)
    yield from (Check("methods", "wrong", sentence) for sentence in broken)
    yield Check("methods", "ok", f"{methods} can be imported")
    yield from (Check("tasks", "wrong", sentence) for sentence in unreadable)
    yield Check("tasks", "ok", f"{tasks} tasks and suites can be read")
    yield from (Check("plugins", "note", str(one.message)) for one in warned)
    yield from _data_checks(sets, data_root)


def _cores() -> str:
    total = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{total} cores" if ours == total else f"{ours} of {total} cores"


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return "memory unknown"
    sizes = {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines)}
    limit = _limit_of_the_group(sizes["MemTotal"])
    limited = f", limited to {_size(limit)}" if limit else ""
    return f"{_size(sizes['MemAvailable'])} of {_size(sizes['MemTotal'])} memory free{limited}"


def _limit_of_the_group(total: int) -> int | None:
    """What the control group of this process may use, if that is less than there is."""
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition(":")[2].lstrip("/")
        limit = int((Path("/sys/fs/cgroup") / group / "memory.max").read_text(encoding="ascii"))
        return limit if limit < total else None
    return None


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if getattr(torch.version, "hip", None) else "the CPU"


def _gpu_checks(torch: Any) -> Iterator[Check]:
    """Each GPU that torch sees, tried; and those that the driver has and torch does not see."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = _gpus_of_the_driver()
    if not seen and there and hidden is None:
        why = f": {_first_line(warned[0].message)}" if warned else ""
        yield Check(
            "GPUs",
            "wrong",
            f"{there} here, but torch {torch.__version__} can use none{why}. Install a torch that fits the driver.",
        )
    elif not seen:
        because = f", since CUDA_VISIBLE_DEVICES is '{hidden}'" if there and hidden is not None else ""
        yield Check("GPUs", "note", f"none{because}: runs are done on the CPU")
    for index in range(seen):
        yield _tried(torch, index)


def _tried(torch: Any, index: int) -> Check:
    name = f"cuda:{index}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            right = torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name)).sum().item() == 8**3
    except Exception as error:
        return Check(name, "wrong", f"is visible and cannot be used: {_first_line(error)}")
    if not right:
        return Check(name, "wrong", f"{what.name} computes wrong sums")
    return Check(name, "ok", f"{what.name}, {_size(free)} of {_size(total)} free")


def _gpus_of_the_driver() -> int:
    """How many GPUs nvidia-smi lists."""
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(re.findall(r"^GPU \d+:", done.stdout, re.MULTILINE)) if done.returncode == 0 else 0


def _dependency_checks() -> Iterator[Check]:
    """What npasbench asks for, against what is installed."""
    from packaging.requirements import Requirement

    fine = []
    try:
        asked = [Requirement(text) for text in requires("npasbench") or ()]
    except PackageNotFoundError:
        yield Check("dependencies", "note", "unknown, since npasbench is not installed as a package")
        return
    for one in asked:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version(one.name)
        except PackageNotFoundError:
            yield Check("dependencies", "wrong", f"{one.name} is not installed; npasbench needs {one}.")
            continue
        if one.specifier.contains(here, prereleases=True):
            fine.append(f"{one.name} {here}")
        else:
            yield Check("dependencies", "wrong", f"{one.name} {here} is installed; npasbench needs {one}.")
    if fine:
        yield Check("dependencies", "ok", ", ".join(fine))


def _commit_check() -> Check:
    from npasbench.running.commit import commit

    found = commit()
    if found["commit"] is None:
        return Check("commit", "note", "npasbench is not in a git checkout: results will not name a commit")
    if found["dirty"]:
        return Check("commit", "note", f"{found['commit'][:12]}, with uncommitted changes: results are trial results")
    return Check("commit", "ok", found["commit"][:12])


def _methods(registry: Registry) -> tuple[int, list[str]]:
    """How many methods can be imported, and what is wrong with the others."""
    broken = []
    for name in registry.sources:
        try:
            registry.method(name)
        except NpasbenchError as error:
            broken.append(str(error))
    return len(registry.sources) - len(broken), broken


def _tasks(registry: Registry) -> tuple[dict[str, Data], int, list[str]]:
    """The data sets that tasks need, how many tasks and suites can be read, and what is wrong with the others."""
    from npasbench.card import Card

    sets: dict[str, Data] = {}
    read, broken = 0, []
    for name in registry.files:
        try:
            found = registry.suite_or_card(name)
        except NpasbenchError as error:
            broken.append(str(error))
            continue
        read += 1
        if isinstance(found, Card):
            sets.setdefault(found.data.set, found.data)
    return sets, read, broken


def _data_checks(sets: dict[str, Data], data_root: Path | None) -> Iterator[Check]:
    from npasbench import data
    from npasbench.data.checking import look

    root = data.data_root(data_root)
    for name, one in sorted(sets.items()):
        try:
            found = look(one, root, decode=False)
        except DataError as error:
            said = str(error)
            damaged = "damaged" in said
            yield Check(name, "wrong" if damaged else "note", said if damaged else said.partition(". ")[0])
        except NpasbenchError as error:
            yield Check(name, "wrong", str(error))
        else:
            yield Check(name, "ok", found)


def _size(size: float) -> str:
    return f"{size / _GIGABYTE:,.1f} GiB"


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
