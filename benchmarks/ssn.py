"""Shapeshifter Networks against the dense network and against slicing the bank layer by layer: WRN-16-4, 2 threads.

python benchmarks/ssn.py [--rounds 40] [--only step,evaluation,learning,slicing,memory,compile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from generation import evaluation, training_step
from rounds import compare, report
from torch import Tensor, nn

from npasbench.budget import Budget, resolve
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.measuring.live_bytes import LiveBytes
from npasbench.method import Findings
from npasbench.networks import architecture
from npasbench.problem import Problem
from npasbench.registry import Registry, create
from npasbench.sharing.generate import BankedWeights

REFERENCE = architecture("wrn-16-4", classes=100, input_shape=(3, 32, 32))
STEP_LIMITS = {"0.5": 1.03, "1": 1.04, "2": 1.06}
EVALUATION_LIMIT, LEARNING_LIMIT, SLICING_LIMIT = 1.02, 1.25, 4.0
IN_A_ROW = 5


def shared(method: str, budget: str | int, **knobs: object) -> nn.Module:
    """WRN-16-4 with 100 classes; a whole number is a bank size."""
    dense = count(REFERENCE.create()).total
    size = resolve(budget, dense) if isinstance(budget, str) else Budget(str(budget), budget, dense, "bank")
    problem = Problem((REFERENCE,), size, 100, (3, 32, 32))
    return build(create(Registry().method(method), knobs, method), problem, Findings(), 0)


def steps(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """Forward and backward; every method and budget."""
    networks = {"dense": REFERENCE.create()}
    limits = {}
    for method, knobs in (
        ("ssn", {}),
        ("ssn", {"share": "emb"}),
        ("ssn-plus", {}),
        ("ssn-plus", {"templates": "published"}),
    ):
        for budget, limit in STEP_LIMITS.items():
            name = " ".join([method, *map(str, knobs.values()), f"{budget}x"])
            networks[name], limits[name] = shared(method, budget, **knobs), limit
    contestants = {name: training_step(network, inputs, labels) for name, network in networks.items()}
    report("Batch 32, forward and backward", contestants, rounds, limits)


def evaluations(rounds: int, inputs: Tensor) -> None:
    """Forward with kept weights, batch 32 and batch 1 (ten in a row)."""
    networks = {"dense": REFERENCE.create(), **{f"ssn {budget}x": shared("ssn", budget) for budget in STEP_LIMITS}}
    limits = dict.fromkeys(networks, EVALUATION_LIMIT)
    for size, times in ((32, 1), (1, 10)):
        contestants = {name: evaluation(network, inputs[:size], times) for name, network in networks.items()}
        report(f"Batch {size}, evaluation", contestants, rounds, limits)


def learning(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """The throw-away network of learned groups, with the published bank of 5,000,000."""
    networks = {"dense": REFERENCE.create()}
    for share in ("emb", "wavg"):
        networks[f"learning {share}"] = shared("ssn", 5_000_000, groups="learning", share=share)
    contestants = {name: training_step(network, inputs, labels) for name, network in networks.items()}
    report("Batch 32, learning phase", contestants, rounds, dict.fromkeys(networks, LEARNING_LIMIT))


def slicing(rounds: int) -> None:
    """Generation alone, forward and backward: ours, and the same bank sliced layer by layer as one would write it first."""
    print("\nGeneration alone, forward and backward: how many times as long slicing layer by layer takes")
    for budget in STEP_LIMITS:
        weights = shared("ssn", budget).generator
        if not isinstance(weights, BankedWeights):
            raise TypeError(f"ssn is expected to give BankedWeights, not {type(weights).__name__}")
        contestants = {
            "ours": backward_of(weights, weights, IN_A_ROW),
            "sliced": backward_of(weights, lambda w=weights: sliced(w), IN_A_ROW),
        }
        row = compare(contestants, "ours", rounds)[1]
        verdict = "ok" if row.high >= SLICING_LIMIT else "TOO LITTLE"
        interval = f"[{row.low:.2f}, {row.high:.2f}]"
        milliseconds = row.seconds / IN_A_ROW * 1e3
        print(f"{budget + 'x':<28} {row.median:.2f} {interval}  {milliseconds:9.2f} ms  n={row.rounds}  {verdict}")


def sliced(weights: BankedWeights) -> dict[str, Tensor]:
    """Each layer slices the bank, weighs K whole templates and adds them, as the published formula reads."""
    group, bank, generated = weights.groups[0], weights.bank["0"], {}
    rows = {q: (k, r) for k, places in weights.readings[0].rows.items() for r, q in enumerate(places)}
    for position, (layer, block) in enumerate(zip(group.layers, group.blocks, strict=True)):
        templates = bank[block.start : block.end].view(block.templates, *layer.shape)
        if position in rows:
            k, row = rows[position]
            alpha = weights.coefficients[f"0_{k}"][row].view(-1, *(1 for _ in layer.shape))
            generated[layer.name] = (templates * alpha).sum(0)
        else:
            generated[layer.name] = templates[0]
    return generated


def backward_of(weights: BankedWeights, make: Callable[[], dict[str, Tensor]], times: int = 1) -> Callable[[], object]:
    """Generate and send gradients of ones back, ``times`` in a row: memory that another contestant freed is new only once."""
    gradients = [torch.ones(weight.shape) for weight in make().values()]

    def step() -> None:
        for _ in range(times):
            weights.zero_grad(set_to_none=True)
            torch.autograd.backward(list(make().values()), gradients)

    return step


def memory() -> None:
    """The most that generation holds at once beyond its parameters, as a multiple of the network's weights."""
    print("\nGeneration, forward and backward: the most held at once, in weights of the dense network; bank beside it")
    size = sum(p.numel() for p in REFERENCE.create().parameters())
    for budget in STEP_LIMITS:
        weights = shared("ssn", budget).generator
        step, live = backward_of(weights, weights), LiveBytes()  # type: ignore[arg-type]
        with live:
            step()
        print(f"{budget + 'x':<28} {live.peak / 4 / size:.2f}  (bank {float(budget):.1f})", flush=True)


def compiled(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """The whole network through torch.compile, against the compiled dense network."""
    networks = {"dense": REFERENCE.create(), "ssn 1x": shared("ssn", "1"), "ssn-plus 1x": shared("ssn-plus", "1")}
    contestants = {
        name: training_step(torch.compile(network, fullgraph=True), inputs, labels)  # type: ignore[arg-type]
        for name, network in networks.items()
    }
    report("Batch 32, forward and backward, torch.compile", contestants, rounds, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="step,evaluation,learning,slicing,memory,compile")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    inputs, labels = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    work: dict[str, Callable[[], None]] = {
        "step": lambda: steps(options.rounds, inputs, labels),
        "evaluation": lambda: evaluations(options.rounds, inputs),
        "learning": lambda: learning(options.rounds, inputs, labels),
        "slicing": lambda: slicing(options.rounds),
        "memory": memory,
        "compile": lambda: compiled(options.rounds, inputs, labels),
    }
    for name in options.only.split(","):
        work[name]()


if __name__ == "__main__":
    main()
