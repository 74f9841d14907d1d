"""Names become methods, cards and suites; a plugin that is broken says so and stops nobody else."""

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from npasbench import share
from npasbench.api import Knobs, Method
from npasbench.card import Card, Suite
from npasbench.errors import PluginError, PluginWarning, UnknownName, UsageError
from npasbench.registry import Registry, create, source_hash

METHOD = """
import torch
from torch import nn
from npasbench.api import Knobs, SharingMethod, WeightGenerator

class OneValueKnobs(Knobs):
    spread: float = 1.0

class OneValue(SharingMethod):
    knobs = OneValueKnobs
    def generator(self, layers, parameters, rng):
        return Values(layers, self.settings.spread)

class Values(WeightGenerator):
    def __init__(self, layers, spread):
        super().__init__()
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.bank = nn.Parameter(torch.full((1,), spread))
    def forward(self):
        return {name: self.bank.expand(shape) for name, shape in self.shapes.items()}
"""
CARD_AND_SUITE = ("digits15-wrn-10-1", "quickstart")


def plugin(folder: Path, text: str, name: str = "my_plugin.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a distribution with entry points and modules on the path, as an installer would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name: str, entries: str, **modules: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entries)
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(text)

    return add


def test_the_baselines_are_registered_by_entry_points_like_anyones():
    sources = Registry().sources
    expected = {"dense", "narrow", "shallow", "naive", "template-bank", "hashed", "roast", "magnitude"}
    expected |= {"deep-ensemble", "batch-ensemble", "mimo"}
    assert expected <= set(sources)
    for name in expected:
        assert sources[name].origin.startswith("npasbench ")
        assert issubclass(Registry().method(name), Method)


def test_an_entry_points_name_is_the_name_of_its_class():
    registry = Registry()
    for name in ("template-bank", "roast", "naive", "deep-ensemble", "batch-ensemble", "mimo"):
        assert registry.method(name).name == name


@pytest.mark.parametrize(
    ("given", "near"), [("raost", "roast"), ("template_bank", "template-bank"), ("Dense", "dense"), ("naiv", "naive")]
)
def test_an_unknown_method_is_answered_with_the_nearest_and_all_others(given: str, near: str):
    with pytest.raises(
        UnknownName, match=rf"Unknown method '{given}'\. Did you mean .*'{near}'.*\? Known: basis, batch-ensemble, "
    ) as caught:
        Registry().method(given)
    assert near in caught.value.near
    assert "--plugin" in str(caught.value)


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(UnknownName, match=r"^Unknown method 'xxxxxxxxxxxx'\. Known: basis, batch-ensemble"):
        Registry().method("xxxxxxxxxxxx")


def test_an_unknown_task_or_suite_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"Unknown task 'digits15-wrn-10-2'\. Did you mean .*'digits15-wrn-10-1'"):
        Registry().card("digits15-wrn-10-2")
    with pytest.raises(UnknownName, match=r"Unknown task or suite 'quickstrat'\. Did you mean .*'quickstart'"):
        Registry().suite_or_card("quickstrat")


def test_a_suite_is_no_task():
    with pytest.raises(UnknownName, match="Unknown task 'quickstart'"):
        Registry().card("quickstart")


def test_names_of_cards_and_of_suites_do_not_mix():
    registry = Registry()
    cards, suites = registry.names(Card), registry.names(Suite)
    assert "quickstart" in suites
    assert "digits15-wrn-10-1" in cards
    assert not set(cards) & set(suites)


def test_a_plugin_file_brings_its_method_under_a_name_made_of_its_class(tmp_path: Path):
    path = plugin(tmp_path, METHOD)
    registry = Registry([path])
    assert registry.method("one-value").__name__ == "OneValue"
    assert registry.sources["one-value"].origin == path
    assert {"dense", "roast"} <= set(registry.sources)


def test_a_plugin_file_may_be_named_relative_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin(tmp_path, METHOD)
    monkeypatch.chdir(tmp_path)
    registry = Registry(["my_plugin.py"])
    monkeypatch.chdir("/")
    assert registry.method("one-value").__name__ == "OneValue"


def test_a_plugins_method_can_be_used_at_once(tmp_path: Path):
    shared = share(nn.Linear(4, 4), "one-value", budget=0.5, plugins=[plugin(tmp_path, METHOD)], spread=2.0)
    assert torch.equal(shared.weights()["weight"], torch.full((4, 4), 2.0))


