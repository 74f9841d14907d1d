"""``npasbench status``: how the runs of a folder stand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npasbench.commands.options import json_option, runs_argument
from npasbench.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from npasbench.commands.standing import Reader, Standing

_EVERY = 5.0


@click.command("status")
@runs_argument
@json_option
@click.option(
    "--watch",
    is_flag=False,
    flag_value=str(_EVERY),
    metavar="[SECONDS]",
    help=f"Show it again every so many seconds until all runs ended or Ctrl-C. [default: {_EVERY:g}]",
)
@click.pass_context
def status(ctx: click.Context, runs: Path, as_json: bool, watch: str | None) -> None:
    """Show which runs wait, run, are done or failed, and why. Exits 1 if one failed or is corrupt.

    Runs of a batch that nobody has begun yet wait too; of its jobs it tells what keeps open runs from being done.

    \b
    Example:  npasbench status runs --watch
    """
    from npasbench.commands.finding import check_folder
    from npasbench.commands.standing import Reader

    if (
        watch is not None
        and ctx.get_parameter_source("runs") is click.core.ParameterSource.DEFAULT
        and not _is_number(watch)
    ):
        runs, watch = Path(watch), str(_EVERY)  # "--watch runs": the folder, not a time
    if watch is not None and as_json:
        raise UsageError("--json tells once how runs stand; leave out --watch.")
    every = None if watch is None else _seconds(watch)
    check_folder(runs)
    reader = Reader(runs)
    if every is not None:
        sys.exit(_watch(reader, every))
    standing = reader.read()
    if as_json:
        click.echo(json.dumps(standing.report(), indent=1))
    else:
        _print(standing)
    sys.exit(standing.exit_code)


def _print(standing: Standing) -> None:
    from npasbench.commands.standing import lines

    for line, bad in lines(standing):
        click.secho(line, fg="red") if bad else click.echo(line)


def _watch(reader: Reader, seconds: float) -> int:
    """Show it until all runs ended or Ctrl-C; the exit code for what was seen last."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        return _repeat(reader, seconds, _print)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        code = _repeat(reader, seconds, lambda standing: live.update(_text(standing), refresh=True))
        live.vertical_overflow = "visible"
        return code


def _repeat(reader: Reader, seconds: float, show: Callable[[Standing], Any]) -> int:
    code = 0
    try:
        while True:
            standing = reader.read()
            code = standing.exit_code
            show(standing)
            if standing.over:
                return code
            time.sleep(seconds)
    except KeyboardInterrupt:
        return code


def _text(standing: Standing) -> Text:
    """The count of all runs first: what does not fit on the screen is cut off at its end."""
    from rich.text import Text

    from npasbench.commands.standing import lines

    *others, last = lines(standing)
    text = Text()
    for line, bad in (last, *others):
        text.append(f"{line}\n", style="red" if bad else "")
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    seconds = float(text) if _is_number(text) else 0.0
    if not 0.1 <= seconds <= 86_400:
        raise UsageError(f"'--watch {text}' is no time to wait. Give seconds from 0.1 on, or leave the number out.")
    return seconds
