"""The harness against bare training loops, over the cells of the quickstart suite.

    python benchmarks/harness.py [--rounds 66]

A round is one run of quickstart, done once by the harness (run directory, claim, audit, observers, evaluation, result)
and once by a plain loop over the same network, data and recipe that evaluates at the end. What the harness does once
for a cell (costs) is spread over its ten seeds; the start of workers is measured by itself and spread over the whole
suite; certificate and dead-parameter scan are reported apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rounds import ratio, timed

from npasbench import streams
from npasbench.building import build, problem_of
from npasbench.commands.planning import plan_runs
from npasbench.data import load
from npasbench.data.augment import draw_offsets, shift
from npasbench.errors import BudgetTooSmall
from npasbench.method import Batch, Findings, Progress
from npasbench.plan import RunSpec
from npasbench.registry import Registry, create
from npasbench.running.certify import certify
from npasbench.running.execute import prepare_process
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work

WORKERS, SEEDS, LIMIT = 2, 10, 1.15
CPU = torch.device("cpu")

START = """
import sys, time
begun = float(sys.argv[1])
if __name__ == "__main__":
    from pathlib import Path
    from npasbench.running.dispatch import Pool, warm_up
    warm_up()
    from npasbench.commands.planning import plan_runs
    specs = plan_runs("quickstart", None, None, {}, ("1",), (0,), ())[:1]
    from npasbench.running.worker import Options
    first = []
    def report(event):
        if event["state"] == "started":
            first.append(time.time() - begun)
    Pool(specs, Path(sys.argv[2]), 2, Options(), report).work()
    print(first[0])
"""


def bare_loop(spec: RunSpec) -> Callable[[], object]:
    """What a researcher would write without a harness: build, train, evaluate once."""
    recipe = spec.task.recipe

    def train() -> float:
        prepare_process(spec, CPU)
        method = create(Registry().method(spec.method), dict(spec.knobs), spec.method)
        network = build(method, problem_of(spec), Findings(), spec.seed)
        data = load(spec.task.data, seed=spec.seed)
        one = recipe.optimizer
        optimizer = torch.optim.SGD(
            method.parameter_groups(network),
            lr=one.lr,
            momentum=one.momentum,
            nesterov=True,
            weight_decay=one.weight_decay,
        )
        per_epoch = -(-len(data.train_labels) // recipe.batch_size)
        steps = recipe.epochs * per_epoch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, one.lr, total_steps=steps, cycle_momentum=False)
        criterion = torch.nn.CrossEntropyLoss()
        draws = streams.generator(spec.seed, "order")
        network.train()
        step = 0
        for epoch in range(recipe.epochs):
            for indices in torch.randperm(len(data.train_labels), generator=draws).split(recipe.batch_size):
                images = data.train_inputs[indices]
                images = shift(images, draw_offsets(len(images), spec.task.data.shift, draws), spec.task.data.shift)
                batch = Batch(images, data.train_labels[indices], indices)
                optimizer.zero_grad()
                for loss in method.losses(network, batch, criterion):
                    loss.backward()
                method.after_backward(network, Progress(epoch, recipe.epochs, step, steps))
                optimizer.step()
                schedule.step()
                step += 1
                method.after_step(network, Progress(epoch, recipe.epochs, step, steps))
        network.eval()
        with torch.no_grad():
            return float((network(data.test_inputs).argmax(1) == data.test_labels).float().mean())

    return train


def buildable(specs: list[RunSpec]) -> list[RunSpec]:
    """The runs that train something."""
    kept = []
    for spec in specs:
        method = create(Registry().method(spec.method), dict(spec.knobs), spec.method)
        if method.skip(problem_of(spec)) is None:
            try:
                build(method, problem_of(spec), Findings(), 0)
            except BudgetTooSmall:
                continue
            kept.append(spec)
    return kept


def seconds_to_start(folder: Path, rounds: int) -> list[float]:
    """Seconds from starting the command to the first run being claimed."""
    script = folder / "start.py"
    script.write_text(START)
    waits = []
    for turn in range(rounds):
        words = [sys.executable, str(script), str(time.time()), str(folder / f"start{turn}")]
        waits.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    return waits


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=66)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    specs = buildable(plan_runs("quickstart", None, None, {}, (), tuple(range(SEEDS)), ()))
    cells = len(specs) // SEEDS
    print(f"quickstart: {len(specs)} runs that train, {cells} cells")
    harness, bare, certificates, costs = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        timed(bare_loop(specs[0]))
        for turn, spec in enumerate(specs[: options.rounds]):
            directory = RunDirectory.of(root, spec)

            def by_harness(spec: RunSpec = spec) -> None:
                work([spec], root, Options(), Ways(lambda _: None))

            first, second = (by_harness, bare_loop(spec)) if turn % 2 else (bare_loop(spec), by_harness)
            one, two = timed(first), timed(second)
            harness.append(one if turn % 2 else two)
            bare.append(two if turn % 2 else one)
            costs.append(turn < cells)
            predictions = RunDirectory.of(root, spec).predictions_file
            from npasbench.running.certify import load_trained
            from npasbench.training.evaluate import predict

            _, network, _ = load_trained(directory, spec, CPU)
            data = load(spec.task.data, seed=spec.seed)
            np.save(predictions, predict(network, data.test(500), spec.task.recipe, CPU).argmax(1).numpy())
            certificates.append(timed(lambda directory=directory: certify(directory, CPU)))
            json.loads(directory.result_file.read_text())
        starts = seconds_to_start(root, options.starts)
    with_costs = [h for h, c in zip(harness, costs, strict=True) if c]
    without = ratio(
        "harness / bare, a run",
        [h for h, c in zip(harness, costs, strict=True) if not c] or harness,
        [b for b, c in zip(bare, costs, strict=True) if not c] or bare,
    )
    measured = ratio("with the cell's costs", with_costs, [b for b, c in zip(bare, costs, strict=True) if c])
    print(without.line())
    print(measured.line())
    total = float(np.mean(bare)) * len(specs) / WORKERS
    start = float(np.median(starts))
    spread = (measured.median - without.median) / SEEDS
    start_share = start / total
    whole = [r + spread + start_share for r in (without.median, without.low, without.high)]
    print(
        f"start of workers: {start:.2f} s, {start_share:.3f} of the suite's bare loops ({total:.0f} s on {WORKERS} cores)"
    )
    verdict = "ok" if whole[1] <= LIMIT else "OVER"
    print(
        f"quickstart, harness / bare loops: {whole[0]:.3f} [{whole[1]:.3f}, {whole[2]:.3f}]  {verdict} (at most {LIMIT})"
    )
    share = float(np.median(np.asarray(certificates) / np.asarray(bare)))
    print(
        f"apart: certificate and dead-parameter scan {np.median(certificates) * 1e3:.0f} ms a run, {share:.3f} of a bare run"
    )


if __name__ == "__main__":
    main()
