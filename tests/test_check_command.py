"""``npasbench check`` where a method lacks a library: one sentence, and no verdict on what could not be looked at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from calling import call

from npasbench.errors import MissingLibrary
from npasbench.pruning.channels_graph import channel_groups


class Blocker:
    """Finds no module called ``torch_pruning``, whether it is installed or not."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "torch_pruning":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def plugin(folder: Path, body: str) -> Path:
    """A method whose ``generator`` runs ``body`` first."""
    path = folder / "lacking.py"
    path.write_text(
        "from npasbench.baselines.roast import Roast\n"
        "class Lacking(Roast):\n"
        "    def generator(self, layers, parameters, rng):\n"
        f"        {body}\n"
        "        return super().generator(layers, parameters, rng)\n"
    )
    return path


def test_without_its_library_channel_l1_is_one_sentence_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_pruning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocker, *sys.meta_path])
    channel_groups.cache_clear()
    assert call("check", "channel-l1") == (
        1,
        "channel-l1 needs the library Torch-Pruning, which is not installed: pip install 'npasbench[pruning]'.",
    )


def test_a_method_of_ones_own_that_lacks_a_library_is_one_sentence_too(tmp_path: Path) -> None:
    code, said = call("check", "lacking", "--plugin", plugin(tmp_path, "import not_there_at_all.inside"))
    assert code == 1
    assert said.startswith(
        "lacking needs the library 'not_there_at_all', which is not installed: ModuleNotFoundError: "
    )
    assert said.endswith("in lacking.py:4 (generator). Install it, then start the same command again.")


def test_a_library_that_is_named_by_the_method_itself_is_passed_on(tmp_path: Path) -> None:
    body = "from npasbench.errors import MissingLibrary; raise MissingLibrary('install faiss')"
    assert call("check", "lacking", "--plugin", plugin(tmp_path, body)) == (1, "install faiss")
    assert MissingLibrary.exit_code == 1


def test_a_misspelled_part_of_a_library_that_is_there_is_a_fault_of_the_method(tmp_path: Path) -> None:
    code, said = call("check", "lacking", "--plugin", plugin(tmp_path, "import json.not_there_at_all"))
    assert code == 1
    assert "raised ModuleNotFoundError: No module named 'json.not_there_at_all' in lacking.py:4 (generator)" in said
    assert "lacking breaks the contract" in said
