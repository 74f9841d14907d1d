"""The published results: records that may be ranked, and a page that says what they hold."""

import subprocess
import sys
from pathlib import Path

import pytest

from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.published import Published, read_published
from npasbench.leaderboard.store import collect
from npasbench.registry import Registry

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "results").glob("*.jsonl"))


def published(path: Path) -> list[Published]:
    problems: list[str] = []
    found = [one for _, one in read_published(path, problems)]
    assert not problems
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_records_are_clean_certified_and_of_the_task_as_it_is(path: Path):
    card = Registry().card(path.stem)
    for one in published(path):
        record = one.record
        assert record.task_fingerprint == card.fingerprint
        assert not record.trial
        assert record.provenance["commit"]
        if record.state == "done":
            assert record.certificate is not None
            assert record.certificate.passed
            assert record.parameters["total"] <= record.budget_parameters
            assert one.correct is not None


DIVERGED = {
    ("digits15-wrn-10-1", "ssn-plus-distill", 155_124): 1,
    ("digits15-wrn-16-2", "hypernetwork", 691_386): 1,
    ("digits15-wrn-16-2", "ssn-plus-prune-after", 691_386): 1,
    ("digits15-wrn-16-2", "ssn-plus-distill", 1_382_772): 1,
}
"""Runs that failed, and are no results: the training diverged."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_cell_is_published_with_all_its_seeds_or_not_at_all(path: Path):
    seeds: dict[tuple[str, int], list[int]] = {}
    for one in published(path):
        seeds.setdefault((one.record.label, one.record.budget_parameters), []).append(one.record.seed)
    for (label, budget), found in seeds.items():
        assert len(set(found)) == len(found) == 10 - DIVERGED.get((path.stem, label, budget), 0)


def test_published_records_agree_with_themselves_and_rank_unless_a_seed_was_refused():
    store = collect(ROOT / "results")
    assert store.problems == ()
    every = boards(store.runs)
    assert [board.seeds for board in every] == [10] * len(FILES)
    assert not any(board.provisional for board in every)
    for board in every:
        for entry in board.entries:
            for cell in entry.cells.values():
                lost = any(run.state != "done" for run in cell.runs)
                assert entry.ranked_at(cell.budget) == (cell.kind == "measured" and not lost)


@pytest.mark.parametrize(("script", "page"), [("tables.py", "results.md"), ("places.py", "methods.md")])
def test_a_page_holds_the_tables_that_a_script_makes_of_the_records(script: str, page: str):
    tables = subprocess.run([sys.executable, ROOT / "results" / script], capture_output=True, text=True, check=True)
    assert FILES
    assert tables.stdout.strip() in (ROOT / "docs" / page).read_text(encoding="utf-8")
