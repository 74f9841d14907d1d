"""Ensembles on the leaderboard: subsets averaged over seeds, their envelope, the section, a run's members, diversity."""

from __future__ import annotations

import csv
import io
import itertools
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from ensemble_records import BUDGETS, LABELS, MEMBERS, apart, ensemble, ensembles
from hypothesis import given
from hypothesis import strategies as st
from records import HOSTILE, put, realistic, result

from npasbench.errors import RunError
from npasbench.leaderboard.anytime import Anytime, anytime
from npasbench.leaderboard.anytime_figures import anytime_figure
from npasbench.leaderboard.board import Board, Cell
from npasbench.leaderboard.details import details
from npasbench.leaderboard.ensembles import LATENCY, MACS, Prediction, envelope, predictions
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.names import Names
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.run_pages import run_page
from npasbench.leaderboard.site import build_site
from npasbench.leaderboard.statistics import Interval, mean_interval
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.task_pages import task_page


def board_of(root: Path) -> Board:
    (found,) = boards(collect(root).runs)
    return found


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    root = tmp_path_factory.mktemp("runs")
    ensembles(root)
    return board_of(root)


@pytest.fixture
def section(board: Board) -> Anytime:
    found = anytime(board, Names.of([board]), "x.csv")
    assert found is not None
    return found


def cell(board: Board, label: str, budget: str = "1") -> Cell:
    return next(entry for entry in board.entries if entry.label == label).cell(budget)


def put_ensemble(root: Path, seed: int, *accuracies: float, **changes: Any) -> None:
    of = apart("superweight", "1", seed)
    put(root, of, record=result(of, **{**ensemble(accuracies), **changes}))


# Averaging


