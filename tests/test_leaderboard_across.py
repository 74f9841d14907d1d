"""Across tasks, and the first page: ranks, areas and shares against their definitions, and who has no rank and why."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from records import BUDGETS, TASK, card, put, realistic, result, scored, spec
from scipy import stats

from npasbench.leaderboard.about_page import about_page
from npasbench.leaderboard.across import Across, Scope, compared_budgets, kind_of, scope, scopes
from npasbench.leaderboard.board import Board
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.index_page import IndexPage, index_page
from npasbench.leaderboard.method_pages import methods_table
from npasbench.leaderboard.names import Names
from npasbench.leaderboard.site import build_site
from npasbench.leaderboard.standings import cell_item, few, standings
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.summary import as_json, show
from npasbench.leaderboard.tables import Table
from npasbench.leaderboard.task_pages import task_page

NOISE = (0.0, 0.011, -0.007, 0.004, -0.012, 0.008, 0.002, -0.003, 0.006, -0.009)
"""Of each seed, the same for all entries, as a split of the data is."""


def entry(
    root: Path, name: str, label: str, budget: str, scores: dict[int, float], letter: str = "", **more: object
) -> None:
    """One cell of a task; ``members`` and ``protocol`` belong to its card, all else to its records."""
    data = {**card()["data"], "protocol": more.get("protocol", "full-last")}
    for seed, accuracy in scores.items():
        members = more.get("members", ["x"])
        of = spec(label, budget, seed, task=card(name=name, members=members, data=data, version=2 if letter else 1))
        changes = {key: value for key, value in more.items() if key not in ("members", "protocol")}
        put(root, of, record=result(of, metrics={"accuracy": accuracy, "nll": 0.2, "ece": 0.02}, **changes))


def task(root: Path, name: str, means: dict[str, dict[str, float]], seeds: int = 10, **more: object) -> None:
    """A task with entries of given means by budget; beside the noise of a seed each has a thousandth of its own."""
    for number, (label, by_budget) in enumerate(means.items()):
        for budget, mean in by_budget.items():
            scores = {seed: mean + NOISE[seed] + 0.001 * math.sin(seed * (number + 2)) for seed in range(seeds)}
            entry(root, name, label, budget, scores, **more)


def every(root: Path) -> tuple[Board, ...]:
    return boards(collect(root).runs)


def named(found: Scope) -> dict[str, Across]:
    return {one.label: one for one in found.entries}


FLAT = {
    "dense": {"1": 0.95}, "narrow": {"0.1": 0.8, "1": 0.95}, "roast": {"0.1": 0.9, "1": 0.94}, "naive": {"0.1": 0.85, "1": 0.96},
}  # fmt: skip


@pytest.fixture
def three(tmp_path: Path) -> tuple[Board, ...]:
    task(tmp_path, "task-a", FLAT)
    task(tmp_path, "task-b", {**FLAT, "naive": {"0.1": 0.95, "1": 0.9}})
    task(tmp_path, "task-c", {**FLAT, "narrow": {"0.1": 0.95, "1": 0.952}})
    return every(tmp_path)


def test_the_mean_rank_is_over_budgets_and_then_tasks_with_scipys_t_interval(three: tuple[Board, ...]) -> None:
    found = named(scope("all", three))
    by_task = {"narrow": [2.5, 2.0, 1.5], "roast": [2.0, 2.0, 2.5], "naive": [1.5, 2.0, 2.0]}
    assert list(found)[:3] == ["naive", "narrow", "roast"]
    for label, ranks in by_task.items():
        rank = found[label].rank
        assert rank
        assert rank.mean == pytest.approx(sum(ranks) / 3)
        low, high = stats.t.interval(0.95, 2, loc=sum(ranks) / 3, scale=stats.sem(ranks))
        assert (rank.low, rank.high, rank.n) == (pytest.approx(max(1, low)), pytest.approx(min(3, high)), 3)


def test_equal_means_share_the_middle_of_their_ranks(tmp_path: Path) -> None:
    scores = dict.fromkeys(range(3), 0.5)
    for label in ("roast", "naive"):
        scored(tmp_path, label, "0.1", scores)
    scored(tmp_path, "narrow", "0.1", dict.fromkeys(scores, 0.4))
    ranks = {label: one.rank.mean for label, one in named(scope("all", every(tmp_path))).items() if one.rank}
    assert ranks == {"roast": 1.5, "naive": 1.5, "narrow": 3.0}


def test_two_tasks_are_too_few_for_an_interval_of_the_rank(three: tuple[Board, ...]) -> None:
    rank = named(scope("two", three[:2]))["roast"].rank
    assert rank
    assert math.isnan(rank.low)
    assert rank.n == 2


def test_the_area_is_the_trapezoid_over_the_logarithm_seed_by_seed(tmp_path: Path) -> None:
    means = {"0.05": 0.6, "0.1": 0.8, "1": 0.95}
    task(tmp_path, "task-a", {"roast": means, "narrow": dict.fromkeys(means, 0.5)})
    found = named(scope("all", every(tmp_path)))
    first, middle, last = (math.log(BUDGETS[budget]) for budget in means)
    expected = ((middle - first) * 0.7 + (last - middle) * 0.875) / (last - first)
    area = found["roast"].area
    assert area
    assert area.mean == pytest.approx(expected, abs=2e-3)
    assert area.n == 10
    assert area.half > 0.003  # of the noise that all budgets of a seed share
    level = found["narrow"].area
    assert level
    assert level.mean == pytest.approx(0.5, abs=2e-3)


def test_one_budget_has_no_area(tmp_path: Path) -> None:
    task(tmp_path, "task-a", {"roast": {"0.1": 0.9}, "narrow": {"0.1": 0.8}})
    assert named(scope("all", every(tmp_path)))["roast"].area is None


def test_what_is_kept_is_of_the_dense_network_on_the_same_seed(three: tuple[Board, ...]) -> None:
    kept = named(scope("one", three[:1]))["roast"].kept
    assert kept
    board = three[0]
    scores = {entry.label: entry.cell("0.1" if entry.label == "roast" else "1").scores for entry in board.entries}
    shares = [scores["roast"][seed] / scores["dense"][seed] for seed in range(10)]
    assert kept["0.1"].mean == pytest.approx(sum(shares) / 10)
    assert kept["0.1"].half == pytest.approx(stats.t.ppf(0.975, 9) * stats.sem(shares))
    assert kept["1"].mean == pytest.approx(0.94 / 0.95, abs=2e-3)


def test_the_dense_network_is_that_of_its_own_size_and_no_other(tmp_path: Path) -> None:
    task(tmp_path, "task-a", {**FLAT, "dense": {"0.1": 0.475, "1": 0.95}})
    kept = named(scope("all", every(tmp_path)))["dense"].kept
    assert kept
    assert kept["0.1"].mean == pytest.approx(0.5, abs=5e-3)
    assert kept["1"].mean == 1


def test_without_a_dense_network_of_its_own_size_nothing_is_kept(tmp_path: Path) -> None:
    task(tmp_path, "task-a", {label: means for label, means in FLAT.items() if label != "dense"})
    assert not named(scope("all", every(tmp_path)))["roast"].kept


def test_an_entry_that_lacks_cells_is_shown_with_them_and_not_ranked(three: tuple[Board, ...]) -> None:
    found = named(scope("all", three))["dense"]
    assert found.lacks == tuple((name, ("0.1",)) for name in ("task-a", "task-b", "task-c"))
    assert (found.rank, found.area, found.kept) == (None, None, None)


def test_an_entry_that_is_missing_from_a_task_lacks_it(tmp_path: Path) -> None:
    task(tmp_path, "task-a", FLAT)
    task(tmp_path, "task-b", {label: means for label, means in FLAT.items() if label != "naive"})
    found = named(scope("all", every(tmp_path)))
    assert found["naive"].lacks == (("task-b", ()),)
    ranks = [one.rank.mean for one in found.values() if one.rank]
    assert sorted(ranks) == [1.5, 1.5]  # of two, and not of three


def test_a_budget_that_fewer_than_half_of_the_entries_have_is_not_compared(tmp_path: Path) -> None:
    more = {label: {"0.05": 0.7, **FLAT[label]} for label in ("roast", "naive")}
    task(tmp_path, "task-a", {**FLAT, **more})
    task(tmp_path, "task-b", {**FLAT, **more, "hashed": FLAT["roast"]})
    two_of_four, two_of_five = every(tmp_path)
    assert compared_budgets(two_of_four) == ("0.05", "0.1", "1")
    assert compared_budgets(two_of_five) == ("0.1", "1")


def test_a_task_with_two_fingerprints_is_left_out_and_named(tmp_path: Path) -> None:
    task(tmp_path, "task-a", FLAT)
    task(tmp_path, "task-b", FLAT)
    entry(tmp_path, "task-b", "roast", "0.1", {0: 0.5}, "0")
    found = every(tmp_path)
    assert [board.name for board in scopes(found)[0].boards] == ["task-a"]
    assert "task-b" in page(found).left_out


def test_what_is_scored_on_training_images_is_in_no_comparison_and_says_so(tmp_path: Path) -> None:
    tuned = {**FLAT, "naive": {"0.1": 0.99, "1": 0.99}}
    task(tmp_path, "task-a", FLAT)
    task(tmp_path, "task-b", tuned, protocol="tune")
    task(tmp_path, "task-a", tuned, protocol="tune")
    found = every(tmp_path)
    assert [(board.name, board.tuning) for board in found].count(("task-a", False)) == 1
    assert [(board.name, board.tuning) for board in scopes(found)[0].boards] == [("task-a", False)]
    index = page(found)
    assert index.leads
    assert [row.head.text for row in index.leads.rows] == ["task-a"]
    assert index.left_out == "Left out, since they are scored on held-out training images: task-a and task-b."
    for board in found:
        names = Names.of(found)
        shown = task_page(board, found, names)
        score = "Accuracy on held-out training images" if board.tuning else "Test accuracy"
        assert shown.tables[0][1].caption.startswith(f"{score} in percent")
        assert shown.figure
        assert shown.figure["layout"]["yaxis"]["title"]["text"].lower() == f"{score} (%)".lower()
        assert board.tuning == any("no test results" in notice for notice in shown.notices)


def test_kinds_come_from_members_and_from_what_is_counted(tmp_path: Path) -> None:
    task(tmp_path, "not-an-ensemble-a", FLAT)
    task(tmp_path, "task-b", FLAT, members=["x", "y"])
    task(tmp_path, "task-c", FLAT, parameters={"attention": 10, "bank": 90, "total": 100})
    found = every(tmp_path)
    assert [kind_of(board) for board in found] == ["single network", "ensemble", "transformer"]
    assert [(one.title, len(one.boards)) for one in scopes(found)] == [
        ("all tasks", 3), ("single network", 1), ("ensemble", 1), ("transformer", 1),
    ]  # fmt: skip
    assert [one.title for one in scopes(found[:1])] == ["all tasks"]


def page(found: tuple[Board, ...]) -> IndexPage:
    names = Names.of(found)
    return index_page(found, methods_table(found, names), (), names)


def cells(table: Table | None, head: str) -> list[tuple[str, str]]:
    assert table
    row = next(row for row in table.rows if row.head.text == head)
    return [(item.text, item.small[0].text if item.small else "") for item in row.cells]


def test_the_first_page_says_who_leads_alone_who_is_tied_and_who_is_in_front_everywhere(
    three: tuple[Board, ...],
) -> None:
    leads = page(three).leads
    assert cells(leads, "task-a") == [("roast", "above all others"), ("naive", "above all others")]
    assert cells(leads, "task-c")[0] == ("narrow", "above all others")
    assert cells(leads, "All tasks") == [("nobody", "3 tasks"), ("nobody", "3 tasks")]


def test_ties_are_shown_where_the_leader_cannot_be_told(tmp_path: Path) -> None:
    for name in ("task-a", "task-b"):
        task(tmp_path, name, {"roast": {"0.1": 0.9}, "naive": {"0.1": 0.9}, "narrow": {"0.1": 0.7}})
    leads = page(every(tmp_path)).leads
    assert cells(leads, "task-a")[0][1] == "tied with 1 of 2"
    assert cells(leads, "All tasks") == [("naive and roast", "2 tasks")]


def test_too_few_seeds_are_said_with_their_numbers(tmp_path: Path) -> None:
    task(tmp_path, "task-a", FLAT, seeds=5)
    found = every(tmp_path)
    assert cells(page(found).leads, "task-a")[0][1] == "too few seeds to tell"
    assert "5 seeds" in few(found[0])[0]
    assert "0.062" in few(found[0])[0]
    assert few(found[0])[0] in standings(found[0], Names.of(found), "").caption


def test_with_six_seeds_nothing_is_said_of_too_few(tmp_path: Path) -> None:
    task(tmp_path, "task-a", FLAT, seeds=6)
    (board,) = every(tmp_path)
    assert few(board) == ()
    assert board.leaders["0.1"].told


def test_a_cell_shows_its_letter_and_its_open_ranks(three: tuple[Board, ...]) -> None:
    board = three[0]
    roast = next(one for one in board.entries if one.label == "roast")
    item = cell_item(board, roast, "0.1", "")
    assert [(part.text, part.tone) for part in item.badges] == [("A", "letter"), ("leads", "lead")]
    assert "rank 1" in item.badges[0].title
    assert "p 0.002, 0.002 corrected for 2 comparisons" in item.small[0].title
    lines = csv.DictReader(io.StringIO(standings(board, Names.of(three), "").sheet.text()))
    line = next(line for line in lines if (line["label"], line["budget"]) == ("narrow", "0.1"))
    assert (line["letters"], line["rank_first"], line["rank_last"]) == ("C", "3", "3")


UNKNOWN = "f" * 64
"""The fingerprint of a card that is not known, so that any seeds count."""


def test_an_entry_with_few_seeds_in_common_is_not_called_tied(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {seed: 0.9 + NOISE[seed] for seed in range(10)}, task_fingerprint=UNKNOWN)
    scored(tmp_path, "narrow", "0.1", {seed: 0.8 + NOISE[seed] for seed in range(10)}, task_fingerprint=UNKNOWN)
    scored(tmp_path, "naive", "0.1", dict.fromkeys(range(6, 12), 0.3), task_fingerprint=UNKNOWN)
    (board,) = every(tmp_path)
    naive = next(entry for entry in board.entries if entry.label == "naive")
    assert [part.text for part in cell_item(board, naive, "0.1", "").badges][1:] == ["too few seeds"]


def test_who_has_too_few_seeds_in_common_is_neither_tied_nor_in_front(tmp_path: Path) -> None:
    for letter in "ef":
        for number, (label, mean) in enumerate((("roast", 0.9), ("hashed", 0.9), ("narrow", 0.7))):
            scores = {seed: mean + NOISE[seed] + 0.001 * math.sin(seed * (number + 2)) for seed in range(10)}
            scored(tmp_path, label, "0.1", scores, task_fingerprint=letter * 64)
        scored(tmp_path, "naive", "0.1", dict.fromkeys(range(6, 12), 0.3), task_fingerprint=letter * 64)
    found = every(tmp_path)
    first = page(found)
    assert first.leads
    assert cells(first.leads, TASK)[0][1] == "tied with 1 of 2"
    assert cells(first.leads, "All tasks")[0][0] == "hashed and roast"
    assert cells(first.tasks[0].leaders, "0.1×")[0][1].endswith("; too few seeds to tell from naive")
    for table in (first.leads, first.tasks[0].leaders):
        (line,) = (dict(zip(table.sheet.columns, row, strict=True)) for row in table.sheet.rows[:1])
        assert (line["tied"], line["too_few_seeds"]) in (("roast", "naive"), ("hashed", "naive"))


def test_a_few_seeds_do_not_lead_and_do_not_hide_the_ties_of_others(tmp_path: Path) -> None:
    task(tmp_path, "task-a", {"roast": {"0.1": 0.9}, "hashed": {"0.1": 0.9}, "narrow": {"0.1": 0.7}})
    entry(tmp_path, "task-a", "naive", "0.1", {0: 0.999, 3: 0.999, 7: 0.999})
    found = every(tmp_path)
    first = page(found)
    assert cells(first.leads, "task-a")[0][1] == "tied with 1 of 2"
    naive = next(one for one in found[0].entries if one.label == "naive")
    item = cell_item(found[0], naive, "0.1", "")
    assert [part.text for part in item.badges] == ["3 of 10 seeds"]
    assert item.tone == "unranked"
    printed = io.StringIO()
    show(build_site(tmp_path, tmp_path / "site"), printed)
    lines = {line.split()[0]: line for line in printed.getvalue().splitlines() if line.split()}
    assert lines["naive"].rstrip().endswith("99.90 ± 0.00 (3 of 10)")
    assert lines["roast"].rstrip().endswith(" A")


def test_survivors_of_lost_seeds_are_in_no_comparison_across_tasks(tmp_path: Path) -> None:
    for name in ("task-a", "task-b"):
        task(tmp_path, name, FLAT)
    for folder in sorted(tmp_path.glob("task-b/roast/0.1/seed[37]-*")):
        (folder / "result.json").unlink()
        (folder / "failure.json").write_text('{"error": "The loss became NaN."}')
    found = every(tmp_path)
    across = named(scope("all", found))
    assert across["roast"].lacks == (("task-b", ("0.1",)),)
    assert across["naive"].rank is not None
    item = cell_item(found[1], next(one for one in found[1].entries if one.label == "roast"), "0.1", "")
    assert "2 of 10 seeds failed" in [part.text for part in item.badges]


def test_a_task_without_seeds_enough_is_in_no_comparison_across_tasks(tmp_path: Path) -> None:
    task(tmp_path, "task-a", FLAT)
    task(tmp_path, "task-b", FLAT, seeds=3)
    found = every(tmp_path)
    assert [board.provisional for board in found] == [False, True]
    assert [board.name for board in scopes(found)[0].boards] == ["task-a"]
    assert found[1].leaders["0.1"].entry.label == "roast"
    assert not found[1].leaders["0.1"].told


def test_area_and_kept_say_over_how_many_seeds_they_are(three: tuple[Board, ...]) -> None:
    table = page(three).scopes[0].table
    (row,) = (row for row in table.rows if row.head.text == "roast")
    assert [[part.text for part in item.small] for item in row.cells[1:]] == [["n 10"]] * 3


def test_json_tells_letters_ranks_and_tests_and_has_no_nan(three: tuple[Board, ...], tmp_path: Path) -> None:
    told = as_json(build_site(tmp_path, tmp_path / "site"))
    one = next(cell for cell in told["tasks"][0]["cells"] if (cell["label"], cell["budget"]) == ("naive", "0.1"))
    assert (one["letters"], one["ranks"]) == ("B", [2, 2])
    assert one["told_from_narrow"] == {"verdict": "higher", "p": 2 / 1024, "corrected": 2 / 1024, "family": 2}


def test_every_table_of_the_first_page_lies_beside_it(three: tuple[Board, ...], tmp_path: Path) -> None:
    site = build_site(tmp_path, tmp_path / "site").index.parent
    text = (site / "across-all-tasks.csv").read_text()
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO(text))}
    assert float(lines["roast"]["mean_rank"]) == pytest.approx(13 / 6)
    assert lines["dense"]["mean_rank"] == ""
    assert lines["dense"]["not_ranked_at"].startswith("0.1× of task-a; ")
    html = (site / "index.html").read_text()
    assert all(f'href="{name}"' in html and (site / name).is_file() for name, _ in page(three).sheets)


def test_a_folder_without_a_ranking_has_neither_leads_nor_scopes(tmp_path: Path) -> None:
    scored(tmp_path, "roast", "0.1", {0: 0.9})
    assert page(every(tmp_path)).leads is None
    assert scopes(every(tmp_path)) == ()
    build_site(tmp_path, tmp_path / "site")


def test_the_page_about_takes_its_numbers_from_the_code(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=1)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    text = " ".join((site / "about.html").read_text().split())
    assert "Up to 12 seeds all flips are counted" in text
    assert [row.cells[1].text for row in about_page().reach.rows] == ["no", "no", *["yes"] * 4]
    for command in ("npasbench publish", "npasbench verify"):
        assert command in text
