"""Runs of the whole method, search and unsharing included: killed at any moment they end bit-identical."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import CARDS
from safetensors import safe_open
from test_resume import checkpointed_step, finish, only_run, outcome, start

from npasbench.api import Findings
from npasbench.baselines.superweight import Superweight
from npasbench.building import build, problem_of
from npasbench.plan import RunSpec
from npasbench.registry import create

MORTAL = '''
import os, signal
from pathlib import Path
from npasbench.baselines.superweight import Superweight, SuperweightKnobs

class Brief(SuperweightKnobs):
    search_epochs: int = 2
    batches: int = 4
    threshold: float = 0.5
    unshare_epoch: int = 1
    unshare_gap: int = 2

class Mortal(Superweight):
    """A brief search; sends SIGKILL where the file kill says: epochs of the stage, and a step."""
    knobs = Brief
    def after_backward(self, network, progress):
        kill = Path(__file__).with_name("kill")
        if kill.exists() and kill.read_text() == f"{progress.epochs} {progress.step}":
            kill.unlink()
            os.kill(-os.getpgrp(), signal.SIGKILL)
'''
EPOCHS = 4


class Runs(NamedTuple):
    """Where one run ended that was never interrupted, and one that was killed at several moments."""

    whole: Path
    killed: Path
    steps: list[int]


@pytest.fixture(scope="module", params=["digits15-wrn-16-2", "digits15-ensemble", "digits15-transformer"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Killed in the search, while listening, right after unsharing, and after it was resumed; of the transformer linear layers."""
    folder = tmp_path_factory.mktemp("superweight")
    plugin, card = folder / "mortal.py", folder / f"{request.param}.toml"
    linear = request.param == "digits15-transformer"
    plugin.write_text(MORTAL.replace("search_epochs", f"linear: bool = {linear}\n    search_epochs"))
    card.write_text((CARDS / card.name).read_text(encoding="utf-8").replace("epochs = 60", f"epochs = {EPOCHS}"))
    finish(start(card, folder / "whole", "mortal", "0.5", plugin))
    steps = []
    for moment in ("2 4", f"{EPOCHS} 2", f"{EPOCHS} 3", f"{EPOCHS} 7"):
        (folder / "kill").write_text(moment)
        process = start(card, folder / "killed", "mortal", "0.5", plugin)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
        steps.append(checkpointed_step(only_run(folder / "killed")) if moment[0] != "2" else -1)
    finish(start(card, folder / "killed", "mortal", "0.5", plugin))
    return Runs(folder / "whole", folder / "killed", steps)


@pytest.mark.slow
def test_a_run_killed_in_its_search_and_around_unsharing_ends_bit_identical(runs: Runs):
    assert runs.steps == [-1, 2, 3, 7]
    assert outcome(runs.killed) == outcome(runs.whole)


@pytest.mark.slow
def test_clusters_links_and_who_mixes_alike_are_kept_with_the_run(runs: Runs):
    whole, killed = (torch.load(only_run(one) / "findings.pt", weights_only=True)["facts"] for one in runs[:2])
    assert whole == killed
    assert [len(own) for own in whole["links"]] == [len(own) for own in whole["clusters"]]
    first, last = classes(runs.killed, "findings"), classes(runs.killed, "model")
    assert {key: len(numbers) for key, numbers in first.items()} == {key: len(numbers) for key, numbers in last.items()}
    several = len(whole["clusters"]) > 1  # a member alone is searched for clusters only: its layers mix as they do
    assert (sum(map(max, last.values())) > sum(map(max, first.values()))) == several


def classes(folder: Path, kept: str) -> dict[str, list[int]]:
    """Who mixes alike: as the search found, or as the trained model was written."""
    if kept == "model":
        with safe_open(only_run(folder) / "model.safetensors", "pt") as file:
            found: dict[str, list[int]] = json.loads(file.metadata()["facts"])["classes"]
            return found
    facts = torch.load(only_run(folder) / "findings.pt", weights_only=True)["facts"]
    content = json.loads((only_run(folder) / "spec.json").read_text(encoding="utf-8"))
    spec = RunSpec.model_validate({key: content[key] for key in content if not key.endswith("fingerprint")})
    method = create(Superweight, {"linear": spec.knobs["linear"]}, "superweight")
    network = build(method, problem_of(spec), Findings(facts), 0)
    first: dict[str, list[int]] = network.generator.classes
    return first


@pytest.mark.slow
def test_the_cost_of_the_search_is_in_the_record(runs: Runs):
    whole, killed = (json.loads((only_run(one) / "result.json").read_text())["costs"] for one in runs[:2])
    assert whole["search_epochs"] == pytest.approx(killed["search_epochs"])
    assert whole["search_epochs"] == pytest.approx(2 + 4 / 3)
    assert whole["search_flops"] == killed["search_flops"] > 0
    assert whole["search_seconds"] > 0


@pytest.mark.slow
def test_the_clusters_and_the_threshold_that_was_needed_are_in_the_record(runs: Runs):
    allocation = json.loads((only_run(runs[0]) / "result.json").read_text())["allocation"]
    found = torch.load(only_run(runs[0]) / "findings.pt", weights_only=True)["facts"]
    assert len(allocation["clusters"]) == 1 + max(map(max, found["clusters"]))
    assert allocation["threshold"] == found["threshold"]
