"""Generated weights against the dense network: one training step and one evaluation of WRN-16-4, batch 32, 2 threads.

python benchmarks/generation.py [--rounds 40]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rounds import compare
from torch import Tensor, nn
from torch.nn import functional

from npasbench.budget import resolve
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.method import Findings
from npasbench.networks import architecture
from npasbench.problem import Problem
from npasbench.registry import Registry, create

CONTESTANTS = [
    ("template-bank", {}, ("0.5", "1", "2")),
    ("naive", {}, ("0.5", "1", "2")),
    ("naive", {"scope": "all"}, ("0.05", "0.2")),
    ("roast", {}, ("0.1", "0.5", "1", "2")),
    ("hashed", {}, ("0.5",)),
]
LIMITED = ("template-bank", "naive", "roast")
STEP_LIMIT, EVALUATION_LIMIT = 1.05, 1.02


def networks() -> dict[str, nn.Module]:
    """The dense network and every method at its budgets."""
    reference = architecture("wrn-16-4", classes=100, input_shape=(3, 32, 32))
    built: dict[str, nn.Module] = {"dense": reference.create()}
    dense = count(built["dense"]).total
    for method, knobs, budgets in CONTESTANTS:
        for budget in budgets:
            problem = Problem((reference,), resolve(budget, dense), 100, (3, 32, 32))
            label = f"{method}{''.join(f' {v}' for v in knobs.values())} {budget}x"
            built[label] = build(create(Registry().method(method), dict(knobs), method), problem, Findings(), 0)
    return built


def training_step(network: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward and backward."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        functional.cross_entropy(network.train()(inputs), labels).backward()

    return step


def evaluation(network: nn.Module, inputs: Tensor, times: int = 1) -> Callable[[], object]:
    """Forward in evaluation, with generated weights kept, ``times`` in a row."""

    def step() -> None:
        with torch.no_grad():
            for _ in range(times):
                network.eval()(inputs)

    return step


def report(title: str, contestants: dict[str, Callable[[], object]], rounds: int, limit: float) -> None:
    """Print one table."""
    print(f"\n{title}: median of paired ratios to dense with 95 % interval")
    for row in compare(contestants, "dense", rounds):
        print(row.line(limit if row.name.split()[0] in LIMITED else None), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="step,evaluation,batch-1")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    inputs, labels = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    built = networks()
    if "step" in options.only:
        steps = {name: training_step(network, inputs, labels) for name, network in built.items()}
        report("WRN-16-4, batch 32, forward and backward", steps, options.rounds, STEP_LIMIT)
    if "evaluation" in options.only:
        evaluations = {name: evaluation(network, inputs) for name, network in built.items()}
        report("WRN-16-4, batch 32, evaluation", evaluations, options.rounds, EVALUATION_LIMIT)
    if "batch-1" in options.only:
        singles = {name: evaluation(network, inputs[:1]) for name, network in built.items()}
        report("WRN-16-4, batch 1, evaluation", singles, options.rounds, EVALUATION_LIMIT)


if __name__ == "__main__":
    main()
