"""The workflow that verifies submitted results: what it may do, and that the commands in it are commands."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

FILE = Path(__file__).resolve().parent.parent / ".github" / "workflows" / "verify.yml"
TEXT = FILE.read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r" \|\|.*", "", line.strip().removeprefix("run: "))
    for line in TEXT.splitlines()
    if re.match(r"(run: )?npasbench ", line.strip())
]


def test_it_runs_on_pull_requests_that_touch_results_and_may_only_read() -> None:
    assert re.search(r"^on:\n  pull_request:\n    paths:\n      - \"results/\*\*\"\n\n", TEXT, flags=re.MULTILINE)
    assert "pull_request_target" not in TEXT
    assert re.search(r"^permissions:\n  contents: read\n\n", TEXT, flags=re.MULTILINE)
    assert "write" not in re.sub(r"#.*|echo .*", "", TEXT)
    assert "secrets" not in re.sub(r"#.*", "", TEXT)
    assert "persist-credentials: false" in TEXT


def test_it_is_yaml_and_every_step_does_something() -> None:
    steps = pytest.importorskip("yaml").safe_load(TEXT)["jobs"]["verify"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)


def test_every_action_is_pinned_to_a_version() -> None:
    actions = re.findall(r"uses: (\S+)", TEXT)
    assert actions
    assert [action for action in actions if not re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", action)] == []


def test_nothing_that_a_stranger_wrote_is_put_into_a_script() -> None:
    scripts = re.findall(r"run: \|\n((?: {10}.*\n)+)", TEXT)
    assert scripts
    assert [script for script in scripts if "${{" in script] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_parse(command: str) -> None:
    words = shlex.split(command)
    verb = next(entry for entry in entry_points(group="npasbench.commands") if entry.name == words[1]).load()
    with click.Context(click.Group()), verb.make_context(words[1], words[2:]):
        pass


def test_it_verifies_trains_again_compares_and_renders() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["verify", "compare", "leaderboard"]
    assert "--retrain 1" in COMMANDS[0]


def test_what_is_trained_again_is_drawn_from_what_is_new_by_a_seed_that_nobody_knows_beforehand() -> None:
    assert "--new-since before/results" in COMMANDS[0]
    words = shlex.split(COMMANDS[0])
    seed = words[words.index("--draw-seed") + 1]
    assert {"$GITHUB_RUN_ID", "$GITHUB_SHA"} <= {*seed.split("-")}  # of a pull request, the merge commit
    assert TEXT.index('git archive "$BASE" results | tar -x -C before') < TEXT.index("--new-since")
