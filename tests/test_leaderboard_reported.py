"""Published figures: the file is sound, and a measured number stands beside one only where everything agrees."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from records import DENSE, card, put, result, spec

from npasbench.leaderboard import reported_page as page_of
from npasbench.leaderboard.board import Board
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.names import Names, safe_link
from npasbench.leaderboard.reported import Reported, figures, matches
from npasbench.leaderboard.store import collect

FIGURE = Reported(
    "A paper", "Table 1", "image classification", "CIFAR-100", "WRN-28-10", "Deterministic", None, None, "error (%)",
    20.5, 1, None, "", "https://example.org/paper", True,
)  # fmt: skip


def measured(
    root: Path, label: str = "dense", budget: str = "1", members: tuple[str, ...] = ("wrn-28-10",), **data: object
) -> Board:
    """A board with three seeds of one entry on a task like the figure's."""
    task = card(members=[*members], data={"set": "cifar100", "protocol": "full-last", **data})
    for seed in range(3):
        of = spec(label, budget, seed, task=task)
        metrics = {"accuracy": 0.80 + seed / 100, "nll": 0.7, "ece": 0.05}
        put(root, of, record=result(of, metrics=metrics, parameters={"bank": DENSE, "total": DENSE}))
    (board,) = boards(collect(root).runs)
    return board


def test_the_file_holds_every_figure_with_a_source_that_is_a_link_or_is_told() -> None:
    every = figures()
    assert len(every) == 613
    for figure in every:
        assert figure.paper
        assert figure.metric
        assert math.isfinite(figure.value)
        assert safe_link(figure.source_url) == figure.source_url
        assert figure.source_url or "copy of the paper's text" in figure.note
        assert figure.parameters is None or figure.parameters >= 1000
        assert figure.budget is None or 0 < figure.budget <= 1
    assert sum(not figure.read_at_source for figure in every) == 6
    assert len({*every}) >= len(every) - 5


def test_a_measured_cell_stands_beside_a_figure_in_its_unit(tmp_path: Path) -> None:
    board = measured(tmp_path)
    (match,) = matches(FIGURE, [board])
    assert match.measured.mean == pytest.approx(19.0)
    assert match.measured.low < 19.0 < match.measured.high
    assert match.difference == pytest.approx(-1.5)
    (likelihood,) = matches(replace(FIGURE, metric="NLL", value=0.6), [board])
    assert likelihood.difference == pytest.approx(0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "CIFAR-10"},
        {"dataset": ""},
        {"architecture": "WRN-28-2"},
        {"architecture": ""},
        {"method": "MIMO"},
        {"method": "Deterministic (size=4)"},
        {"method": "something of its own"},
        {"parameters": 2 * DENSE},
        {"budget": 0.1},
        {"metric": "top-5 error (%)"},
    ],
)
def test_one_thing_that_differs_is_enough_to_stand_alone(tmp_path: Path, changes: dict[str, object]) -> None:
    assert matches(replace(FIGURE, **changes), [measured(tmp_path)]) == ()


def test_a_count_agrees_within_the_rounding_of_papers(tmp_path: Path) -> None:
    board = measured(tmp_path)
    assert matches(replace(FIGURE, parameters=round(1.004 * DENSE)), [board])
    assert not matches(replace(FIGURE, parameters=round(1.02 * DENSE)), [board])


def test_a_deep_ensemble_has_as_many_networks_as_the_paper_says(tmp_path: Path) -> None:
    figure = replace(FIGURE, method="Deep Ensemble (size=4)", parameters=DENSE)
    board = measured(tmp_path, "deep-ensemble", members=("wrn-28-10",) * 4)
    assert matches(figure, [board])
    assert not matches(replace(figure, method="Deep Ensemble (size=3)"), [board])


def test_what_does_not_rank_compares_with_nothing(tmp_path: Path) -> None:
    board = measured(tmp_path)
    for path in sorted(tmp_path.rglob("seed0-*/*.json")):
        path.unlink()
    (fewer,) = boards(collect(tmp_path).runs)
    assert matches(FIGURE, [board])
    assert not matches(FIGURE, [fewer])


def test_the_page_marks_figures_as_not_run_and_leaves_unknown_cells_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(FIGURE, source_url="javascript:alert(1)", architecture="", read_at_source=False)
    monkeypatch.setattr(page_of, "figures", lambda: (FIGURE, odd))
    board = measured(tmp_path)
    page = page_of.reported_page([board], Names.of([board]))
    heads = [column.title for column in page.table.columns]
    joined, alone = (dict(zip(heads, row.items, strict=True)) for row in page.table.rows)
    assert (joined["Published"].text, joined["Measured here"].text, joined["Difference"].text) == (
        "20.5",
        "19.00",
        "−1.50",
    )
    assert joined["Measured here"].href.startswith("methods/dense.html#cell-")
    assert [alone[head].text for head in ("Architecture", "Measured here", "Difference")] == ["", "", ""]
    assert alone["Source"].href == ""
    assert [badge.text for badge in alone["Source"].badges] == ["second hand"]
    assert page.table.columns[heads.index("Published")].small == "not run here"
    assert len(page.table.sheet.rows) == 2
    assert {len(line) for line in page.table.sheet.rows} == {len(page.table.sheet.columns)}
