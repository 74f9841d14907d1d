"""The code as it was submitted, copied beside the runs: what is edited later does not reach jobs that still wait."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

from npasbench.errors import UsageError
from npasbench.plan import RunSpec
from npasbench.registry import source_hash
from npasbench.running.commit import KEPT_COMMIT, commit
from npasbench.running.files import writing
from npasbench.running.method_sources import changed_since, classes_of

_ROOMS = ("npasbench", "npasbench.baselines", "npasbench.tasks", "npasbench.leaderboard")
"""In an editable install each lies in a folder of its own."""


def take(folder: Path) -> None:
    """Copy npasbench, as it is imported now, into ``folder``, from where ``PYTHONPATH`` finds it first.

    Raises:
        RunError: if the copy cannot be written.
    """
    with writing(folder):
        for room in _ROOMS:
            found = find_spec(room)
            source = Path(str(found and found.origin)).parent
            target = folder.joinpath(*room.split("."))
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / KEPT_COMMIT).write_text(json.dumps(commit()), encoding="utf-8")


def sources(specs: list[RunSpec]) -> dict[str, str | None]:
    """The hash of the source of every method and add-on that is not npasbench's own: of plugins, which are not copied."""
    return {
        name: source_hash(method)
        for spec in _different(specs)
        for name, method in classes_of(spec).items()
        if not method.__module__.startswith("npasbench.")
    }


def is_imported(folder: Path) -> bool:
    """Whether npasbench was imported from the copy in ``folder``."""
    found = find_spec("npasbench")
    return found is not None and Path(str(found.origin)).resolve().is_relative_to(folder.resolve())


def check_sources(specs: list[RunSpec], submitted: dict[str, str | None]) -> None:
    """See that plugins are what they were at submission.

    Raises:
        UsageError: naming the method that has changed.
    """
    for spec in _different(specs):
        if changed := changed_since(spec, submitted):
            raise UsageError(changed)


def _different(specs: list[RunSpec]) -> list[RunSpec]:
    """One run of each method with its add-ons."""
    return list({(s.method, s.plugins, *(one.name for one in s.addons)): s for s in specs}.values())
