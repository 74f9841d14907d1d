"""Options that say where runs are done: here, in the background, in a debugger, or on a SLURM cluster."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from npasbench.errors import UsageError

_TO_SLURM = ("profile", "runs_per_job", "jobs_at_once", "time", "cpus", "memory", "gpus")
_NAMES = ("partition", "account", "qos", "constraint")


@dataclass(frozen=True)
class Where:
    """Where runs are done."""

    executor: str | None = None
    gpus_per_run: int = 1
    profile: Path | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    """What the command line gives for keys of a profile."""
    command: str = field(default_factory=lambda: shlex.join(["npasbench", *sys.argv[1:]]))


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a verb, which gets them as ``where``."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        given = {name: values.pop(name) for name in (*_TO_SLURM, *_NAMES)}
        sbatch = values.pop("sbatch")
        executor = values.pop("executor")
        gpus_per_run = values.pop("gpus_per_run")
        profile = given.pop("profile")
        asked = {name: value for name, value in given.items() if value is not None}
        stray = ["profile"] * (profile is not None) + list(asked) + ["sbatch"] * bool(sbatch)
        if stray and executor != "slurm":
            raise UsageError(f"--{stray[0].replace('_', '-')} is asked of SLURM: give it with --executor slurm.")
        return command(**values, where=Where(executor, gpus_per_run, profile, {**asked, **_options(sbatch)}))

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _options(words: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` words; a word alone is an option without a value."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--")
        if not name or name in found:
            raise UsageError(f"'--sbatch {word}' is not OPTION=VALUE, such as '--sbatch nice=100', given once.")
        found[name] = value if equals and value != "true" else True
    return found


_OPTIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.option(
        "--executor",
        type=click.Choice(["slurm", "local", "debug"]),
        help="Submit to SLURM, or to a process in the background (local); or run in this very process, for a debugger. "
        "[default: work here until all is done]",
    ),
    click.option(
        "--gpus-per-run",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="GPUs (processes, on a CPU) that train one run together, with the card's batch size.",
    ),
    click.option(
        "--profile", type=click.Path(path_type=Path), help="A TOML file whose table [slurm] holds what follows."
    ),
    click.option("--runs-per-job", type=click.IntRange(min=1), help="Runs of one job. [default: 1]"),
    click.option("--jobs-at-once", type=click.IntRange(min=1), help="Jobs that run at the same time. [default: 256]"),
    click.option("--time", metavar="TIME", help="Of one job: 30m, 4h, 1-12:00:00. [default: what its runs need]"),
    click.option("--cpus", type=click.IntRange(min=1), help="Of one job. [default: what its runs need]"),
    click.option("--memory", metavar="SIZE", help="Of one job: 16G. [default: what its task needs]"),
    click.option("--gpus", type=click.IntRange(min=0), help="Of one job. [default: what its task needs]"),
    *(click.option(f"--{name}", metavar="NAME", help=f"SLURM's {name}.") for name in _NAMES),
    click.option(
        "--sbatch",
        multiple=True,
        metavar="OPTION=VALUE",
        help="Any other option of sbatch; true for one without a value; may be repeated.",
    ),
]
