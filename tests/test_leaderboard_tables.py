"""Tables, their words and their CSV files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import plotly.graph_objects
import pytest
from records import BUDGETS, LABELS, realistic

from npasbench.errors import NpasbenchError
from npasbench.leaderboard import words
from npasbench.leaderboard.assets import plain_script
from npasbench.leaderboard.board import Board
from npasbench.leaderboard.details import details
from npasbench.leaderboard.figures import accuracy_figure, difference_figure, training_figure
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.method_pages import method_page
from npasbench.leaderboard.names import Names, safe_link, slug, unique
from npasbench.leaderboard.run_pages import run_page
from npasbench.leaderboard.standings import standings
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.tables import Item, Sheet, Table
from npasbench.leaderboard.verification import weakest


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    root = tmp_path_factory.mktemp("runs")
    realistic(root)
    return boards(collect(root).runs)[0]


def row(table: Table, label: str) -> dict[str, Item]:
    found = next(row for row in table.rows if row.head.text == label)
    return dict(zip(BUDGETS, found.cells, strict=True))


def test_standings_hold_a_number_its_spread_its_difference_and_its_runs(board: Board) -> None:
    item = row(standings(board, Names.of([board]), "x.csv"), "naive")["0.1"]
    interval = next(entry for entry in board.entries if entry.label == "naive").cell("0.1").accuracy
    assert interval is not None
    assert item.text == f"{100 * interval.mean:.2f}"
    assert item.spread == f"± {100 * interval.half:.2f}"
    assert [part.text[0] for part in item.small] == ["▲", "n"]
    assert len(item.runs) == 10
    assert item.href.startswith("../methods/naive.html#cell-")


@pytest.mark.parametrize(
    ("label", "budget", "words_in_cell"),
    [
        ("template-bank", "0.05", ["refused", "needs 5,120"]),
        ("magnitude", "1", ["skipped", "nothing to prune"]),
        ("magnitude", "0.05", ["over budget"]),
        ("hashed", "1", ["trial"]),
        ("roast", "0.25", ["2 of 10 seeds failed", "n 8 of 10"]),
        ("shallow", "1", ["not run", words.MISSING]),
    ],
)
def test_a_cell_that_is_not_ranked_says_why(board: Board, label: str, budget: str, words_in_cell: list[str]) -> None:
    item = row(standings(board, Names.of([board]), ""), label)[budget]
    said = " ".join([item.text, *(part.text for part in (*item.small, *item.badges))])
    assert all(word in said for word in words_in_cell)


def test_standings_as_csv_hold_full_precision(board: Board) -> None:
    table = standings(board, Names.of([board]), "")
    lines = list(csv.DictReader(io.StringIO(table.sheet.text())))
    assert len(lines) == len(LABELS) * len(BUDGETS)
    line = next(line for line in lines if (line["label"], line["budget"]) == ("roast", "0.1"))
    cell = next(entry for entry in board.entries if entry.label == "roast").cell("0.1")
    assert cell.accuracy is not None
    assert float(line["accuracy"]) == cell.accuracy.mean
    refused = next(line for line in lines if line["state"] == "refused")
    assert refused["accuracy"] == ""


def test_details_have_a_row_for_each_cell_that_was_run_the_best_first_and_those_without_numbers_last(
    board: Board,
) -> None:
    table = details(board, Names.of([board]), "")
    assert len(table.rows) == sum(len(entry.cells) for entry in board.entries)
    assert len({len(row.items) for row in table.rows} | {len(table.columns)}) == 1
    assert all(len(line) == len(table.sheet.columns) for line in table.sheet.rows)
    heads = [column.name for column in table.columns]
    for budget in BUDGETS.values():
        rows = [dict(zip(heads, row.items, strict=True)) for row in table.rows if row.items[1].order == budget]
        means = [row["accuracy"].order for row in rows]
        numbers = [mean for mean in means if isinstance(mean, float)]
        assert numbers == sorted(numbers, reverse=True)
        assert all(mean is None for mean in means[len(numbers) :])


def test_details_say_what_a_cell_is_and_why(board: Board) -> None:
    table = details(board, Names.of([board]), "")
    told = {(row.facets[0], row.facets[1]): row.items[2] for row in table.rows}
    said = {
        key: " ".join([item.text, *(part.text for part in item.small)])
        for key, item in told.items()
        if item.text != "measured"
    }
    assert said["template-bank", "0.05×"] == "refused needs 5,120"
    assert said["magnitude", "1×"] == "skipped nothing to prune at the dense network's size"
    assert said["magnitude", "0.05×"] == "over budget 4,020 parameters after pruning, 3,892 allowed"
    assert said["hashed", "1×"] == "trial"
    assert [part.text for part in told["roast", "0.25×"].small] == ["not ranked: 2 of 10 seeds failed"]
    assert told["roast", "0.25×"].title == "2 of 10 seeds failed: The loss became NaN in epoch 4."
    assert all(len(row.facets) == len(table.filters) for row in table.rows)


def test_details_hold_tie_letters_the_difference_and_how_far_it_was_verified(board: Board) -> None:
    table = details(board, Names.of([board]), "")
    heads = [column.name for column in table.columns]
    for row in table.rows:
        items = dict(zip(heads, row.items, strict=True))
        entry = next(entry for entry in board.entries if entry.title == row.head.text)
        budget = next(budget for budget, size in BUDGETS.items() if size == items["budget"].order)
        place, compared = board.place(entry, budget), board.comparison(entry, budget)
        assert items["ties"].text == (place.letters if place else "")
        if compared:
            assert items["difference"].order == compared.difference.mean
            assert items["difference"].half == compared.difference.half
            assert items["difference"].tone == compared.verdict.replace(" ", "-")
        else:
            assert items["difference"].text == ""
        assert items["verified"].text == ("submitted" if entry.cell(budget).counted else "")


def test_a_cell_is_verified_as_far_as_its_weakest_run(board: Board) -> None:
    cell = next(entry for entry in board.entries if entry.label == "naive").cell("0.1")
    states = ["re-run", "re-evaluated", *["re-run"] * (len(cell.runs) - 2)]
    runs = tuple(replace(run, verified=state) for run, state in zip(cell.runs, states, strict=True))
    assert weakest(replace(cell, runs=runs)) == "re-evaluated"
    assert weakest(replace(cell, runs=runs[:1])) == "re-run"
    assert weakest(replace(cell, runs=())) == ""


def details_of(board: Board, label: str) -> dict[str, Item]:
    """The cells of a label's first row of costs, by head and unit."""
    table = details(board, Names.of([board]), "")
    found = next(row for row in table.rows if row.head.text == label)
    heads = [f"{column.title} {column.small}".strip() for column in table.columns]
    return dict(zip(heads, found.items, strict=True))


