"""What charts show of more entries than there are colours."""

from __future__ import annotations

from pathlib import Path

from records import scored

from npasbench.leaderboard.board import Board
from npasbench.leaderboard.figures import accuracy_figure, colour, is_shown, out_of_view
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.prominent import SERIES, at_first, is_prominent
from npasbench.leaderboard.store import collect


def board_of(root: Path, labels: int) -> Board:
    """``m00`` is the best at the smallest budget, the last one at the largest."""
    for number in range(labels):
        for budget, step in (("0.1", -0.01), ("0.25", 0.01)):
            scored(root, f"m{number:02}", budget, {seed: 0.5 + step * number + 0.0001 * seed for seed in range(6)})
    scored(root, "narrow", "0.1", {seed: 0.1 + 0.001 * seed for seed in range(6)})
    (found,) = boards(collect(root).runs)
    return found


def test_up_to_ten_entries_and_the_control_are_all_shown(tmp_path: Path) -> None:
    board = board_of(tmp_path, SERIES)
    assert at_first(board) == ""
    figure = accuracy_figure(board)
    assert figure
    assert all(is_shown(trace) for trace in figure["data"])


def test_of_more_the_highest_means_of_each_budget_are_shown_in_colours_of_their_own(tmp_path: Path) -> None:
    board = board_of(tmp_path, 14)
    shown = [entry for entry in board.entries if is_prominent(board, entry)]
    assert [entry.label for entry in shown] == [*(f"m{n:02}" for n in (0, 1, 2, 3, 4, 9, 10, 11, 12, 13)), "narrow"]
    assert len({colour(board, entry) for entry in shown}) == 11
    assert at_first(board) == "Of 15 entries, those with the highest means and the control are shown at first."


def test_what_is_not_shown_is_in_the_legend_and_decides_no_axis(tmp_path: Path) -> None:
    board = board_of(tmp_path, 14)
    scored(tmp_path, "far", "0.1", {seed: 0.01 + 0.0001 * seed for seed in range(6)})
    (with_far,) = boards(collect(tmp_path).runs)
    first, second = accuracy_figure(board), accuracy_figure(with_far)
    assert first
    assert second
    hidden = {trace["name"] for trace in second["data"] if not is_shown(trace) and "name" in trace}
    assert hidden == {"far", "m05", "m06", "m07", "m08"}
    assert second["layout"]["yaxis"]["range"] == first["layout"]["yaxis"]["range"]
    assert out_of_view(second) == out_of_view(first)


def test_entries_that_are_asked_for_are_shown(tmp_path: Path) -> None:
    board = board_of(tmp_path, 14)
    asked = [entry for entry in board.entries if entry.label in ("m06", "m07")]
    figure = accuracy_figure(board, asked)
    assert figure
    assert {trace["name"] for trace in figure["data"] if "name" in trace} == {"m06", "m07"}
    assert all(is_shown(trace) for trace in figure["data"])
