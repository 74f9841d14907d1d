"""From suites to runs: how many, in which order, and what their fingerprints hold fast."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from npasbench.budget import Budget
from npasbench.card import Card, Entry, Suite
from npasbench.commands.options import read_knobs, read_seeds
from npasbench.commands.planning import plan_runs
from npasbench.errors import UnknownName, UsageError
from npasbench.plan import RunSpec, dense_parameters, plan_entry, plan_suite
from npasbench.registry import Registry

TASK = "digits15-wrn-10-1"
KNOBBY = """
from typing import Literal
from npasbench.api import Knobs, Method

class KnobbyKnobs(Knobs):
    text: str = "plain"
    whole: int = 1
    share: float = 0.5
    yes: bool = False
    maybe: float | None = 0.1
    several: list[float] = [1.0]
    table: dict[str, int | str] = {}
    either: int | str = 1

class Knobby(Method):
    knobs = KnobbyKnobs
    def build(self, problem, findings, rng):
        raise NotImplementedError
"""


def card() -> Card:
    return Registry().card(TASK)


def one(method: str = "roast", budget: str = "0.1", seed: int = 0, label: str = "", **knobs: Any) -> RunSpec:
    entry = Entry(label=label or method, method=method, set=knobs)
    (spec,) = plan_entry("digits15-wrn-10-1", entry, Registry(), budgets=[budget], seeds=[seed])
    return spec


def suite(name: str) -> list[RunSpec]:
    found = Registry().suite_or_card(name)
    assert isinstance(found, Suite)
    return plan_suite(found, Registry())


def repeated(spec: RunSpec) -> list[RunSpec]:
    """The specs that a run's own command line asks for."""
    words = shlex.split(spec.command())
    assert words[:2] == ["npasbench", "run"]
    options: dict[str, list[str]] = {}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        options.setdefault(option, []).append(value)
    assert set(options) <= {"--method", "--label", "--budget", "--seeds", "--set", "--plugin"}
    return plan_runs(
        words[2],
        options["--method"][0],
        options["--label"][0],
        read_knobs(options.get("--set", [])),
        options["--budget"],
        read_seeds(options["--seeds"][0]),
        options.get("--plugin", []),
    )


@pytest.mark.parametrize(("name", "runs"), [("quickstart", 11 * 4 * 10), ("digits15", 37 * (7 + 7 + 5) * 10)])
def test_a_suite_plans_every_task_method_budget_and_seed(name: str, runs: int):
    specs = suite(name)
    assert len(specs) == runs
    assert len({spec.fingerprint for spec in specs}) == runs
    assert len({spec.folder for spec in specs}) == runs


def test_seeds_are_outermost_so_that_a_plan_cut_short_has_every_cell():
    specs = suite("quickstart")
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs)
    cells = {spec.cell_fingerprint for spec in specs}
    assert {spec.cell_fingerprint for spec in specs[: len(cells)]} == cells


def test_a_task_alone_takes_the_cards_budgets_and_seeds():
    specs = plan_entry("digits15-wrn-10-1", Entry(label="roast", method="roast"), Registry())
    assert len(specs) == len(card().budgets) * len(card().seeds)
    assert {spec.budget for spec in specs} == set(card().budgets)


def test_budgets_and_seeds_that_are_asked_for_replace_the_suites():
    specs = plan_runs("quickstart", None, None, {}, ["10%", "0.1", "0.5"], [3], [])
    assert {spec.budget for spec in specs} == {"0.1", "0.5"}
    assert {spec.seed for spec in specs} == {3}
    assert len(specs) == 11 * 2


def test_the_same_spec_has_the_same_fingerprint():
    assert one().fingerprint == one().fingerprint


@pytest.mark.parametrize("written", ["10%", "0.10", ".1", "0.1x", "1e-1"])
def test_two_spellings_of_a_budget_are_one_run(written: str):
    assert one(budget=written).fingerprint == one(budget="0.1").fingerprint
    assert one(budget=written).folder == one(budget="0.1").folder


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"budget": "0.11"}, {"tile": 32}, {"method": "hashed"}],
    ids=["seed", "budget", "knob", "method"],
)
def test_the_fingerprint_differs_with_what_decides_a_result(other: dict[str, Any]):
    assert one(**other).fingerprint != one().fingerprint


def test_a_knob_written_out_at_its_default_changes_nothing():
    assert one(tile=16).fingerprint == one().fingerprint
    assert one().knobs == {"tile": 16}


def test_a_methods_version_is_in_the_fingerprint():
    spec = one()
    assert spec.model_copy(update={"method_version": 2}).fingerprint != spec.fingerprint


def test_the_tasks_recipe_is_in_the_fingerprint():
    recipe = card().recipe.model_copy(update={"epochs": 61})
    changed = one().model_copy(update={"task": card().model_copy(update={"recipe": recipe})})
    assert changed.fingerprint != one().fingerprint


