"""The sharing map: what it draws, what it says in words, and what it does not draw because it cannot be true."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import HOSTILE, allocation, put, result, spec

from npasbench.leaderboard.allocation import Group, groups_of, profile
from npasbench.leaderboard.sharing_map import sharing_map
from npasbench.leaderboard.site import build_site

BANK = 1000


def layer(start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"layer": 0, "name": "conv.weight", "shape": [10, 10], "templates": 1, "start": start, "end": end, **more}


def bank(*layers: dict[str, Any], size: int = BANK) -> dict[str, Any]:
    return {"groups": [{"group": 0, "bank_size": size, "unused": 0, "layers": list(layers)}]}


def row(**more: Any) -> Any:
    drawn = sharing_map(bank({**layer(0, 400), **more}))
    assert drawn is not None
    return drawn.groups[0].rows[0]


# What it draws


def test_a_bar_lies_where_the_layer_reads() -> None:
    assert row(start=100, end=350).bars == "M100 0h250V10h-250z"


def test_a_layer_with_several_intervals_has_as_many_bars() -> None:
    found = row(start=None, end=None, reads=[[0, 100], [500, 600]], templates=2)
    assert found.bars == "M0 0h100V10h-100zM500 0h100V10h-100z"
    assert found.reads == "0–100, 500–600"


def test_many_intervals_are_not_all_named() -> None:
    reads = [[10 * i, 10 * i + 5] for i in range(9)]
    assert row(start=None, end=None, reads=reads).reads == "0–5, 10–15, 20–25 and 6 more"


def test_templates_are_cut_where_there_is_room() -> None:
    assert re.findall(r"M(\S+) 0v10", row(templates=4).cuts) == ["100", "200", "300"]
    assert row(templates=100).cuts == ""


def test_the_smallest_layer_can_be_seen_and_stays_within_the_picture() -> None:
    drawn = sharing_map(bank(layer(10**9 - 1, 10**9), size=10**9))
    assert drawn is not None
    assert drawn.groups[0].rows[0].bars == "M998 0h2V10h-2z"


def test_layers_stand_in_network_order() -> None:
    drawn = sharing_map(bank(layer(0, 9, layer=2, name="b"), layer(0, 9, layer=1, name="a")))
    assert drawn is not None
    assert [one.name for one in drawn.groups[0].rows] == ["a", "b"]


def test_a_resized_layer_says_so_in_words() -> None:
    assert row(resized_from=[4, 4, 3, 3]).resized == "resized from 4 × 4 × 3 × 3"
    assert row(resized_from=None, copies=2).resized == "resized by copies"
    assert row(resized_from=None).resized == ""


def test_entries_that_no_layer_reads_are_counted_and_drawn() -> None:
    drawn = sharing_map(bank(layer(0, 400), layer(300, 600), layer(900, 950)))
    assert drawn is not None
    (group,) = drawn.groups
    assert group.unused == "350 entries (35.00 %) are read by no layer."
    assert group.unread == "M600 0h300V10h-300zM950 0h50V10h-50z"
    assert group.read.startswith("M0 5h300V10h-300zM300 0h100V10h-100z")
    assert group.readers == "0 to 2 layers"


def test_a_bank_that_is_read_everywhere_says_so() -> None:
    drawn = sharing_map(bank(layer(0, BANK)))
    assert drawn is not None
    assert drawn.groups[0].unused == "Every entry is read by some layer."
    assert drawn.groups[0].unread == ""


def test_layers_with_weights_of_their_own_stand_apart() -> None:
    drawn = sharing_map(allocation(7000))
    assert drawn is not None
    assert [len(group.rows) for group in drawn.groups] == [9, 2]
    assert [(one.name, one.size) for one in drawn.own] == [("stem.weight", "144")]


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 59), st.integers(1, 60), st.integers(0, 59)), max_size=8))
def test_the_profile_counts_the_readers_of_every_entry(size: int, drawn: list[tuple[int, int, int]]) -> None:
    layers = []
    for start, length, second in drawn:
        reads = [[a % size, min(a % size + length, size)] for a in (start, second)]
        layers.append({**layer(0, 1), "start": None, "end": None, "reads": reads})
    group = Group.model_validate({"group": 0, "bank_size": size, "layers": layers})
    parts = profile(group)
    counted = [part.readers for part in parts for _ in range(part.start, part.end)]
    assert counted == [
        sum(any(a <= entry < b for a, b in one.intervals) for one in group.layers) for entry in range(size)
    ]
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]


# What it does not draw

keys = st.sampled_from(["groups", "layers", "bank_size", "start", "end", "name", "shape", "dense"])
simple = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3)
anything = st.recursive(simple, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner))

WRONG: list[dict[str, Any]] = [
    {"start": -1}, {"start": 400}, {"start": 500}, {"end": BANK + 1}, {"end": 10**15}, {"end": "400"}, {"end": 400.5},
    {"end": float("nan")}, {"end": None}, {"end": True}, {"start": None, "end": None, "reads": [[0]]}, {"name": 7},
    {"start": None, "end": None, "reads": [[0, 1]] * 2001}, {"name": "x" * 501}, {"name": None}, {"shape": [0]},
    {"shape": "16"}, {"shape": [1] * 20}, {"templates": 0}, {"templates": 10**9}, {"templates": None}, {"resized_from": [-4]},
    {"layer": "first"}, {"start": None, "end": None, "reads": {}},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: str(changes)[:40])
def test_a_layer_that_cannot_be_true_is_not_drawn(changes: dict[str, Any]) -> None:
    assert sharing_map(bank({**layer(0, 400), **changes})) is None


@pytest.mark.parametrize(
    "given",
    [
        {}, {"groups": []}, {"groups": None}, {"groups": "x"}, {"groups": [7]}, {"groups": [{}]}, {"layers": []}, bank(size=0),
        {"groups": [{"group": 0, "dense": True, "bank_size": 9, "layers": [{"name": "a", "shape": [9]}]}]},
        {"groups": [{"group": 0, "bank_size": 10, "layers": [{"name": "a", "shape": [9]}]}]},
        {"groups": bank(*[layer(0, 9)] * 1500)["groups"] * 15},
    ],
    ids=lambda given: str(given)[:40],
)  # fmt: skip
def test_what_is_no_allocation_is_not_drawn(given: dict[str, Any]) -> None:
    assert sharing_map(given) is None


@given(anything)
def test_no_allocation_breaks_the_map(given: Any) -> None:
    sharing_map({"groups": [given]})
    assert groups_of({"groups": given}) is not None


def test_pictures_stay_small_whatever_a_record_claims() -> None:
    reads = [[0, BANK]] * 2000
    claims = {**layer(0, 1), "start": None, "end": None, "reads": reads, "templates": 10**6}
    drawn = sharing_map(bank(claims))
    assert drawn is not None
    assert len(drawn.groups[0].rows[0].cuts) < 5000


# On the pages


def site(root: Path, **changes: Any) -> Path:
    for budget in ("0.05", "0.1", "1"):
        of = spec("ssn", budget, 0)
        record = result(of)
        put(root / "runs", of, record={**record, "allocation": {**copy.deepcopy(record["allocation"]), **changes}})
    return build_site(root / "runs", root / "site").index.parent


def test_a_runs_page_has_the_map_and_its_method_leads_to_the_smallest_and_the_largest(tmp_path: Path) -> None:
    folder = site(tmp_path)
    pages = sorted((folder / "runs").rglob("ssn-*.html"))
    assert all('<section id="sharing-map">' in page.read_text() for page in pages)
    links = re.findall(r'href="\.\./(runs/[^"]*)#sharing-map">([^<]*)<', (folder / "methods/ssn.html").read_text())
    assert [text for _, text in links] == ["at 0.05×, seed 0", "at 1×, seed 0"]
    assert all((folder / href).is_file() for href, _ in links)


def test_a_run_without_groups_has_no_map(tmp_path: Path) -> None:
    folder = site(tmp_path, groups=[{"group": "x"}])
    assert not any("sharing-map" in page.read_text() for page in folder.rglob("*.html"))


def test_hostile_names_of_layers_are_text(tmp_path: Path) -> None:
    folder = site(tmp_path, **bank(layer(0, 400, name=HOSTILE, resized_from=[1])))
    page = next((folder / "runs").rglob("ssn-*.html")).read_text()
    assert "sharing-map" in page
    assert "<img" not in page


def test_an_old_record_without_an_allocation_is_read(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0)
    record = result(of)
    del record["allocation"]
    folder = put(tmp_path / "runs", of, record=record)
    assert "allocation" not in json.loads((folder / "result.json").read_text())
    build_site(tmp_path / "runs", tmp_path / "site")
