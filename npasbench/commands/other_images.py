"""Runs of a task on a folder of images as that was before: their images decide them, so nobody goes on with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.commands.wording import plural

if TYPE_CHECKING:
    from npasbench.plan import RunSpec
    from npasbench.running.rundir import RunDirectory


def of_other_images(specs: Sequence[RunSpec], root: Path) -> Iterator[str]:
    """A sentence for each task of which ``specs`` are to be done and runs of other images lie in the folder of all runs."""
    from npasbench.running.rundir import RunDirectory

    on_folders = [spec for spec in specs if spec.task.data.digest is not None]
    tasks = {spec.task.name: spec.task.data for spec in on_folders if RunDirectory.of(root, spec).open_to_work()}
    for name, data in tasks.items():
        others = _others(root / name, str(data.digest))
        if others:
            done = sum(one.result_file.exists() for one in others)
            yield (
                f"{name}: {plural(len(others), 'run')} in {root / name} ({done} with a result), such as {others[0].path.name} "
                f"of {others[0].path.parent.relative_to(root / name)}, are of other images than '{data.folder}' holds now, so "
                "these begin anew beside them; to go on with those, put the images back as they were, and to be rid of them, "
                "remove their folders."
            )


def _others(task: Path, digest: str) -> list[RunDirectory]:
    """The runs of a task that are of images with another digest."""
    from npasbench.errors import RunError
    from npasbench.running.rundir import RunDirectory

    found = []
    for file in sorted(task.glob("*/*/*/spec.json")):
        directory = RunDirectory(file.parent)
        try:
            before = directory.spec().task.data.digest
        except RunError:
            continue
        if before not in (None, digest):
            found.append(directory)
    return found