def test_a_plugin_may_be_an_importable_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin(tmp_path, METHOD, "importable_plugin.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Registry(["importable_plugin"]).method("one-value").__module__ == "importable_plugin"


def test_a_plugin_may_choose_its_methods_name_and_bring_several(tmp_path: Path):
    path = plugin(tmp_path, METHOD + "\nclass Second(OneValue):\n    name = 'chosen'\n")
    assert {"one-value", "chosen"} <= set(Registry([path]).sources)


@pytest.mark.parametrize("asked", ["narrow", "dense", "no-such-method"])
def test_a_plugin_that_names_its_method_as_an_installed_one_is_refused_whatever_is_asked_for(
    tmp_path: Path, asked: str
):
    path = plugin(tmp_path, METHOD.replace("class OneValue(", "class Narrow("))
    said = (
        f"Plugin '{path}' names its class Narrow 'narrow', but that is the name of a method of npasbench 0.1.0, "
        "npasbench.baselines.narrow:Narrow. Rename it: write name = 'my-narrow' in the class"
    )
    with pytest.raises(UsageError, match=re.escape(said)):
        Registry([path]).method(asked)
    assert Registry().method("narrow").__module__ == "npasbench.baselines.narrow"


def test_two_plugins_with_methods_of_one_name_are_refused(tmp_path: Path):
    one, other = plugin(tmp_path, METHOD, "one.py"), plugin(tmp_path, METHOD, "other.py")
    with pytest.raises(UsageError, match=re.escape(f"Plugin '{other}' names its class OneValue 'one-value'") + ".*one"):
        Registry([one, other]).method("one-value")


def test_two_methods_of_one_name_in_one_plugin_are_refused(tmp_path: Path):
    path = plugin(tmp_path, METHOD + "\nclass Second(OneValue):\n    name = 'one-value'\n")
    with pytest.raises(UsageError, match="names its class Second 'one-value'"):
        Registry([path]).method("one-value")


def test_a_plugin_that_is_given_twice_or_names_its_class_twice_is_one_plugin(tmp_path: Path):
    path = plugin(tmp_path, METHOD + "\nAlias = OneValue\n")
    registry = Registry([path, path])
    assert registry.plugins == (path,)
    assert registry.method("one-value").__name__ == "OneValue"


def test_methods_that_a_plugin_only_imports_are_not_its_own(tmp_path: Path):
    path = plugin(tmp_path, "from npasbench.baselines.roast import Roast\n" + METHOD)
    assert Registry([path]).sources["roast"].origin.startswith("npasbench ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError"),
        ("open('/nowhere/weights.txt')", "FileNotFoundError"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
def test_a_broken_plugin_file_is_named_with_its_error_and_stops_nobody_else(tmp_path: Path, text: str, said: str):
    path = plugin(tmp_path, text)
    registry = Registry([path])
    with pytest.warns(PluginWarning, match=re.escape(f"Plugin '{path}' cannot be imported: {said}")):
        assert registry.method("dense").name == "dense"
    with pytest.raises(PluginError, match=re.escape(said)):
        registry.method("theirs")


def test_a_broken_plugin_file_leaves_nothing_behind_for_the_next_call(tmp_path: Path):
    before = set(sys.modules)
    path = plugin(tmp_path, METHOD + "\nraise ValueError('late')")
    for _ in range(2):
        with pytest.raises(PluginError, match="ValueError: late"):
            Registry([path]).method("one-value")
    assert not {name for name in set(sys.modules) - before if name.startswith("npasbench_plugin")}
    assert Registry().method("dense").name == "dense"


def test_a_plugin_file_that_is_not_there_is_told_in_a_sentence(tmp_path: Path):
    with pytest.raises(UsageError, match=r"There is no plugin file .*nothing\.py"):
        Registry([str(tmp_path / "nothing.py")]).method("dense")


def test_a_broken_plugin_is_told_once_where_what_is_asked_for_is_not_there(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginError, match="ZeroDivisionError"):
            Registry([plugin(tmp_path, "1 / 0")]).method("theirs")


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "json.no_such_part", "some/where"])
def test_a_plugin_module_that_is_not_there_is_told_in_a_sentence(name: str):
    with pytest.raises(UsageError, match=rf"^There is no plugin module '{name}'\. Name an importable module"):
        Registry([name]).method("dense")


