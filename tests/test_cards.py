"""Task cards and suites: read strictly, frozen, fingerprinted; a broken one says where and how to mend it."""

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import CARDS
from pydantic import ValidationError

from npasbench.card import Card, Suite, fingerprint, kind_of, read_card, read_suite
from npasbench.errors import CardError
from npasbench.registry import Registry

CARD = """
schema = 1
name = "mine"
version = 1
title = "A title"
description = "Words."
members = ["wrn-10-1"]
budgets = [0.1, "50%", 1]
metrics = ["accuracy", "nll"]
seeds = [0, 1, 2]

[data]
set = "digits"
train_per_class = 15
protocol = "full-last"
shift = 1

[recipe]
epochs = 2
batch_size = 50
optimizer = { name = "sgd", lr = 0.1, momentum = 0.9 }
schedule = { name = "steps", at = [1] }
threads = 1
"""
SUITE = """
schema = 1
name = "all-of-mine"
title = "A suite"
tasks = ["digits15-wrn-10-1"]
[[entry]]
label = "one"
method = "roast"
[[entry]]
label = "two"
method = "roast"
set = { tile = 8 }
"""
PINNED = {
    "digits15-wrn-10-1": "835c21b6658f2b080124beee43636b6226db8a425e6072c5c2cc0d9e7e3e014f",
    "digits15-wrn-16-2": "e9d3182ff50f9f8cd0bbad771a4ee87fd555bd54be3ca1e88af934f7da2d0524",
    "digits15-transformer": "0b336c6c060bef70fd43cf1ff8b48b5a0a8b1433f7b63741e163d9e4134500b6",
    "digits15-ensemble": "b02a89cb7a57ca2e350560fb94bd57263c13df38a4be4c3d696f26e053b482a6",
    "cifar100-multi-depth-width": "db314c06c01cb96e5a4288d21404adf1de1ddc3603c32920f97564a82bc0b320",
    "cifar100-multi-width": "7dc22e6232b088960a06c7bdf3860558293f4601e63be553b095d601cd86658a",
    "cifar100-multi-depth-width-published": "389c37de3521b88bf181d29fb12078c017800a0d6a12ebde94db20b53b380fb4",
    "cifar100-multi-width-published": "7728f290e22a6a7a26045404ad5a3b1a584d2acdded77fc05be809a4b4c5fbde",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def card_with(folder: Path, old: str, new: str) -> Path:
    assert CARD.count(old) == 1
    return written(folder, CARD.replace(old, new))


def complaint(path: Path) -> str:
    with pytest.raises(CardError) as caught:
        read_card(path)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(PINNED))
def test_a_shipped_card_has_the_fingerprint_it_was_published_with(name: str):
    assert Registry().card(name).fingerprint == PINNED[name], "results under another fingerprint are not comparable"


def test_the_shipped_cards_are_these_and_bear_the_names_of_their_files():
    registry = Registry()
    assert set(PINNED) <= set(registry.names(Card))
    assert all(registry.card(name).name == name for name in registry.names(Card))


def test_no_task_and_no_suite_share_a_name_since_either_may_be_run_by_it():
    names = [path.stem for path in (*CARDS.glob("*.toml"), *CARDS.glob("suites/*.toml"))]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["quickstart", "digits15", "ensembles"])
def test_a_shipped_suite_names_methods_and_tasks_that_exist(name: str):
    registry = Registry()
    suite = registry.suite_or_card(name)
    assert isinstance(suite, Suite)
    assert suite.name == name
    assert all(isinstance(registry.card(task), Card) for task in suite.tasks)
    assert all(registry.method(entry.method) for entry in suite.entry)


def test_quickstart_runs_ten_seeds_at_the_promised_budgets():
    registry = Registry()
    suite = registry.suite_or_card("quickstart")
    assert isinstance(suite, Suite)
    assert suite.tasks == ("digits15-wrn-10-1",)
    assert suite.budgets == ("0.05", "0.1", "0.25", "1")
    assert registry.card("digits15-wrn-10-1").seeds == tuple(range(10))


