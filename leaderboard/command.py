"""``npasbench leaderboard``: render the results below a folder as a static site."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("site"), show_default=True, help="Folder of the site."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def leaderboard(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Render the results below RUNS (by default: runs) as a site that opens from disk.

    RUNS holds run directories, or what npasbench publish wrote, or both; several folders are shown together. Of a run that is
    there with different results none is counted, and both places are named. Prints a table for each task and the path of the
    first page. Ends with 1 if a result could not be read, or is there twice.

    \b
    Example:
      npasbench leaderboard runs --out site
    """
    from . import summary
    from .site import build_site

    site = build_site(runs or (Path("runs"),), out)
    if as_json:
        click.echo(json.dumps(summary.as_json(site), indent=1))
    else:
        summary.show(site, sys.stdout)
        click.echo(site.index)
    if site.problems:
        click.get_current_context().exit(1)