def test_a_plugin_file_that_is_named_without_its_ending_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin(tmp_path, METHOD, "forgot_the_ending.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"Did you mean forgot_the_ending\.py\?"):
        Registry(["forgot_the_ending"]).method("dense")


def test_a_plugin_module_that_needs_a_missing_one_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plugin(tmp_path, "import not_there_at_all", "needs_another.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="'needs_another' cannot be imported: ModuleNotFoundError"):
        Registry(["needs_another"]).method("theirs")


def test_a_plugin_without_a_method_is_told_what_it_needs(tmp_path: Path):
    abstract = "from npasbench.api import SharingMethod\nclass Unfinished(SharingMethod):\n    pass\n"
    for text in ("x = 1", "from npasbench.baselines.roast import Roast", abstract):
        with pytest.warns(PluginWarning, match=r"defines no method\. It needs a class derived from"):
            Registry([plugin(tmp_path, text, f"plugin{hash(text)}.py")]).method("dense")


def test_an_installed_plugin_is_found_with_its_origin(install):
    install("their-methods", "[npasbench.methods]\ntheirs = their_module:OneValue\n", their_module=METHOD)
    registry = Registry()
    assert registry.method("theirs").__name__ == "OneValue"
    assert registry.sources["theirs"].origin == "their-methods 1.2, their_module:OneValue"


def test_an_installed_plugin_that_breaks_at_import_is_named_and_stops_nobody_else(install):
    install("broken-methods", "[npasbench.methods]\nbroken = broken_module:Broken\n", broken_module="1 / 0")
    registry = Registry()
    assert "broken" in registry.sources
    assert registry.method("dense").name == "dense"
    with pytest.raises(PluginError) as caught:
        registry.method("broken")
    assert "'broken' (broken-methods 1.2, broken_module:Broken) cannot be imported" in str(caught.value)
    assert "ZeroDivisionError: division by zero" in str(caught.value)


def test_installed_plugins_are_not_imported_before_they_are_asked_for(install):
    install("lazy-methods", "[npasbench.methods]\nlazy = lazily_imported:OneValue\n", lazily_imported=METHOD)
    registry = Registry()
    registry.method("dense")
    assert "lazy" in registry.sources
    assert "lazily_imported" not in sys.modules
    registry.method("lazy")
    assert "lazily_imported" in sys.modules


def test_an_installed_plugin_does_not_replace_a_method_of_npasbench_and_is_warned_about(install):
    install("their-methods", "[npasbench.methods]\nnarrow = their_narrow:OneValue\n", their_narrow=METHOD)
    said = (
        r"Method 'narrow' of their-methods 1\.2, their_narrow:OneValue is left out: npasbench 0\.1\.0, .* of that name"
    )
    with pytest.warns(PluginWarning, match=said):
        assert Registry().method("narrow").__module__ == "npasbench.baselines.narrow"


@pytest.mark.parametrize("thing", ["x = 1", "def x(): pass", "class x: pass"])
def test_an_entry_point_that_is_no_method_is_refused(install, thing: str):
    module = f"module_of_{abs(hash(thing))}"
    install("odd-methods", f"[npasbench.methods]\nodd = {module}:x\n", **{module: thing})
    with pytest.raises(PluginError, match=r"Method 'odd' .*, not a subclass of npasbench\.api\.Method"):
        Registry().method("odd")


def test_cards_come_from_installed_packages_too(install, tmp_path: Path):
    install("their-tasks", "[npasbench.tasks]\ntheirs = their_tasks\n")
    folder = tmp_path / "their_tasks"
    folder.mkdir()
    card = Registry().files["digits15-wrn-10-1"].read_text()
    (folder / "theirs.toml").write_text(card.replace("digits15-wrn-10-1", "theirs"))
    (folder / "__init__.py").write_text("raise RuntimeError('a package of tasks is not imported')")
    assert Registry().card("theirs").name == "theirs"


@pytest.mark.parametrize("value", ["missing_package", "missing_package.tasks"])
def test_a_package_of_tasks_that_is_not_there_is_warned_about_and_stops_nobody_else(install, value: str):
    install("gone-tasks", f"[npasbench.tasks]\ngone = {value}\n")
    with pytest.warns(UserWarning, match=r"Tasks 'gone' \(gone-tasks 1\.2, missing_package.*cannot be found"):
        assert set(CARD_AND_SUITE) <= set(Registry().files)


class SomeKnobs(Knobs):
    rank: int = 4
    order: str = "cycle"
    ceiling: float = 1.0


class Some(Method):
    knobs = SomeKnobs

    def build(self, problem, findings, rng):
        raise NotImplementedError


def test_a_method_is_created_with_its_papers_knobs_where_none_is_given():
    assert create(Some, {}, "some").settings == SomeKnobs()
    assert create(Some, {"rank": 8}, "some").settings == SomeKnobs(rank=8)


def test_an_unknown_knob_is_answered_with_the_nearest():
    with pytest.raises(
        UnknownName, match=r"Unknown knob of some 'rnak'\. Did you mean 'rank'\? Known: ceiling, order, rank\."
    ):
        create(Some, {"rnak": 8}, "some")


def test_a_method_without_knobs_says_so():
    with pytest.raises(UnknownName, match=r"Unknown knob of dense 'width'\. There is no knob of dense at all\."):
        create(Registry().method("dense"), {"width": 2}, "dense")


@pytest.mark.parametrize(
    ("knob", "value", "said"),
    [
        ("rank", "many", "valid integer"),
        ("rank", 1.5, "valid integer"),
        ("order", 3, "valid string"),
        ("ceiling", float("nan"), "finite"),
        ("ceiling", float("inf"), "finite"),
    ],
)
def test_a_value_that_a_knob_does_not_take_is_shown_with_the_knob(knob: str, value: object, said: str):
    with pytest.raises(UsageError, match=rf"Knob '{knob}' of some was given .*{said}"):
        create(Some, {knob: value}, "some")


def test_knobs_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match=r"pruning cannot begin at 0\.9 and end at 0\.5"):
        create(Registry().method("magnitude"), {"begin": 0.9, "end": 0.5}, "magnitude")


def test_the_source_hash_changes_with_the_file_that_defines_a_method(tmp_path: Path):
    one = Registry([plugin(tmp_path, METHOD, "one.py")]).method("one-value")
    same = Registry([plugin(tmp_path, METHOD, "same.py")]).method("one-value")
    other = Registry([plugin(tmp_path, METHOD + "\n", "other.py")]).method("one-value")
    assert source_hash(one) == source_hash(same) != source_hash(other)