def test_a_card_reads_budgets_in_any_spelling(tmp_path: Path):
    assert read_card(written(tmp_path, CARD)).budgets == ("0.1", "0.5", "1")


def test_a_file_with_entries_is_a_suite_and_any_other_a_card(tmp_path: Path):
    assert kind_of(written(tmp_path, CARD)) is Card
    assert kind_of(written(tmp_path, SUITE)) is Suite


def test_a_card_of_ones_own_is_named_by_its_path(tmp_path: Path):
    assert Registry().card(str(written(tmp_path, CARD))).name == "mine"
    assert isinstance(Registry().suite_or_card(str(written(tmp_path, SUITE))), Suite)


def test_a_misspelled_key_is_named_with_its_file_and_the_nearest_key(tmp_path: Path):
    path = card_with(tmp_path, "metrics", "metricks")
    assert str(path) in complaint(path)
    assert "key 'metricks' is unknown. Did you mean 'metrics'?" in complaint(path)


def test_a_misspelled_key_deep_inside_is_answered_with_the_keys_that_are_known_there(tmp_path: Path):
    said = complaint(card_with(tmp_path, "momentum = 0.9", "momentun = 0.9"))
    assert "key 'recipe.optimizer.momentun' is unknown. Did you mean 'momentum'?" in said
    assert "Known keys there: lr, momentum, name, nesterov, weight_decay." in said


def test_every_mistake_of_a_card_is_told_at_once(tmp_path: Path):
    path = written(tmp_path, CARD.replace("metrics", "metricks").replace("epochs = 2", "epochs = 0"))
    said = complaint(path)
    assert "'metricks'" in said
    assert "'metrics' is missing" in said
    assert "'recipe.epochs'" in said


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('members = ["wrn-10-1"]\n', "members"),
        ("seeds = [0, 1, 2]\n", "seeds"),
        ("epochs = 2\n", "recipe.epochs"),
        ('set = "digits"\n', "data.set"),
        ("threads = 1\n", "recipe.threads"),
        ("schema = 1\n", "schema"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, line: str, key: str):
    assert f"key '{key}' is missing. Add it." in complaint(card_with(tmp_path, line, ""))


@pytest.mark.parametrize(
    ("old", "new", "key", "shown"),
    [
        ("epochs = 2", 'epochs = "many"', "recipe.epochs", "many"),
        ("epochs = 2", "epochs = 1.5", "recipe.epochs", "1.5"),
        ("epochs = 2", "epochs = -1", "recipe.epochs", "-1"),
        ("lr = 0.1", "lr = nan", "recipe.optimizer.lr", "nan"),
        ("lr = 0.1", "lr = 0", "recipe.optimizer.lr", "0"),
        ("momentum = 0.9", "momentum = 9", "recipe.optimizer.momentum", "9"),
        ('"full-last"', '"last"', "data.protocol", "'full-last'"),
        ('["accuracy", "nll"]', '["accurracy"]', "metrics.0", "accurracy"),
        ("seeds = [0, 1, 2]", "seeds = [0, 1]", "seeds", "at least 3"),
        ("seeds = [0, 1, 2]", "seeds = [0, 1, -2]", "seeds.2", "-2"),
        ("seeds = [0, 1, 2]", "seeds = [0, 1, 1]", "seeds", "a seed is listed twice"),
        ('members = ["wrn-10-1"]', "members = []", "members", "at least 1"),
        ("schema = 1", "schema = 2", "schema", "2"),
        ('name = "mine"', 'name = "../mine"', "name", "../mine"),
        ('[0.1, "50%", 1]', "0.1", "budgets", "a list of budgets is expected"),
    ],
)
def test_a_wrong_value_is_shown_with_its_key(tmp_path: Path, old: str, new: str, key: str, shown: str):
    said = complaint(card_with(tmp_path, old, new))
    line = next(line for line in said.splitlines() if f"key '{key}'" in line)
    assert shown in line


