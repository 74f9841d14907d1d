"""Records of every form that there has been are read, and give what they gave when they were frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from npasbench.errors import RunError
from npasbench.running import record as records
from npasbench.running.migrations import STEPS, NewerSchema, migrated

FROZEN = Path(__file__).parent / "data" / "records"
EXAMPLES = sorted(path for path in FROZEN.glob("*.json") if path.stem != "expected")
EXPECTED: dict[str, dict[str, Any]] = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_frozen_record_is_read_as_it_was(path: Path) -> None:
    found = records.as_json(records.read(path))
    assert found == EXPECTED[path.stem]
    assert json.loads(records.write_text(records.read(path))) == EXPECTED[path.stem]


def test_every_version_up_to_the_present_has_frozen_examples_and_a_step_to_the_next() -> None:
    versions = {int(path.stem.split("-")[0]) for path in EXAMPLES}
    assert versions == set(range(min(versions), records.SCHEMA + 1))
    assert set(STEPS) == versions - {records.SCHEMA}
    assert {path.stem for path in EXAMPLES} == set(EXPECTED)


def test_the_forms_of_version_1_are_all_there() -> None:
    keys = {path.stem: set(json.loads(path.read_text(encoding="utf-8"))) for path in EXAMPLES}
    assert "allocation" not in keys["1-first-done"]
    assert "allocation" in keys["1-allocation"]
    assert "members" not in keys["1-allocation"]
    assert {"members", "subsets"} <= keys["1-members"]
    assert "members" in keys["1-members-not-apart"]
    assert "subsets" not in keys["1-members-not-apart"]


def test_records_go_up_one_version_at_a_time() -> None:
    steps = {
        1: lambda content: {**{k: v for k, v in content.items() if k != "cost"}, "costs": {"macs": content["cost"]}},
        2: lambda content: {**content, "unit": "example"},
    }
    given = {"schema": 1, "cost": 3.0}
    found = migrated(given, "x", present=3, steps=steps)
    assert found == {"schema": 3, "costs": {"macs": 3.0}, "unit": "example"}
    assert given == {"schema": 1, "cost": 3.0}
    assert migrated({"schema": 2, "costs": {}}, "x", present=3, steps=steps) == {
        "schema": 3,
        "costs": {},
        "unit": "example",
    }
    with pytest.raises(RunError, match="x is not a result of schema 1: KeyError"):
        migrated({"schema": 1}, "x", present=3, steps=steps)
    with pytest.raises(RunError, match="x has schema 0, which is none"):
        migrated({"schema": 0}, "x", present=3, steps=steps)


@pytest.mark.parametrize("version", [True, "1", 1.0, None, [], -1, 0])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(RunError, match="which is none of a result"):
        records.parse({**EXPECTED["1-first-done"], "schema": version}, "x")


def test_a_newer_schema_says_what_to_do_and_not_that_the_run_should_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**EXPECTED["1-first-done"], "schema": 2}), encoding="utf-8")
    with pytest.raises(
        NewerSchema, match=r"has schema 2; .* reads 1 and older.*pip install --upgrade npasbench"
    ) as error:
        records.read(path)
    assert "retry" not in str(error.value)
