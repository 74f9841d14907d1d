"""``npasbench figure``: every kind in every format, the same bytes each time, and wrong names answered with the nearest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ensemble_records import TASK as ENSEMBLE
from ensemble_records import ensembles
from records import TASK, realistic, scored

from npasbench.errors import UsageError
from npasbench.leaderboard.figure_command import figure
from npasbench.leaderboard.figures import SERIES
from npasbench.leaderboard.palette import LIGHT

STARTS = {"svg": b"<?xml", "pdf": b"%PDF-", "png": b"\x89PNG"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    realistic(root, seeds=3)
    ensembles(root, seeds=3)
    return root


def draw(runs: Path, out: Path, *options: str, task: str = TASK) -> Result:
    return CliRunner().invoke(figure, [str(runs), "--task", task, "--out", str(out), *options])


@pytest.mark.parametrize("kind", ["curve", "difference", "pareto", "anytime"])
@pytest.mark.parametrize("ending", STARTS)
def test_the_same_results_give_the_same_bytes(runs: Path, tmp_path: Path, kind: str, ending: str) -> None:
    task = ENSEMBLE if kind == "anytime" else TASK
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for file in files:
        outcome = draw(runs, file, "--kind", kind, task=task)
        assert outcome.exit_code == 0, outcome.output
        assert outcome.output.splitlines()[-1] == str(file)
    one, other = (file.read_bytes() for file in files)
    assert one == other
    assert one.startswith(STARTS[ending])
    assert len(one) > 4_000
    assert not re.search(rb"20[2-9]\d-\d\d-\d\d|D:20\d\d|Matplotlib v", one)


def drawn(runs: Path, tmp_path: Path, *options: str, task: str = TASK) -> str:
    outcome = draw(runs, tmp_path / "x.svg", *options, task=task)
    assert outcome.exit_code == 0, outcome.exception
    return (tmp_path / "x.svg").read_text()


def test_text_stays_text_and_only_what_was_asked_for_is_drawn(runs: Path, tmp_path: Path) -> None:
    every = drawn(runs, tmp_path)
    assert all(f">{label}<" in every for label in ("narrow", "ssn", "template-bank"))
    some = drawn(runs, tmp_path, "--entry", "ssn", "--entry", "naive", "--budget", "0.1", "--budget", "25%")
    assert ">ssn<" in some
    assert ">narrow<" not in some
    assert re.findall(r">([\d.]+×)<", some) == ["0.1×", "0.25×"]


def test_a_difference_needs_not_draw_the_control(runs: Path, tmp_path: Path) -> None:
    assert ">ssn<" in drawn(runs, tmp_path, "--kind", "difference", "--entry", "ssn")


def test_colours_are_those_of_the_site(runs: Path, tmp_path: Path) -> None:
    text = drawn(runs, tmp_path, "--entry", "ssn", "--entry", "narrow")
    assert LIGHT["--ink"] in text
    assert {f"--series-{number}" for number in range(SERIES)} <= LIGHT.keys()
    assert any(LIGHT[f"--series-{number}"] in text for number in range(SERIES))


def test_an_anytime_figure_is_drawn_at_its_budget_against_macs_or_time(runs: Path, tmp_path: Path) -> None:
    texts = {
        (budget, against): drawn(runs, tmp_path, "--kind", "anytime", "--budget", budget, "--against", against, task=ENSEMBLE)
        for budget in ("0.25", "1")
        for against in ("macs", "time")
    }  # fmt: skip
    assert len({*texts.values()}) == 4
    assert "latency of one example" in texts["1", "time"]


@pytest.mark.parametrize(
    ("options", "task", "said"),
    [
        ((), "digits15-wrn-10-2", "Did you mean 'digits15-wrn-10-1'"),
        ((), f"{TASK}@ffff", "is 0 boards"),
        (("--entry", "ssm"), TASK, "Did you mean 'ssn'"),
        (("--budget", "0.3"), TASK, "no results at budget 0.3. Known: 0.05, 0.1, 0.25, 1."),
        (("--budget", "lots"), TASK, "lots"),
        (("--kind", "anytime"), TASK, "nothing to draw"),
        (("--kind", "anytime", "--budget", "1", "--budget", "0.25"), ENSEMBLE, "shows one budget"),
        (("--against", "macs"), TASK, "--against is for pareto and anytime"),
        (("--out", "x.jpg"), TASK, "does not end in svg, pdf or png"),
        (("--out", "x"), TASK, "does not end in svg, pdf or png"),
    ],
)
def test_wrong_use_is_answered_in_a_sentence(
    runs: Path, tmp_path: Path, options: tuple[str, ...], task: str, said: str
) -> None:
    outcome = draw(runs, tmp_path / "x.svg", *options, task=task)
    assert isinstance(outcome.exception, UsageError)
    assert said in str(outcome.exception)
    assert not list(tmp_path.iterdir())


def test_points_that_are_not_drawn_are_told(tmp_path: Path) -> None:
    for label, accuracy in (("narrow", 0.90), ("ssn", 0.92), ("naive", 0.30)):
        scored(tmp_path / "runs", label, "0.1", dict.fromkeys(range(6), accuracy))
    outcome = draw(tmp_path / "runs", tmp_path / "x.svg", "--kind", "pareto")
    assert outcome.output.splitlines()[-2] == "1 point below the axis is not drawn; the axis's title says so too."
    assert "1 point lies below" in (tmp_path / "x.svg").read_text()
    assert "not drawn" not in draw(tmp_path / "runs", tmp_path / "y.svg").output