def test_a_search_is_a_cost_and_no_search_is_an_empty_cell_and_not_zero(board: Board) -> None:
    searched, not_searched = (details_of(board, label) for label in ("ssn", "roast"))
    assert [searched[f"Search {unit}"].text for unit in ("s", "epochs")] == ["4.5", "12"]
    assert [
        (not_searched[f"Search {unit}"].text, not_searched[f"Search {unit}"].sort_key) for unit in ("s", "epochs")
    ] == [
        ("", ""),
        ("", ""),
    ]
    lines = list(csv.DictReader(io.StringIO(details(board, Names.of([board]), "").sheet.text())))
    told = {line["label"]: (line["search_seconds"], line["search_epochs"]) for line in lines}
    assert (told["ssn"], told["roast"]) == (("4.5", "12.0"), ("", ""))


def test_gradients_exchanged_are_a_cost(board: Board) -> None:
    assert details_of(board, "roast")["Exchanged KiB a step"].text == "15.2"


def test_a_methods_cells_show_gradients_exchanged_and_its_search_if_it_has_one(board: Board) -> None:
    columns = {}
    for method in ("ssn", "roast"):
        ((_, (entry,)),) = method_page(method, [board], Names.of([board])).sections
        columns[method] = [f"{column.title} {column.small}".strip() for column in entry.table.columns]
    searched = ["Search s", "Search epochs", "Search GFLOPs"]
    assert [head for head in columns["ssn"] if head not in columns["roast"]] == searched
    assert "Exchanged KiB a step" in columns["roast"]