@pytest.mark.parametrize("word", ['"tenth"', '"0"', "-0.1", "nan", '"0.5k"', '"0,1"'])
def test_a_wrong_budget_word_is_answered_with_how_budgets_are_written(tmp_path: Path, word: str):
    said = complaint(card_with(tmp_path, '"50%"', word))
    assert "key 'budgets'" in said
    assert "Write a fraction" in said


def test_a_budget_that_is_listed_twice_in_two_spellings_is_refused(tmp_path: Path):
    assert "a budget is listed twice" in complaint(card_with(tmp_path, '"50%"', '"10%"'))


def test_broken_toml_names_the_file_and_the_line(tmp_path: Path):
    path = card_with(tmp_path, "epochs = 2", "epochs = = 2")
    line = path.read_text().splitlines().index("epochs = = 2") + 1
    assert str(path) in complaint(path)
    assert f"line {line}" in complaint(path)


def test_a_file_that_is_not_there_or_no_text_is_told_in_a_sentence(tmp_path: Path):
    assert "There is no file" in complaint(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in complaint(binary)
    assert "cannot be read" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'schedule = { name = "steps", at = [1] }',
            'schedule = { name = "cosine", at = [1] }',
            "'at' lists the epochs",
        ),
        ('schedule = { name = "steps", at = [1] }', 'schedule = { name = "steps" }', "'at' lists the epochs"),
        ('{ name = "steps", at = [1] }', '{ name = "one-cycle", warmup = 1 }', "one-cycle brings its own warm-up"),
        ('{ name = "steps", at = [1] }', '{ name = "steps", at = [2, 2] }', "list later epochs in ascending order"),
        ('{ name = "steps", at = [1] }', '{ name = "steps", at = [1], warmup = 2 }', "after a warm-up of 2 epochs"),
        ('{ name = "steps", at = [1] }', '{ name = "cosine", warmup = 9 }', "a warm-up of 9 of 2 epochs never ends"),
        ("momentum = 0.9", 'momentum = 0.9, nesterov = "yes"', "nesterov"),
        ("shift = 1", 'flip = "yes"', "flip"),
        ("shift = 1", "normalise = { mean = [0.5], std = [0.2] }", "multiply each by 255"),
        ('name = "sgd"', 'name = "adamw"', "momentum and nesterov belong to sgd"),
        ("shift = 1", "normalise = { mean = [1, 2], std = [1] }", "2 means and 1 deviations"),
    ],
)
def test_a_combination_that_means_nothing_is_refused(tmp_path: Path, old: str, new: str, said: str):
    assert said in complaint(card_with(tmp_path, old, new))


def test_two_entries_with_one_label_are_refused(tmp_path: Path):
    with pytest.raises(CardError, match="two entries are labelled one; labels name rows and folders"):
        read_suite(written(tmp_path, SUITE.replace('"two"', '"one"')))


@pytest.mark.parametrize("label", ["../up", "", "Big", ".hidden", "a/b"])
def test_a_label_that_cannot_name_a_folder_is_refused(tmp_path: Path, label: str):
    with pytest.raises(CardError, match=r"entry\.1\.label"):
        read_suite(written(tmp_path, SUITE.replace('"two"', f'"{label}"')))


def test_a_misspelled_key_of_an_entry_is_named_with_the_nearest(tmp_path: Path):
    with pytest.raises(CardError, match=r"key 'entry\.1\.metod' is unknown\. Did you mean 'method'\?"):
        read_suite(written(tmp_path, SUITE.replace('two"\nmethod', 'two"\nmetod')))


def test_a_suite_lists_no_task_and_no_seed_twice(tmp_path: Path):
    for old, new in (
        ('["digits15-wrn-10-1"]', '["digits15-wrn-10-1", "digits15-wrn-10-1"]'),
        ('title = "A suite"', 'title = "A suite"\nseeds = [4, 4]'),
    ):
        with pytest.raises(CardError, match="listed twice"):
            read_suite(written(tmp_path, SUITE.replace(old, new)))


