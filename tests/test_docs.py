"""The documents: every command and every Python block in them is run, and what they list is what the code has.

Blocks of a page are run in order in one empty folder. A ``console`` or ``bash`` block is a list of commands. A ``python``
block is run; a ``python`` or ``toml`` block whose first line is ``# name.ext`` is a file of that name instead. ``text`` and
``mermaid`` blocks are for the eye.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from npasbench.card import Card, Suite, kind_of, read_card, read_suite
from npasbench.method import Method
from npasbench.running.record import Record
from npasbench.running.rundir import RunDirectory, RunState

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = ROOT / "docs" / "examples" / "npasbench-windows"
VERBS = sorted(entry.name for entry in entry_points(group="npasbench.commands") if entry.value.startswith("npasbench."))

REDUCED = {
    "npasbench quickstart": "npasbench quickstart --seeds 0",
    " --seeds 0-2": " --seeds 0",
    "npasbench run my-suite.toml": "npasbench run my-suite.toml --seeds 0",
    "npasbench publish runs --out results": "npasbench publish runs --out results --trial",
    "npasbench leaderboard results --out site": f"npasbench leaderboard {shlex.quote(str(ROOT / 'results'))} --out site",
}
"""What is run in place of what is written, where that would take long: fewer seeds, fewer budgets, nothing else.

And trial results are published, since the tree that is tested may have changes; the results of the repository lie in
its root, which is not where the test runs. A key that starts with a space is
replaced wherever it stands, any other only if it is the whole command.
"""
NOT_RUN = ("pip install ", "tox ", "ruff ", "pytest ")
"""Commands of other programs. ``pip install``, tox and its parts are what runs this test."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is."""
        match = re.match(r"# ([\w.-]+\.(?:py|toml))\n", self.text)
        return match[1] if match and self.language in ("python", "toml") else None

    @property
    def content(self) -> str:
        """The text of the file that the block is, without the line that names it."""
        return self.text.partition("\n")[2]

    @property
    def commands(self) -> list[str]:
        """The commands of a console block."""
        if self.language not in ("console", "bash"):
            return []
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]


def reduced(command: str) -> str:
    """What is run in place of a command."""
    if command in REDUCED:
        return REDUCED[command]
    for written, less in REDUCED.items():
        if written.startswith(" "):
            command = command.replace(written, less)
    return command