def test_a_label_names_the_folder_and_is_not_in_the_fingerprint():
    assert one(label="mine").fingerprint == one().fingerprint
    assert one(label="mine").cell_folder == Path(TASK, "mine", "0.1")


def test_all_seeds_of_a_cell_share_its_fingerprint_and_folder():
    assert one(seed=1).cell_fingerprint == one(seed=2).cell_fingerprint
    assert one(seed=1).cell_folder == one(seed=2).cell_folder
    assert one(tile=8).cell_fingerprint != one().cell_fingerprint


def test_a_run_folder_tells_seed_and_fingerprint():
    spec = one(seed=7)
    assert spec.folder == Path(TASK, "roast", "0.1", f"seed7-{spec.fingerprint[:8]}")


def test_a_spec_knows_its_resolved_budget():
    assert one().resolved_budget == Budget("0.1", 7756, 77562)


@pytest.mark.parametrize(
    ("task", "dense"),
    [
        ("digits15-wrn-10-1", 77_562),
        ("digits15-wrn-16-2", 691_386),
        ("digits15-transformer", 135_754),
        ("digits15-ensemble", 1_247_144),
        ("cifar100-multi-depth-width", 35_006_544),
        ("cifar100-multi-width", 27_109_532),
    ],
)
def test_the_dense_networks_have_these_counts(task: str, dense: int):
    assert dense_parameters(Registry().card(task)) == dense


def test_a_spec_survives_json():
    for spec in (one(), one("naive", scope="all"), one("magnitude", "20%", 9, begin=0.3)):
        again = RunSpec.from_json(json.loads(json.dumps(spec.as_json())))
        assert again == spec
        assert again.fingerprint == spec.fingerprint


def test_a_specs_json_tells_its_fingerprints():
    content = one().as_json()
    assert content["fingerprint"] == one().fingerprint
    assert content["task_fingerprint"] == card().fingerprint
    assert content["task"]["schema"] == 1


@pytest.mark.parametrize(
    "spec",
    [one(), one("naive", order="cycle-reverse", scope="all"), one("magnitude", "18000", 4, begin=0.3, scope="layer")],
    ids=lambda spec: spec.method,
)
def test_the_command_of_a_run_repeats_it(spec: RunSpec):
    (again,) = repeated(spec)
    assert again.fingerprint == spec.fingerprint
    assert again.folder == spec.folder


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"text": "two words"},
        {"text": "1"},
        {"text": "true"},
        {"text": "[1, 2]"},
        {"text": 'it\'s "quoted" = so\n'},
        {"text": "naïve 😀"},
        {"text": ""},
        {"share": 1e-05},
        {"share": 1e300},
        {"yes": True, "whole": -3},
        {"several": [1.0, 2.5]},
        {"table": {"a": 1, "b c": "two"}},
        {"either": "3"},
        {"either": 3},
    ],
    ids=str,
)
def test_the_command_repeats_knobs_of_every_kind(tmp_path: Path, knobs: dict[str, Any]):
    plugin = tmp_path / "knobby.py"
    plugin.write_text(KNOBBY)
    registry = Registry([str(plugin)])
    (spec,) = plan_entry(
        "digits15-wrn-10-1", Entry(label="k", method="knobby", set=knobs), registry, budgets=["0.5"], seeds=[2]
    )
    (again,) = repeated(spec)
    assert again.knobs == spec.knobs
    assert again.fingerprint == spec.fingerprint


def test_where_a_plugin_lies_is_not_in_the_fingerprint(tmp_path: Path):
    fingerprints = set()
    for folder in ("here", "there"):
        plugin = tmp_path / folder / "knobby.py"
        plugin.parent.mkdir()
        plugin.write_text(KNOBBY)
        specs = plan_entry(
            "digits15-wrn-10-1", Entry(label="k", method="knobby"), Registry([str(plugin)]), budgets=["1"], seeds=[0]
        )
        fingerprints.add(specs[0].fingerprint)
    assert len(fingerprints) == 1


def test_a_task_without_a_method_and_a_suite_with_one_are_refused():
    with pytest.raises(UsageError, match="is a task; name a method with --method"):
        plan_runs(TASK, None, None, {}, [], [], [])
    with pytest.raises(UsageError, match="is a suite and names its methods"):
        plan_runs("quickstart", "roast", None, {}, [], [], [])


def test_an_unknown_method_in_capitals_still_gets_the_nearest_name():
    with pytest.raises(UnknownName, match=r"Unknown method 'Roast'\. Did you mean 'roast'"):
        plan_runs(TASK, "Roast", None, {}, [], [], [])


@pytest.mark.parametrize("label", ["My Label", "../up", "a/b", "x" * 81])
def test_a_label_that_cannot_name_a_folder_is_refused_in_a_sentence(label: str):
    with pytest.raises(UsageError, match="cannot be a label: it names folders"):
        plan_runs(TASK, "roast", label, {}, [], [], [])
