"""What ``npasbench inspect superweight`` shows: the release's tables, and a sentence where it cannot."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner
from test_superweight_parity import TABLES

from npasbench.cli import npasbench as command
from npasbench.errors import NpasbenchError, UsageError


def inspect(*words: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(command, ["inspect", "superweight", *words, "--json"])
    code = done.exception.exit_code if isinstance(done.exception, NpasbenchError) else done.exit_code
    return code, json.loads(done.stdout)


def test_inspect_shows_the_published_allocation():
    names = [f"wrn-{one}" for one in TABLES["A-coarse"]["members"]]
    words = ("--members", ",".join(names), "--classes", "100", "--bank-size", "18000000")
    code, shown = inspect(*words, "--set", "bins=4", "--set", "phase=coarse")
    assert (code, shown["method"], shown["members"]) == (0, "superweight", names)
    first = shown["clusters"][0]
    assert (first["cluster"], first["kernel"]) == (0, [1, 1])
    assert first["superweights"][:2] == [
        {"index": 0, "size": 1024, "templates": 8},
        {"index": 1, "size": 768, "templates": 8},
    ]
    layer = dict(first["layers"][0])
    assert isinstance(layer.pop("name"), str)
    assert layer == {"member": 0, "layer": 3, "shape": [112, 16, 1, 1], "superweights": 2}
    expected = {"templates": 17_997_568, "coefficients": 143, "norm": 29_696, "classifier": 141_200}
    assert {key: shown["parameters"][key] for key in expected} == expected
    assert shown["parameters"]["total"] == 18_168_607


def test_inspect_shows_a_network_after_a_search():
    record = TABLES["small-final"]
    words = ("--members", ",".join(f"wrn-{one}" for one in record["members"]), "--classes", "100")
    found = json.dumps(record["layer2group"])
    code, shown = inspect(*words, "--bank-size", str(record["max_params"]), "--set", f"clusters={found}")
    assert code == 0
    theirs: dict[int, dict[int, tuple[int, int]]] = {}
    for key, bank in record["banks"].items():
        cluster, index = map(int, key.split("_width_"))
        theirs.setdefault(cluster, {})[index] = (bank["size"], bank["templates"])
    ours = {
        one["cluster"]: {piece["index"]: (piece["size"], piece["templates"]) for piece in one["superweights"]}
        for one in shown["clusters"]
    }
    assert ours == theirs
    assert shown["parameters"]["coefficients"] == record["by_category"]["coefficients"]
    assert shown["parameters"]["total"] == record["unique_trainable"]


def test_inspect_refuses_with_the_smallest_that_is_enough():
    words = ("--architecture", "wrn-16-4", "--classes", "100", "--set", "phase=untied")
    code, refused = inspect(*words, "--bank-size", "5000")
    assert (code, refused["smallest"]) == (1, 806_912)
    assert inspect(*words, "--bank-size", "806912")[0] == 0
    assert inspect(*words, "--bank-size", "806911")[0] == 1


def test_inspect_of_a_search_says_what_to_set():
    done = CliRunner().invoke(command, ["inspect", "superweight", "--architecture", "wrn-10-1", "--json"])
    assert isinstance(done.exception, UsageError)
    assert "set phase = untied or phase = coarse" in str(done.exception)
    assert "clusters = [[" in str(done.exception)
