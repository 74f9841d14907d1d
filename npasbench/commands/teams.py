"""Whether runs can be shared by several GPUs: seen before the first is begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npasbench.errors import UsageError

if TYPE_CHECKING:
    from npasbench.plan import RunSpec


def check_teams(specs: Sequence[RunSpec], processes: int, devices: Sequence[str], executor: str | None) -> None:
    """See that ``processes`` can train each of these runs together on these devices (none: of another machine).

    Raises:
        UsageError: if there are too few GPUs, or a BatchNorm would see fewer images than its card says.
    """
    if processes == 1:
        return
    if executor == "debug":
        raise UsageError("--executor debug works in one process. Leave out --gpus-per-run, or the executor.")
    if devices and devices != ("cpu",) and len(devices) < processes:
        raise UsageError(f"--gpus-per-run {processes} needs {processes} GPUs; here it has {', '.join(devices)}.")
    import torch

    from npasbench.building import problem_of
    from npasbench.training.team import Team, check_parts

    for spec in {spec.task.fingerprint: spec for spec in specs}.values():
        with torch.device("meta"):
            network = problem_of(spec).create()
        recipe = spec.task.recipe
        check_parts(network, recipe.batch_size, recipe.norm_images, Team(size=processes))
