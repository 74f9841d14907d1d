"""A run that is killed at any moment and started again ends bit-identical to one that was never interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EPOCHS = 10
STEPS = EPOCHS * 3


def start(card: Path, runs: Path, method: str, budget: str, plugin: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "npasbench", "run", str(card), "--method", method, "--budget", budget]
    command += ["--seeds", "3", "--runs", str(runs), "--workers", "1", "--checkpoint-seconds", "0", "--device", "cpu"]
    command += ["--plugin", str(plugin)] if plugin else []
    # A shell that runs these tests in the background has them ignore Ctrl-C, and their children with them.
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=200)
    text = output.decode()
    assert process.returncode == 0, text
    return text


def only_run(runs: Path) -> Path:
    (spec,) = runs.glob("*/*/*/*/spec.json")
    return spec.parent


def checkpointed_step(folder: Path) -> int:
    import torch

    return int(torch.load(folder / "checkpoint.pt", weights_only=True)["training"]["step"])


def kill_points(tmp_path: Path, base: str, points: list[tuple[str, int, str]]) -> Path:
    """A plugin: ``base`` under another name, which sends a signal in a hook at a step, one point after another."""
    left = tmp_path / "points.json"
    left.write_text(json.dumps(points))
    plugin = tmp_path / "mortal.py"
    module, name = base.split(":")
    plugin.write_text(f"""
import json, os, signal
from pathlib import Path
from {module} import {name}

POINTS = Path({str(left)!r})

def maybe(hook, progress):
    points = json.loads(POINTS.read_text())
    if points and points[0][:2] == [hook, progress.step]:
        POINTS.write_text(json.dumps(points[1:]))
        whom = os.getpid() if points[0][2].startswith("worker") else -os.getpgrp()
        os.kill(whom, getattr(signal, points[0][2].split()[1]))

class Mortal({name}):
    def after_backward(self, network, progress):
        maybe("after_backward", progress)
        super().after_backward(network, progress)
    def after_step(self, network, progress):
        super().after_step(network, progress)
        maybe("after_step", progress)
