"""The site: pages from templates, CSV files beside them, and assets, written so that the same results give the same bytes."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .about_page import about_page
from .assets import assets
from .board import Board
from .compare_page import compare_page
from .folder import SiteFolder
from .grouping import boards as group
from .index_page import index_page
from .method_pages import method_names, method_page, methods_table
from .names import Names
from .reported_page import reported_page
from .run_pages import run_page
from .store import collect
from .task_pages import task_page
from .unchanged import around, made_of

Page = tuple[str, str]
"""A file's name below the site's root, and its content."""


@dataclass(frozen=True)
class SiteSummary:
    """What was rendered: the first page, the boards, and what was found wrong."""

    index: Path
    boards: tuple[Board, ...]
    pages: int
    problems: tuple[str, ...]


def build_site(runs: Path | Sequence[Path], out: Path) -> SiteSummary:
    """Render all results below ``runs``, one folder or several, into the folder ``out``.

    Raises:
        UsageError: if there is nothing to show, or ``out`` holds something else than a site.
        RunError: if the site cannot be written.
    """
    with _without_collector():
        return _build(runs, out)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A site is much data and hardly a cycle: looking for cycles would take a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _build(runs: Path | Sequence[Path], out: Path) -> SiteSummary:
    store = collect(*([runs] if isinstance(runs, Path) else runs))
    boards = group(store.runs)
    names = Names.of(boards)
    folder = SiteFolder(out)
    pages = 0
    environment = _environment()
    for name, content in _pages(environment, boards, names, store.problems):
        folder.write(name, content)
        pages += name.endswith(".html")
    pages += _write_runs(environment, boards, names, folder)
    for name, data in assets():
        folder.write(f"assets/{name}", data)
    folder.finish()
    return SiteSummary(out / "index.html", boards, pages, store.problems)


def _write_runs(environment: Environment, boards: tuple[Board, ...], names: Names, folder: SiteFolder) -> int:
    """The pages of all runs, those anew that have changed; how many there are."""
    template = environment.get_template("run.html.j2")
    every = [(board, entry, cell) for board in boards for entry in board.entries for cell in entry.cells.values()]
    for board, entry, cell in every:
        cells = around(board, entry, cell, names)
        for run in cell.runs:
            name, digest = names.run(run), made_of(cells, run, names)
            if not folder.keep(name, digest):
                page = run_page(board, entry, cell, run, names)
                folder.write(name, template.render(page=page, root="../../"), digest)
    return sum(len(cell.runs) for _, _, cell in every)


def _pages(
    environment: Environment, boards: tuple[Board, ...], names: Names, problems: tuple[str, ...]
) -> Iterator[Page]:
    methods = methods_table(boards, names)
    index = index_page(boards, methods, problems, names)
    yield "index.html", environment.get_template("index.html.j2").render(page=index, root="")
    yield from ((name, sheet.text()) for name, sheet in index.sheets)
    yield "about.html", environment.get_template("about.html.j2").render(page=about_page(), root="")
    reported = reported_page(boards, names)
    yield "reported.html", environment.get_template("reported.html.j2").render(page=reported, root="")
    yield reported.table.csv, reported.table.sheet.text()
    for board in boards:
        yield from _task(environment, board, boards, names)
    for method in method_names(boards):
        page = method_page(method, boards, names)
        yield names.method(method), environment.get_template("method.html.j2").render(page=page, root="../")
        yield f"methods/{page.runs_csv}", page.runs.text()


def _task(environment: Environment, board: Board, boards: tuple[Board, ...], names: Names) -> Iterator[Page]:
    page = task_page(board, boards, names)
    yield names.task(board), environment.get_template("task.html.j2").render(page=page, root="../")
    yield f"tasks/{page.runs_csv}", page.runs.text()
    yield from ((f"tasks/{table.csv}", table.sheet.text()) for _, table in page.tables)
    if page.anytime:
        yield f"tasks/{page.anytime.csv}", page.anytime.sheet.text()
    pairs = compare_page(board, names)
    yield names.compare(board), environment.get_template("compare.html.j2").render(page=pairs, root="../")
    if pairs.table:
        yield f"compare/{pairs.table.csv}", pairs.table.sheet.text()


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data"] = script_data
    return environment


def script_data(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: nothing in it can end the element, and NaN is null."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