def test_every_subset_is_averaged_over_the_seeds(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        put_ensemble(tmp_path, seed, accuracy, 0.8)
    found = {one.members: one for one in predictions(cell(board_of(tmp_path), "superweight"))}
    assert [*found] == [(MEMBERS[0],), (MEMBERS[1],), (MEMBERS[0], MEMBERS[1])]
    assert found[(MEMBERS[0],)].accuracy == mean_interval([0.90, 0.92, 0.97])
    assert found[(MEMBERS[1],)].accuracy.half == pytest.approx(0)
    assert found[MEMBERS[:2]].of == 2


def test_only_subsets_that_every_seed_has_are_shown(tmp_path: Path) -> None:
    seven = (0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8)
    told = ensemble(seven, names=("a",) * 7)
    by_size = {len(one["members"]): one for one in told["subsets"]}
    for seed, first in enumerate((by_size[1], told["subsets"][0])):
        subsets = [first, *(by_size[size] for size in range(2, 8))]
        of = apart("superweight", "1", seed)
        put(tmp_path, of, record=result(of, **{**told, "subsets": subsets}))
    found = predictions(cell(board_of(tmp_path), "superweight"))
    assert [len(one.members) for one in found] == [2, 3, 4, 5, 6, 7]
    assert {one.accuracy.n for one in found} == {2}


def test_members_of_one_name_are_numbered(tmp_path: Path) -> None:
    of = apart("deep-ensemble", "1", 0)
    put(tmp_path, of, record=result(of, **ensemble((0.9, 0.8, 0.7), names=("a", "b", "a", ""))))
    found = predictions(cell(board_of(tmp_path), "deep-ensemble"))
    assert found[-1].members == ("a (1)", "b", "a (3)")


def test_members_that_cannot_be_asked_apart_are_one_prediction_at_the_whole_cost(board: Board) -> None:
    (found,) = predictions(cell(board, "mimo"))
    assert found.members == ()
    assert (found.macs, found.latency) == (31_700_000.0, None)
    assert found.accuracy == cell(board, "mimo").accuracy


@pytest.mark.parametrize("members", [[4], [-1], [], [1, 0], [0, 0], [10**9]])
def test_subsets_that_cannot_be_are_left_out_and_the_page_stands(tmp_path: Path, members: list[int]) -> None:
    told = ensemble((0.9, 0.8))
    put_ensemble(tmp_path / "runs", 0, 0.9, 0.8, subsets=[{**told["subsets"][0], "members": members}])
    assert anytime(board_of(tmp_path / "runs"), Names.of([board_of(tmp_path / "runs")]), "") is None
    (problem,) = build_site(tmp_path / "runs", tmp_path / "site").problems
    assert "members: " in problem


# The envelope


def prediction(name: str, accuracy: float, macs: float | None) -> Prediction:
    return Prediction((name,), 4, Interval(accuracy, accuracy, accuracy, 3), None, None, macs, None)


def test_the_envelope_keeps_what_is_better_than_all_that_costs_no_more() -> None:
    every = [
        prediction("dear", 0.93, 4e6),
        prediction("cheap", 0.80, 1e6),
        prediction("alike, worse", 0.85, 2e6),
        prediction("alike", 0.90, 2e6),
        prediction("dominated", 0.90, 3e6),
        prediction("no number", math.nan, 1e5),
        prediction("no cost", 0.99, None),
        prediction("endless", 0.99, math.inf),
    ]
    assert [one.members[0] for one in envelope(every, MACS)] == ["cheap", "alike", "dear"]
    assert envelope(every, LATENCY) == ()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_at_each_cost_the_envelope_reaches_the_best_of_what_costs_no_more(pairs: list[tuple[int, int]]) -> None:
    every = [prediction(f"{place}", accuracy / 20, float(macs)) for place, (accuracy, macs) in enumerate(pairs)]
    best = envelope(every, MACS)
    for _, macs in pairs:
        reached = max(one.accuracy.mean for one in best if (one.macs or 0) <= macs)
        assert reached == max(one.accuracy.mean for one in every if (one.macs or 0) <= macs)
    assert all(one.accuracy.mean < two.accuracy.mean for one, two in itertools.pairwise(best))


# The section


def test_charts_are_valid_plotly_with_small_marks_steps_and_a_band_in_the_entrys_colour(section: Anytime) -> None:
    assert [panel.title for panel in section.panels] == ["0.25×", "1×"]
    assert [panel.opened for panel in section.panels].count(True) == 1
    for panel in section.panels:
        for figure in (panel.macs, panel.latency):
            assert figure is not None
            plotly.graph_objects.Figure(figure)
            named = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
            assert {*named} - {"mimo"} == {*LABELS}
            mine = [t for t in figure["data"] if t["legendgroup"] == named["superweight"]["legendgroup"]]
            band, marks, steps = mine
            assert steps["line"]["shape"] == "hv"
            assert len({trace["meta"]["colour"] for trace in mine}) == 1
            assert len(marks["x"]) + len([s for s in steps["marker"]["size"] if s]) == 15
            half = len(band["y"]) // 2
            high, low = band["y"][:half:2], band["y"][half:][::-1][::2]
            means = steps["y"][: len(high)]
            assert all(bottom < mean < top for bottom, mean, top in zip(low, means, high, strict=True))
        assert "mimo" in {trace.get("name") for trace in panel.macs["data"]}
        assert "mimo" not in {trace.get("name") for trace in panel.latency["data"]}


def test_a_mark_names_its_members(section: Anytime) -> None:
    figure = section.panels[0].macs
    assert figure is not None
    texts = [text for trace in figure["data"] for text in trace.get("text", [])]
    assert any("2 of 4 members:<br>wrn-16-1 + wrn-10-2" in text for text in texts)
    assert any("all at once" in text for text in texts)


def test_an_entry_that_does_not_rank_has_hollow_marks(tmp_path: Path) -> None:
    put_ensemble(tmp_path, 0, 0.9, 0.95)
    board = board_of(tmp_path)
    found = predictions(cell(board, "superweight"))
    figure = anytime_figure(board, "1", [(board.entries[0], found)], MACS)
    assert figure is not None
    steps = next(trace for trace in figure["data"] if "name" in trace)
    assert steps["marker"]["symbol"].endswith("-open")


def test_tables_hold_the_subsets_on_an_envelope_and_the_file_all(board: Board, section: Anytime) -> None:
    lines = list(csv.DictReader(io.StringIO(section.sheet.text())))
    assert len(lines) == len(BUDGETS) * (15 * len(LABELS) + 1)
    on = [line for line in lines if "yes" in (line["on_macs_envelope"], line["on_latency_envelope"])]
    rows = [row for panel in section.panels for row in panel.table.rows]
    assert len(rows) == len(on) < len(lines)
    for row, line in zip(rows, on, strict=True):
        head, asked, macs, latency, accuracy, *_ = row.items
        assert head.text == line["label"]
        assert asked.text == (line["members"].replace("; ", " + ") or "all at once")
        assert macs.order == float(line["macs"]) * 1e-6
        assert accuracy.order == float(line["accuracy"])
        assert (latency.order is None) == (line["label"] == "mimo")
        assert len(row.items) == len(section.panels[0].table.columns)


def test_a_task_of_single_networks_has_no_section(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=3)
    board = board_of(tmp_path / "runs")
    assert task_page(board, [board], Names.of([board])).anytime is None
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    (page,) = (site / "tasks").glob("*.html")
    assert 'id="anytime"' not in page.read_text()
    assert not list((site / "tasks").glob("*.anytime.csv"))
    assert "Diversity" not in page.read_text()


def test_a_task_of_ensembles_has_the_section_in_the_same_bytes_each_time(tmp_path: Path) -> None:
    ensembles(tmp_path / "runs", seeds=3)
    pages = []
    for name in ("one", "two"):
        site = build_site(tmp_path / "runs", tmp_path / name).index.parent
        pages.append({p.relative_to(site): p.read_bytes() for p in site.rglob("*.html")})
        assert len(list((site / "tasks").glob("*.anytime.csv"))) == 1
    assert pages[0] == pages[1]
    (text,) = (content.decode() for path, content in pages[0].items() if path.parts[0] == "tasks")
    assert all(word in text for word in ('id="anytime"', "optimistic", "data-opened", "cpu, Xeon, 1 thread"))


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_members_are_text(tmp_path: Path) -> None:
    of = apart("superweight", "1", 0)
    put(tmp_path / "runs", of, record=result(of, **ensemble((0.9, 0.8, 0.7), names=(HOSTILE, HOSTILE, "a" * 150))))
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    for path in site.rglob("*.html"):
        for tag, attributes in _Tags(path.read_text()).found:
            assert tag != "img"
            assert not any(name.startswith("on") for name in attributes)
    (page,) = (site / "tasks").glob("*.html")
    assert 'id="anytime"' in page.read_text()


# Elsewhere


def test_a_runs_page_shows_its_members_and_all_together(board: Board) -> None:
    entry = next(entry for entry in board.entries if entry.label == "superweight")
    run = entry.cell("1").runs[0]
    page = run_page(board, entry, entry.cell("1"), run, Names.of([board]))
    assert page.members is not None
    assert [row.head.text for row in page.members.rows] == [*MEMBERS, "all 4 together"]
    assert run.record is not None
    assert page.members.rows[-1].items[1].text == f"{100 * run.record.metrics['accuracy']:.2f}"
    assert [item.text for item in page.members.rows[-1].items[4:]] == ["56.10", "8.65"]
    assert "diversity of members" in {fact.name for fact in page.tiles}
    mimo = next(entry for entry in board.entries if entry.label == "mimo")
    page = run_page(board, mimo, mimo.cell("1"), mimo.cell("1").runs[0], Names.of([board]))
    assert page.members is not None
    assert [row.items[4].text for row in page.members.rows] == ["–", "–", "31.70"]


def test_diversity_is_a_column_where_some_record_has_it_and_empty_for_others(tmp_path: Path) -> None:
    ensembles(tmp_path, seeds=3)
    single = apart("shallow", "1", 0)
    put(tmp_path, single, record=result(single))
    board = board_of(tmp_path)
    table = details(board, Names.of([board]), "")
    place = [column.title for column in table.columns].index("Diversity")
    shown = {row.head.text: row.items[place] for row in table.rows}
    assert shown["mimo"].text == "0.400"
    assert (shown["shallow"].text, shown["shallow"].sort_key) == ("", "")
    assert "diversity" in table.caption
    assert "diversity" in table.sheet.columns
    assert "diversity" in task_page(board, [board], Names.of([board])).runs.columns


# Published


def test_published_ensembles_give_the_same_section_and_the_same_bytes(tmp_path: Path) -> None:
    ensembles(tmp_path / "runs", seeds=3)
    for name in ("one", "two"):
        publish(tmp_path / "runs", tmp_path / name)
    publish(tmp_path / "one", tmp_path / "three")
    one, two, three = ((tmp_path / name / "digits15-ensemble.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert one == two == three
    ours, theirs = (board_of(tmp_path / name) for name in ("runs", "one"))
    sheets = [found.sheet.text() for board in (ours, theirs) if (found := anytime(board, Names.of([board]), ""))]
    assert len(sheets) == 2
    assert sheets[0] == sheets[1]


def test_a_single_networks_line_says_nothing_of_members(tmp_path: Path) -> None:
    of = apart("shallow", "1", 0)
    put(tmp_path / "runs", of, record=result(of))
    publish(tmp_path / "runs", tmp_path / "results")
    text = (tmp_path / "results/digits15-ensemble.jsonl").read_text()
    assert '"members"' not in text
    assert '"subsets"' not in text


@pytest.mark.parametrize("key", ["members", "subsets"])
def test_members_that_predict_otherwise_are_another_result_and_other_costs_are_not(tmp_path: Path, key: str) -> None:
    put_ensemble(tmp_path / "a", 0, 0.9, 0.8)
    publish(tmp_path / "a", tmp_path / "results")
    told = ensemble((0.9, 0.8))[key]
    slower = [{**one, "latency_seconds": 9.0} for one in told]
    put_ensemble(tmp_path / "b", 0, 0.9, 0.8, **{key: slower})
    publish(tmp_path / "b", tmp_path / "results")
    worse = ensemble((0.9, 0.8)) | {"metrics": ensemble((0.9, 0.8))["metrics"]}
    for one in (worse["members"][0], worse["subsets"][0]):
        one["metrics"] = {**one["metrics"], "nll": 3.0}
    put_ensemble(tmp_path / "c", 0, 0.9, 0.8, **worse)
    with pytest.raises(RunError, match="different results"):
        publish(tmp_path / "c", tmp_path / "results")
