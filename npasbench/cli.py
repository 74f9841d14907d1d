"""The command line: verbs are entry points of the group ``npasbench.commands``, imported when they are asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import click

from npasbench import __version__
from npasbench.errors import NpasbenchError, PluginWarning, UnknownName

COMMANDS = "npasbench.commands"
_ORDER = (
    "quickstart list show check new-method data plan run status logs cancel retry doctor inspect leaderboard figure compare "
    "publish verify export"
)


class Verbs(click.Group):
    """Finds verbs by entry point; one that cannot be imported is named and stops no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Our own verbs in the order of use, then those of others."""
        order = _ORDER.split()
        return sorted(_verbs(), key=lambda name: (order.index(name) if name in order else len(order), name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one verb."""
        verb = _verbs().get(cmd_name)
        if verb is None:
            raise UnknownName("command", cmd_name, _verbs(), "See 'npasbench --help'.")
        try:
            command = verb.load()
        except Exception as error:
            return click.Command(cmd_name, callback=_broken(verb, error), short_help=f"(cannot be imported: {error})")
        return command if isinstance(command, click.Command) else None


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="npasbench")
def npasbench() -> None:
    """Benchmark ways of giving a neural network its weights out of a fixed parameter budget.

    \b
    Start with:  npasbench quickstart
    """


def main() -> None:
    """The console command: a user's mistake ends in a sentence and an exit code, never in a traceback."""
    warnings.showwarning = _show_warning
    try:
        code = npasbench.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except NpasbenchError as error:
        click.echo(f"npasbench: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("npasbench: stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,  # noqa: ARG001
    line: object = None,  # noqa: ARG001
) -> None:
    """Our own warnings are sentences for the user; those of libraries say where they come from."""
    if issubclass(category, PluginWarning):
        click.echo(f"npasbench: {message}", err=True)
    else:
        click.echo(f"{category.__name__}: {message} ({filename}:{lineno})", err=True)


def _verbs() -> dict[str, EntryPoint]:
    return {verb.name: verb for verb in entry_points(group=COMMANDS)}


def _broken(verb: EntryPoint, error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise NpasbenchError(
            f"The command '{verb.name}' ({verb.value}) cannot be imported: {type(error).__name__}: {error}."
        )

    return fail


if __name__ == "__main__":
    main()
