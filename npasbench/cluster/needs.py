"""What a job asks for: what its runs' tasks and methods need, where a profile or the command line says nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from npasbench.building import method_of, problem_of
from npasbench.cluster.profile import Profile
from npasbench.errors import UsageError
from npasbench.plan import RunSpec

_TO_BEGIN = 5
"""Minutes of every job for imports, the certificate and writing."""
_TO_DECODE = 8
"""Cores for each process that trains on a GPU and has its images decoded as they are needed."""


@dataclass(frozen=True)
class Asked:
    """The resources of one job of an array, and how many runs it does."""

    minutes: int
    memory: str
    cpus: int
    gpus: int
    runs: int
    workers: int
    """How many runs go on at once in it."""


def asked_for(spec: RunSpec, profile: Profile, processes: int) -> Asked:
    """What a job of runs like this one asks for; ``processes`` train one run together, each on a GPU where there are any.

    Raises:
        UsageError: if the profile's GPUs are too few for one run.
    """
    needs = spec.task.needs
    gpus = max(needs.gpus, processes if needs.gpus else 0) if profile.gpus is None else profile.gpus
    if 0 < gpus < processes:
        raise UsageError(f"A run on {processes} GPUs does not fit into a job with {gpus}. Ask for --gpus {processes}.")
    workers = max(1, gpus // processes)
    minutes = profile.time
    if minutes is None:
        method = method_of(spec)
        one = needs.time * method.time_factor(problem_of(spec))
        minutes = _TO_BEGIN + math.ceil(one * math.ceil(profile.runs_per_job / workers))
    return Asked(
        minutes=minutes,
        memory=profile.memory or needs.memory,
        cpus=profile.cpus or _cores(spec, gpus) * processes * workers,
        gpus=gpus,
        runs=profile.runs_per_job,
        workers=workers,
    )


def _cores(spec: RunSpec, gpus: int) -> int:
    data = spec.task.data
    decodes = gpus > 0 and (data.set == "imagenet" or data.crop == "random-resized")
    return spec.task.recipe.threads + (_TO_DECODE if decodes else 0)
