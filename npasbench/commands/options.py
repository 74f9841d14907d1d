"""Options that several verbs take, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from npasbench.errors import UsageError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

plugin_option: Decorator = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE|MODULE", help="A Python file or module that defines methods."
)


def _folder(ctx: click.Context, parameter: click.Parameter, given: Path) -> Path:  # noqa: ARG001
    if given.exists() and not given.is_dir():
        raise UsageError(f"--runs was given {given}, which is a file. Name a folder; it is made if it is not there.")
    return given


runs_option: Decorator = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    callback=_folder,
    help="The folder of all runs.",
)
runs_argument: Decorator = click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option: Decorator = click.option(
    "--set", "settings", multiple=True, metavar="KNOB=VALUE", help="A knob of the method; may be repeated."
)
with_option: Decorator = click.option(
    "--with",
    "addons",
    multiple=True,
    metavar="ADD-ON[:KNOB=VALUE,...]",
    help="An add-on that goes with the method, such as distill; may be repeated.",
)
workers_option: Decorator = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes that work at the same time. [default: one a core]",
)
label_option: Decorator = click.option(
    "--label", help="The row's name in tables. [default: the method, the knobs that are set and the add-ons]"
)
device_option: Decorator = click.option(
    "--device", default=None, help="cpu, cuda or cuda:N. [default: cuda if there is one]"
)
data_root_option: Decorator = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=None,
    help="The folder of data sets that do not come along. [default: what NPASBENCH_DATA names, else data]",
)
checkpoint_option: Decorator = click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Longest time between two checkpoints of a run.",
)


def read_knobs(settings: Sequence[str]) -> dict[str, Any]:
    """``knob=value`` words as a dict; a value is read as TOML where it is TOML, else as a string.

    Raises:
        UsageError: for a word without '=', or a knob given twice.
    """
    from npasbench.added import read_value

    knobs: dict[str, Any] = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"'--set {word}' is not KNOB=VALUE, such as '--set scope=all'.")
        if name in knobs:
            raise UsageError(f"Knob '{name}' is set twice. Keep one.")
        knobs[name] = read_value(value)
    return knobs


def read_seeds(text: str | None) -> tuple[int, ...]:
    """``0-9,12`` as seeds; nothing for None.

    Raises:
        UsageError: for anything else, a range that is reversed included.
    """
    if text is None:
        return ()
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UsageError(f"'{text}' is not a list of seeds. Write numbers and ranges, such as 0-9 or 0,3,7.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"The range of seeds '{part.strip()}' is reversed. Write {last}-{first}.")
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def label_for(method: str, knobs: dict[str, Any], addons: Sequence[str] = ()) -> str:
    """A label that tells settings of one method apart: ``naive``, ``naive-scope-all``, ``naive-distill-weight-0.5``."""
    from npasbench.added import read_addon

    words = [method, *(f"{name}-{value}" for name, value in knobs.items())]
    for addon, own in map(read_addon, addons):
        words += [addon, *(f"{name}-{value}" for name, value in own.items())]
    return re.sub(r"[^a-z0-9._-]+", "-", "-".join(words).lower())[:80]