""")
    return plugin


def points_left(tmp_path: Path) -> int:
    return len(json.loads((tmp_path / "points.json").read_text()))


def outcome(runs: Path) -> tuple[object, ...]:
    folder = only_run(runs)
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["epoch"], row["step"], row["loss"], row["lr"]) for row in rows]
    weights = (folder / "model.safetensors").read_bytes()
    return result["metrics"], result["parameters"], losses, weights, (folder / "correct.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "budget", "network"),
    [
        ("npasbench.baselines.magnitude:Magnitude", "0.1", "digits15-wrn-10-1"),
        ("npasbench.baselines.roast:Roast", "0.1", "digits15-transformer"),
        ("npasbench.baselines.template_bank:TemplateBank", "0.5", "digits15-ensemble"),
    ],
)
def test_a_run_killed_with_sigkill_at_several_points_ends_bit_identical(
    method: str, budget: str, network: str, small_card: Callable[..., Path], tmp_path: Path
) -> None:
    card = small_card(EPOCHS, network)
    points = [
        ("after_step", 1, "all SIGKILL"),
        ("after_backward", 11, "all SIGKILL"),
        ("after_step", STEPS, "all SIGKILL"),
    ]
    plugin = kill_points(tmp_path, method, [])
    finish(start(card, tmp_path / "whole", "mortal", budget, plugin))
    plugin = kill_points(tmp_path, method, points)
    for left in (2, 1, 0):
        process = start(card, tmp_path / "killed", "mortal", budget, plugin)
        process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL
        assert points_left(tmp_path) == left
    finish(start(card, tmp_path / "killed", "mortal", budget, plugin))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    result = json.loads((only_run(tmp_path / "killed") / "result.json").read_text())
    assert result["provenance"]["restarts"] == 2  # the first was killed before it had written anything


@pytest.mark.slow
def test_a_worker_killed_alone_is_replaced_and_the_run_ends_bit_identical(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    card, base = small_card(EPOCHS), "npasbench.baselines.template_bank:TemplateBank"
    finish(start(card, tmp_path / "whole", "mortal", "1", kill_points(tmp_path, base, [])))
    plugin = kill_points(tmp_path, base, [("after_step", 8, "worker SIGKILL")])
    assert "another goes on" in finish(start(card, tmp_path / "killed", "mortal", "1", plugin))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_kills_its_worker_twice_has_failed_and_says_so(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    points = [("after_step", 8, "worker SIGKILL"), ("after_step", 9, "worker SIGKILL")]
    plugin = kill_points(tmp_path, "npasbench.baselines.roast:Roast", points)
    process = start(small_card(EPOCHS), tmp_path / "killed", "mortal", "0.1", plugin)
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 1
    assert "killed 2 times in this run (signal 9)" in output
    assert json.loads((only_run(tmp_path / "killed") / "failure.json").read_text())["error"] in output


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_says_how_to_go_on_and_loses_nothing(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    card, base = small_card(EPOCHS), "npasbench.baselines.hashed:Hashed"
    finish(start(card, tmp_path / "whole", "mortal", "0.25", kill_points(tmp_path, base, [])))
    plugin = kill_points(tmp_path, base, [("after_step", 5, "all SIGINT")])
    process = start(card, tmp_path / "stopped", "mortal", "0.25", plugin)
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 130
    assert "Go on with: npasbench run" in output
    assert "Traceback" not in output
    folder = only_run(tmp_path / "stopped")
    assert not (folder / "lease.json").exists()
    assert 5 <= checkpointed_step(folder) < STEPS
    finish(start(card, tmp_path / "stopped", "mortal", "0.25", plugin))
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_truncated_checkpoint_is_left_aside_and_the_last_good_one_serves(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    card, base = small_card(EPOCHS), "npasbench.baselines.roast:Roast"
    finish(start(card, tmp_path / "whole", "mortal", "0.1", kill_points(tmp_path, base, [])))
    plugin = kill_points(tmp_path, base, [("after_step", 10, "all SIGKILL")])
    start(card, tmp_path / "killed", "mortal", "0.1", plugin).communicate(timeout=200)
    checkpoint = only_run(tmp_path / "killed") / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    finish(start(card, tmp_path / "killed", "mortal", "0.1", plugin))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    log = (only_run(tmp_path / "killed") / "log.txt").read_text()
    assert "checkpoint.pt is damaged and left aside" in log
    assert "goes on from step 8" in log


SEARCHER = '''
import os, signal
from pathlib import Path
from npasbench.api import *
from npasbench.baselines.roast import Roast

class Searcher(Roast):
    """Trains two throw-away networks, and takes the tile of the one whose bank moved more."""
    name = "searcher"
    def search(self, problem, context):
        import torch
        moved = {}
        for tile in (16, 32):
            rng = torch.Generator().manual_seed(context.seed)
            network = Roast(Roast.knobs(tile=tile)).build(problem, Findings(), rng)
            before = network.generator.bank.detach().clone()
            trained = context.train(f"tile-{tile}", network, epochs=3)
            moved[tile] = float((trained.generator.bank - before).norm())
        return Findings({"tile": max(moved, key=moved.get), "moved": [moved[16], moved[32]]})
    def after_step(self, network, progress):
        kill = Path(__file__).with_name("kill")
        if network.generator.bank.shape[1] == 32 and progress.epochs == 3 and progress.step == 4 and kill.exists():
            kill.unlink()
            os.kill(-os.getpgrp(), signal.SIGKILL)
    def build(self, problem, findings, rng):
        return Roast(Roast.knobs(tile=findings.facts["tile"])).build(problem, findings, rng)
'''


@pytest.mark.slow
def test_a_search_killed_in_the_middle_of_a_stage_ends_bit_identical(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    plugin = tmp_path / "searcher.py"
    plugin.write_text(SEARCHER)
    card = small_card(EPOCHS)
    finish(start(card, tmp_path / "whole", "searcher", "0.1", plugin))
    (tmp_path / "kill").write_text("in the second stage")
    process = start(card, tmp_path / "killed", "searcher", "0.1", plugin)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert (only_run(tmp_path / "killed") / "stage-tile-16.pt").exists()
    finish(start(card, tmp_path / "killed", "searcher", "0.1", plugin))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    costs = json.loads((only_run(tmp_path / "killed") / "result.json").read_text())["costs"]
    assert costs["search_epochs"] == 6
    assert costs["search_flops"] > 0
    assert costs["search_seconds"] > 0