def test_a_runs_page_shows_every_cost_with_its_unit(board: Board) -> None:
    entry = next(entry for entry in board.entries if entry.label == "ssn")
    cell = entry.cell("0.1")
    costs = dict(run_page(board, entry, cell, cell.runs[0], Names.of([board])).groups)["Costs"]
    told = {fact.name: fact.value for fact in costs}
    assert told["Gradients exchanged in a step"] == "30.3 KiB"
    assert told["Search"] == "4.50 s"
    assert told["Search epochs"] == "12"
    assert told["Search FLOPs"] == "320,000,000,000"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "–"),
        (math.nan, "NaN"),
        (0, "0 B"),
        (1023, "1,023 B"),
        (31_076, "30.3 KiB"),
        (5.2e7, "49.6 MiB"),
        (2**30, "1.00 GiB"),
    ],
)
def test_bytes(given: float | None, expected: str) -> None:
    assert words.size(given) == expected


def test_csv_writes_nan_and_missing_apart_and_runs_no_formula() -> None:
    text = Sheet(("a", "b", "c", "d"), ((math.nan, None, "=1+1", -0.5),)).text()
    assert text == "a,b,c,d\nNaN,,'=1+1,-0.5\n"


def test_what_a_cell_sorts_by_has_no_control_characters_and_is_short() -> None:
    key = Item("x", order="a\x00b\x1b[2J\u202ec" + "d" * 5000).sort_key
    assert key.isprintable()
    assert key.startswith("a\ufffdb")
    assert len(key) <= 201


def test_nan_and_missing_sort_last() -> None:
    assert Item("NaN", order=math.nan).sort_key == Item("–").sort_key == ""
    assert Item("0", order=0.0).sort_key == "0.0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "–"), (math.nan, "NaN"), (0.94312, "94.31"), (-0.0123, "−1.23"), (math.inf, "∞")],
)
def test_percentages(given: float | None, expected: str) -> None:
    assert words.percent(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(0, "0 s"), (5.2e-4, "520 µs"), (0.0081, "8.10 ms"), (90, "90.0 s"), (7200, "2.00 h")]
)
def test_durations(given: float, expected: str) -> None:
    assert words.seconds(given) == expected


@pytest.mark.parametrize(("given", "expected"), [("0.1", "0.1×"), ("18000000", "18.0M"), ("nonsense", "nonsense")])
def test_budgets(given: str, expected: str) -> None:
    assert words.budget(given) == expected


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", ".", "", "/", "a/b\\c", "CON\x00", "é" * 300, "<script>", ".hidden"]
)
def test_a_slug_stays_in_its_folder(name: str) -> None:
    found = slug(name)
    assert found
    assert len(found) <= 60
    assert not found.startswith(".")
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert ".." not in found


def test_slugs_are_unique_even_where_a_name_looks_like_a_number_of_ours() -> None:
    names = unique({"a": "x", "b": "X", "c": "x-2", "d": "x"})
    assert len({*names.values()}) == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://a.org/b", "https://a.org/b"),
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("http://[", ""),
        (None, ""),
        ("//a.org", ""),
    ],
)
def test_only_http_links_are_links(given: object, expected: str) -> None:
    assert safe_link(given) == expected


def test_figures_are_valid_plotly(board: Board) -> None:
    rows = [{"epoch": 1, "loss": float("nan"), "lr": 0.1}, {"epoch": 2, "loss": 0.3, "lr": 0.1}, {"epoch": "x"}]
    for figure in (accuracy_figure(board), difference_figure(board), training_figure(rows)):
        assert figure is not None
        plotly.graph_objects.Figure(figure)
    assert training_figure([]) is None


def test_a_curve_has_a_band_around_its_means(board: Board) -> None:
    figure = accuracy_figure(board)
    assert figure is not None
    traces = [
        trace
        for trace in figure["data"]
        if trace["legendgroup"] == next(t["legendgroup"] for t in figure["data"] if t.get("name") == "naive")
    ]
    band, line = traces
    assert band["fill"] == "toself"
    half = len(band["y"]) // 2
    assert all(
        low < mean < high for high, mean, low in zip(band["y"][:half], line["y"], band["y"][half:][::-1], strict=True)
    )


def test_the_bundle_becomes_a_plain_script_and_an_unknown_one_is_refused() -> None:
    script = plain_script("var a=1;export{b as ITable,a as jQuery};\n/* licence */")
    assert "window.DataTable=a.fn.dataTable;" in script
    assert "export" not in script
    assert "/* licence */" in script
    with pytest.raises(NpasbenchError, match="itables"):
        plain_script("var a=1;")
