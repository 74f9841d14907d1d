"""The Pareto front: by means over seeds, ranked cells only, and its members named on the chart."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects
import pytest
from records import put as write
from records import result, scored, spec

from npasbench.leaderboard.board import Board
from npasbench.leaderboard.figures import out_of_view
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.names import Names
from npasbench.leaderboard.pareto import COSTS, front, pareto, pareto_figure, points
from npasbench.leaderboard.store import collect


def put(root: Path, label: str, accuracy: float, total: int, seeds: int = 3, **changes: object) -> None:
    """Runs at 0.1 that take so many parameters."""
    for seed in range(seeds):
        of = spec(label, "0.1", seed)
        metrics = {"accuracy": accuracy, "nll": 0.2, "ece": 0.02}
        write(root, of, record=result(of, metrics=metrics, parameters={"bank": total, "total": total}, **changes))


def board_of(root: Path) -> Board:
    (board,) = boards(collect(root).runs)
    return board


def members(board: Board, key: str = "parameters") -> list[str]:
    return [one.entry.label for one in front(points(board, key))]


def test_the_front_holds_what_nothing_cheaper_or_equal_beats(tmp_path: Path) -> None:
    put(tmp_path, "narrow", 0.80, 1000)
    put(tmp_path, "naive", 0.85, 1000)  # as cheap as narrow and better
    put(tmp_path, "hashed", 0.84, 2000)  # dearer than naive and worse
    put(tmp_path, "roast", 0.85, 3000)  # dearer than naive and no better
    put(tmp_path, "ssn", 0.90, 4000)
    assert members(board_of(tmp_path)) == ["naive", "ssn"]


def test_what_does_not_rank_is_shown_and_not_on_the_front(tmp_path: Path) -> None:
    put(tmp_path, "naive", 0.85, 1000)
    put(tmp_path, "ssn", 0.99, 900, seeds=2)
    put(tmp_path, "roast", 0.98, 8000, state="over-budget", reason="too many")
    board = board_of(tmp_path)
    assert members(board) == ["naive"]
    figure = pareto_figure(board, "parameters")
    assert figure is not None
    symbols = {trace["name"]: trace["marker"]["symbol"] for trace in figure["data"] if trace["mode"] == "markers"}
    assert {name for name, (symbol,) in symbols.items() if symbol.endswith("-open")} == {"ssn", "roast"}


def test_a_cell_without_the_cost_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "naive", 0.85, 1000)
    put(tmp_path, "ssn", 0.90, 2000, costs={"train_seconds": 3.0})
    assert members(board_of(tmp_path)) == ["naive", "ssn"]
    assert members(board_of(tmp_path), "macs") == ["naive"]


def test_the_chart_names_the_front_and_fades_the_others(tmp_path: Path) -> None:
    put(tmp_path, "narrow", 0.80, 1000)
    put(tmp_path, "hashed", 0.79, 2000)
    put(tmp_path, "ssn", 0.90, 4000)
    board = board_of(tmp_path)
    figure = pareto_figure(board, "parameters")
    assert figure is not None
    plotly.graph_objects.Figure(figure)
    (labels,) = [trace for trace in figure["data"] if "text" in trace["mode"]]
    assert labels["text"] == ["narrow 0.1×", "ssn 0.1×"]
    strength = {trace["name"]: trace["marker"]["opacity"] for trace in figure["data"] if trace["mode"] == "markers"}
    assert strength["narrow"] == strength["ssn"] == [1]
    assert strength["hashed"] < [1]


def test_there_is_a_panel_for_each_cost_and_its_table_leads_to_the_cells(tmp_path: Path) -> None:
    for label, accuracy in (("narrow", 0.8), ("ssn", 0.9)):
        scored(tmp_path, label, "0.1", dict.fromkeys(range(3), accuracy))
    board = board_of(tmp_path)
    panels = pareto(board, Names.of([board]))
    assert [panel.key for panel in panels] == list(COSTS)
    for panel in panels:
        assert panel.table.rows
        assert all(row.head.href.startswith("../methods/") for row in panel.table.rows)


@pytest.mark.parametrize("accuracy", [float("nan")])
def test_nan_is_on_no_front(tmp_path: Path, accuracy: float) -> None:
    put(tmp_path, "narrow", 0.80, 1000)
    put(tmp_path, "hashed", 0.79, 2000)
    put(tmp_path, "ssn", accuracy, 500)
    assert members(board_of(tmp_path)) == ["narrow"]


def test_points_that_lie_out_of_view_are_counted_at_the_axis(tmp_path: Path) -> None:
    put(tmp_path, "narrow", 0.80, 1000)
    put(tmp_path, "ssn", 0.84, 4000)
    put(tmp_path, "hashed", 0.79, 2000)
    figure = pareto_figure(board_of(tmp_path), "parameters")
    assert figure is not None
    assert out_of_view(figure) == (0, 0)
    assert figure["layout"]["xaxis"]["title"]["text"] == "trained parameters"
    put(tmp_path, "roast", 0.30, 3000)
    put(tmp_path, "naive", 0.40, 3000)
    put(tmp_path, "shallow", 0.99, 3000, seeds=1)
    figure = pareto_figure(board_of(tmp_path), "parameters")
    assert figure is not None
    assert out_of_view(figure) == (2, 1)
    assert figure["layout"]["xaxis"]["title"]["text"] == "trained parameters<br>2 points lie below, 1 above"