def run_command(command: str, folder: Path, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a shell that finds this environment's npasbench first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "200", **surroundings},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )


# Running what is written


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_every_command_and_python_block_of_a_page_works(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.file:
            (tmp_path / block.file).write_text(block.content, encoding="utf-8")
        elif block.language == "python":
            done = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}\n{done.stderr}"
        for command in block.commands:
            if not command.startswith(NOT_RUN):
                done = run_command(reduced(command), tmp_path)
                assert done.returncode == 0, f"{where}: {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_is_of_a_kind_that_is_run_or_named_as_not_run(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("console", "bash", "python", "toml", "text", "mermaid"), f"{page.name}:{block.line}"
        assert block.language != "toml" or block.file, f"{page.name}:{block.line}: name the file in the first line"
        for command in block.commands:
            assert command.startswith(("npasbench ", *NOT_RUN)), f"{page.name}:{block.line}: {command}"


def test_every_reduction_is_used() -> None:
    commands = [command for page in PAGES for block in blocks(page) for command in block.commands]
    for written in REDUCED:
        assert any(written in command if written.startswith(" ") else written == command for command in commands), (
            written
        )


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    readme, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    assert "```console\npip install tox && tox\n```" in readme
    assert "pip install tox && tox" in ci


# The example


@pytest.mark.parametrize("name", ["npasbench_windows.py", "pyproject.toml"])
def test_the_example_in_the_text_is_the_file(name: str) -> None:
    block = next(block for block in blocks(ROOT / "docs" / "add_a_method.md") if block.file == name)
    assert block.content == (EXAMPLE / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_package_is_found_by_its_entry_point_and_shown_on_the_leaderboard(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        *_isolation(),
        "--target",
        str(installed),
        str(source),
    ]
    subprocess.run(words, capture_output=True, check=True)

    listed = run_command("npasbench list methods --json", tmp_path, PYTHONPATH=str(installed))
    assert json.loads(listed.stdout)["methods"]["windows"] == "npasbench-windows 0.1.0, npasbench_windows:Windows"
    words = ["npasbench run digits15-wrn-10-1 --method windows --budget 0.1 --seeds 0", "npasbench leaderboard"]
    for command in words:
        done = run_command(command, tmp_path, PYTHONPATH=str(installed))
        assert done.returncode == 0, done.stdout + done.stderr
    assert "windows" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


# What the documents list is what the code has


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_documents(verb: str) -> None:
    assert any(f"npasbench {verb}" in page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_in_the_help_of_a_verb_parses(verb: str) -> None:
    command = next(entry for entry in entry_points(group="npasbench.commands") if entry.name == verb).load()
    match = re.search(r"Example:\s+npasbench (\S+)(.*)", command.help)
    assert match, f"the help of {verb} has no example"
    assert match[1] == verb
    with click.Context(click.Group()), command.make_context(verb, shlex.split(match[2])):
        pass


def test_every_internal_link_leads_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_blocks(page))
        if not target.startswith(("https://", "http://", "mailto:")) and not _is_there(page, target)
    ]
    assert missing == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        waiting += [path for t in targets if (path := (page.parent / t).resolve()).exists() and path not in reached]
    assert set(PAGES) <= reached


@pytest.mark.parametrize(("model", "prefix", "heading"), [(Card, "", "card"), (Suite, "", "suite")])
def test_add_a_task_lists_every_key_with_its_default(model: type[BaseModel], prefix: str, heading: str) -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text(encoding="utf-8")
    start = text.index("| key |" if heading == "card" else "| key of a suite |")
    table = text[start : text.index("\n\n", start)]
    rows = {
        cells[0].strip("` "): cells[-1].strip("` ")
        for line in table.splitlines()[2:]
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    expected = dict(_keys(model, prefix))
    assert list(rows) == sorted(rows, key=list(rows).index)
    assert set(rows) == set(expected)
    for key, default in expected.items():
        if default is not None:
            assert rows[key] == default, key


def test_add_a_method_lists_every_member_of_the_contract() -> None:
    text = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
    members = [name for name in vars(Method) if not name.startswith("_")]
    assert [name for name in members if f"| `{name}" not in text and f"`{name}`" not in text] == []


def test_runs_lists_every_file_state_and_key_of_a_result() -> None:
    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    directory = RunDirectory(Path())
    files = [getattr(directory, name).name for name in vars(RunDirectory) if name.endswith("_file")]
    states = typing.get_args(RunState)
    keys = [name.removesuffix("_") for name in Record.model_fields]
    later = ("smallest", "task_version", "test_examples")  # said elsewhere or plain
    assert [word for word in (*files, *states, *keys) if f"`{word}`" not in text and word not in later] == []


@pytest.mark.slow
def test_budgets_explains_every_cost_of_a_run(tmp_path: Path) -> None:
    done = run_command("npasbench run digits15-wrn-10-1 --method roast --budget 0.1 --seeds 0", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(tmp_path.glob("runs/*/*/*/*/result.json")).read_text(encoding="utf-8"))
    search = (ROOT / "npasbench" / "running" / "search.py").read_text(encoding="utf-8")
    keys = [*result["costs"], *re.findall(r"\b(search_\w+)=", search)]
    text = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    assert [key for key in keys if f"| `{key}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_card_and_suite_in_a_page_can_be_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "toml" and block.file != "pyproject.toml":
            path = tmp_path / str(block.file)
            path.write_text(block.content, encoding="utf-8")
            card = read_suite(path) if kind_of(path) is Suite else read_card(path)
            assert f"{card.name}.toml" == block.file


# Helpers


def _isolation() -> list[str]:
    """Build with this environment's setuptools where it is new enough; else let pip fetch one."""
    try:
        major = int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if major >= 77 else []


def _keys(model: type[BaseModel], prefix: str) -> list[tuple[str, str | None]]:
    """Every key of a model and its sub-models, dotted, and its default as a document writes it (None: not to be compared)."""
    found: list[tuple[str, str | None]] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        found.append((key, "" if field.is_required() else _written(field.default)))
        inner = [t for t in (field.annotation, *_arguments(field.annotation)) if isinstance(t, type)]
        for one in inner:
            if issubclass(one, BaseModel):
                found += _keys(one, f"{key}.")
    return found


def _arguments(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    return [inner for one in arguments for inner in (one, *_arguments(one))]


def _written(default: Any) -> str | None:
    if isinstance(default, str):
        return default or "empty"
    return json.dumps(default) if isinstance(default, bool | int | float) else None


@cache
def _without_blocks(page: Path) -> str:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def _is_there(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    return file.exists() and (not anchor or anchor in _anchors(file))


@cache
def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
