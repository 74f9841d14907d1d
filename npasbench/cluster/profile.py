"""What is asked of SLURM for each job: from a TOML profile's ``[slurm]`` table and the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from npasbench.amounts import Memory, Minutes
from npasbench.errors import CardError, UnknownName, UsageError

_OURS = {
    "array": "runs-per-job and jobs-at-once decide it",
    "output": "'npasbench logs RUN --job' shows what jobs print",
    "error": "'npasbench logs RUN --job' shows what jobs print",
    "signal": "a job is told a minute before its end",
    "requeue": "jobs are always requeued",
    "no-requeue": "jobs are always requeued",
    "open-mode": "output is always appended",
    "ntasks": "gpus-per-run starts the processes of a run",
    "ntasks-per-node": "gpus-per-run starts the processes of a run",
    "nodes": "a job takes one node",
    "wrap": "npasbench is what runs",
}
_NOT_SBATCH = ("gpus-per-run", "executor", "device", "workers", "runs", "data-root", "checkpoint-seconds")
_ELSEWHERE = {"mem": "memory", "cpus-per-task": "cpus", "gpus-per-node": "gpus"}


Count = Annotated[int, Field(gt=0)]


class Profile(BaseModel):
    """The ``[slurm]`` table. What is not set is asked for as tasks and methods need it; other keys are sbatch options."""

    model_config = ConfigDict(
        extra="allow", frozen=True, alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: Minutes | None = None
    """Of one job, not of one run."""
    cpus: Count | None = None
    memory: Memory | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    """Of one job; ``gpus / gpus-per-run`` runs go on at once in it."""
    runs_per_job: Count = 1
    jobs_at_once: Count = 256
    setup: tuple[str, ...] = ()
    """Shell lines before the job begins, such as ``module load cuda``."""

    @property
    def others(self) -> dict[str, Any]:
        """The sbatch options that npasbench does not know."""
        return dict(self.model_extra or {})


def read_profile(path: Path | None, given: Mapping[str, Any]) -> Profile:
    """The profile of a file, and what the command line gives instead of it.

    Raises:
        CardError: for a file that cannot be read, or an option in it that has no such value.
        UsageError: for such a value on the command line.
    """
    table = {} if path is None else _table(path)
    kept = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    _check_names(table, str(path))
    _check_names(kept, "The command line")
    try:
        Profile.model_validate(table)
    except ValidationError as error:
        raise CardError(f"{path}: {_sentence(error)}") from None
    try:
        return Profile.model_validate({**table, **kept})
    except ValidationError as error:
        raise UsageError(_sentence(error)) from None


def _table(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"Profile {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"Profile {path} is not TOML: {error}.") from None
    for name in content:
        if name != "slurm":
            raise UnknownName("table or key", name, ["slurm"], f"In profile {path}, options stand below [slurm].")
    table = content.get("slurm")
    if not isinstance(table, dict):
        raise CardError(f"Profile {path} has no table [slurm].")
    return {name.replace("_", "-"): value for name, value in table.items()}


def _check_names(table: Mapping[str, Any], where: str) -> None:
    """Options that npasbench sets itself, or knows by another name; any other is for sbatch to judge."""
    for name, value in table.items():
        if name in _OURS:
            raise UsageError(f"{where} sets the sbatch option '{name}'. Leave it out: {_OURS[name]}.")
        if name in _ELSEWHERE:
            raise UsageError(f"{where} sets the sbatch option '{name}'. Write '{_ELSEWHERE[name]}' for it.")
        if name in _NOT_SBATCH:
            raise UsageError(
                f"{where} sets '{name}', which is no option of sbatch. Give it to npasbench run: --{name}."
            )
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise UsageError(f"{where} sets '{name}', which cannot be an option of sbatch.")
        if name not in _KNOWN and (isinstance(value, dict | list) or value is False or "\n" in str(value)):
            raise UsageError(
                f"{where} gives sbatch option '{name}' the value {value!r}. Give a text, a number or true."
            )


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])).replace("_", "-")
    what = first["msg"].removeprefix("Value error, ")
    if key == "setup":
        what = 'write a list of shell lines, such as ["module load cuda"]'
    return f"'{key}': {what}." if first["type"] == "value_error" else f"'{key}' was given {first['input']!r}: {what}."


_KNOWN = {name.replace("_", "-") for name in Profile.model_fields}