def test_cards_and_suites_are_frozen(tmp_path: Path):
    card, suite = read_card(written(tmp_path, CARD)), read_suite(written(tmp_path, SUITE))
    for frozen, key in (
        (card, "name"),
        (card.recipe, "epochs"),
        (card.recipe.optimizer, "lr"),
        (suite.entry[0], "label"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(frozen, key, getattr(frozen, key))


DECIDES: list[tuple[str, Any]] = [
    ("name", "other"),
    ("version", 2),
    ("members", ["wrn-16-1"]),
    ("accounting", "bank"),
    ("metrics", ["accuracy"]),
    ("data.set", "other"),
    ("data.train_per_class", 14),
    ("data.protocol", "holdout-last"),
    ("data.shift", 0),
    ("data.flip", True),
    ("data.normalise", {"mean": [127.5], "std": [64]}),
    ("data.cutout", 2),
    ("data.image_size", 64),
    ("data.resize", 72),
    ("data.crop", "random-resized"),
    ("data.classes", 3),
    ("data.digest", "0" * 64),
    ("data.corrupted", True),
    ("recipe.epochs", 3),
    ("recipe.batch_size", 49),
    ("recipe.optimizer.lr", 0.2),
    ("recipe.optimizer.momentum", 0.8),
    ("recipe.optimizer.nesterov", True),
    ("recipe.optimizer.weight_decay", 1e-4),
    ("recipe.schedule.at", [2]),
    ("recipe.schedule.factor", 0.2),
    ("recipe.schedule.warmup", 1),
    ("recipe.label_smoothing", 0.1),
    ("recipe.precision", "bfloat16"),
    ("recipe.memory_format", "channels-last"),
    ("recipe.threads", 2),
    ("recipe.norm_images", 10),
]


def leaves(content: dict[str, Any], prefix: str = "") -> set[str]:
    return {
        leaf
        for key, value in content.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key})
    }


def changed(key: str, value: Any) -> Card:
    content = copy.deepcopy(tomllib.loads(CARD))
    *path, last = key.split(".")
    place = content
    for part in path:
        place = place[part]
    place[last] = value
    return Card.model_validate(content)


def test_every_key_of_a_card_is_said_here_to_decide_or_not():
    card = Card.model_validate(tomllib.loads(CARD))
    free = {"title", "description", "budgets", "seeds", "data.folder", "needs.gpus", "needs.memory", "needs.time"}
    fixed = {"schema", "recipe.optimizer.name", "recipe.schedule.name"}  # cannot change alone
    assert leaves(card.model_dump(by_alias=True)) == {key for key, _ in DECIDES} | free | fixed


@pytest.mark.parametrize(("key", "value"), DECIDES)
def test_the_fingerprint_changes_with_what_decides_a_result(key: str, value: Any):
    assert changed(key, value).fingerprint != Card.model_validate(tomllib.loads(CARD)).fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", "Other"),
        ("description", ""),
        ("budgets", [2]),
        ("seeds", [7, 8, 9, 10]),
        ("data.folder", "elsewhere"),
        ("needs", {"gpus": 4}),
    ],
)
def test_the_fingerprint_does_not_change_with_what_decides_nothing(key: str, value: Any):
    assert changed(key, value).fingerprint == Card.model_validate(tomllib.loads(CARD)).fingerprint


def test_a_default_that_is_written_out_gives_the_same_fingerprint():
    plain = Card.model_validate(tomllib.loads(CARD))
    assert changed("data.flip", False).fingerprint == plain.fingerprint
    assert changed("data.cutout", 0).fingerprint == plain.fingerprint
    assert changed("recipe.schedule.factor", 0.1).fingerprint == plain.fingerprint


def test_the_order_of_keys_is_nothing_to_a_fingerprint_and_nan_is_refused():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint(json.loads('{"b": [1, 2], "a": 1}'))
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"a": float("nan")})
