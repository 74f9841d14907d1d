"""SuperWeight Networks against the dense network and against mixing template by template: WRN-16-4, 2 threads.

python benchmarks/superweight.py [--rounds 40] [--only step,evaluation,composition,members,compile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from generation import evaluation, training_step
from rounds import compare, report
from torch import Tensor, nn
from torch.nn import functional

from npasbench.budget import Budget
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.method import Batch, Findings
from npasbench.networks import architecture
from npasbench.problem import Problem
from npasbench.registry import Registry, create
from npasbench.sharing.composed import ComposedWeights

MEMBERS = ("wrn-16-4", "wrn-16-2", "wrn-10-4", "wrn-10-2")
STEP_LIMITS = {0.5: 1.03, 1: 1.04, 1.5: 1.05}
EVALUATION_LIMIT, PLAIN_LIMIT, MEMBERS_LIMIT = 1.02, 3.5, 1.03
IN_A_ROW = 5


def shared(bank: float, names: Sequence[str] = ("wrn-16-4",), **knobs: object) -> nn.Module:
    """A network or an ensemble composed from templates that hold ``bank`` times its convolutions, by the full allocation."""
    members = tuple(architecture(name, classes=100, input_shape=(3, 32, 32)) for name in names)
    dense = [count(member.create()) for member in members]
    convolutions = sum(one.by_kind["convolution"] for one in dense)
    size = Budget(str(bank), int(bank * convolutions), sum(one.total for one in dense), "bank")
    method = create(Registry().method("superweight"), {"phase": "untied", "allocation": "full", **knobs}, "superweight")
    return build(method, Problem(members, size, 100, (3, 32, 32)), Findings(), 0)


def networks() -> dict[str, nn.Module]:
    """The dense network, and one for each bank."""
    dense = architecture("wrn-16-4", classes=100, input_shape=(3, 32, 32)).create()
    return {"dense": dense, **{f"superweight {bank}x": shared(bank) for bank in STEP_LIMITS}}


def steps(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """Forward and backward."""
    built = networks()
    limits = {f"superweight {bank}x": limit for bank, limit in STEP_LIMITS.items()}
    contestants = {name: training_step(network, inputs, labels) for name, network in built.items()}
    report("Batch 32, forward and backward", contestants, rounds, limits)


def evaluations(rounds: int, inputs: Tensor) -> None:
    """Forward with kept weights, batch 32 and batch 1 (ten in a row)."""
    built = networks()
    limits = dict.fromkeys(list(built)[1:], EVALUATION_LIMIT)
    for size, times in ((32, 1), (1, 10)):
        contestants = {name: evaluation(network, inputs[:size], times) for name, network in built.items()}
        report(f"Batch {size}, evaluation", contestants, rounds, limits)


def composition(rounds: int) -> None:
    """Composition alone, forward and backward: ours, and template by template for each layer as one would write it first."""
    print("\nComposition alone, forward and backward: how many times as long plain mixing takes")
    for bank in STEP_LIMITS:
        weights = shared(bank).generator
        if not isinstance(weights, ComposedWeights):
            raise TypeError(f"superweight is expected to give ComposedWeights, not {type(weights).__name__}")
        contestants = {
            "ours": backward_of(weights, weights),
            "plain": backward_of(weights, lambda w=weights: plain(w)),
        }
        row = compare(contestants, "ours", rounds)[1]
        verdict = "ok" if row.high >= PLAIN_LIMIT else "TOO LITTLE"
        interval = f"[{row.low:.2f}, {row.high:.2f}]"
        milliseconds = row.seconds / IN_A_ROW * 1e3
        print(f"{f'{bank}x':<28} {row.median:.2f} {interval}  {milliseconds:9.2f} ms  n={row.rounds}  {verdict}")


def plain(weights: ComposedWeights) -> dict[str, Tensor]:
    """For each layer and SuperWeight, every template times its coefficient, added up; blocks are put together by cat."""
    composed = {}
    for number, cluster in enumerate(weights.clusters):
        for place, layer in enumerate(cluster.layers):
            weight = None
            for index in range(cluster.level(layer) + 1):
                key = f"{number}_{index}"
                store = weights.stores[key]
                row = weights.classes[key][cluster.users(index).index(place)]
                templates = weights.templates[store.start :][: store.templates * store.size].view(store.templates, -1)
                mixture = (templates * weights.coefficients[key][row][:, None]).sum(0)
                weight = _grown(weight, mixture, cluster.shapes[index])
            composed[layer.name] = weight
    return {layer.name: composed[layer.name] for layer in weights.layers}  # type: ignore[misc]


def _grown(weight: Tensor | None, mixture: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The next weight of a chain, by the formula of the paper: columns beside, then rows below."""
    if weight is None:
        return mixture.view(shape)
    rows, columns, *kernel = shape
    kept = weight[:rows, :columns]
    more = columns - kept.shape[1]
    if more > 0:
        size = kept.shape[0] * more * kept[0, 0].numel()
        kept, mixture = torch.cat([kept, mixture[:size].view(kept.shape[0], more, *kernel)], 1), mixture[size:]
    if rows > kept.shape[0]:
        kept = torch.cat([kept, mixture.view(rows - kept.shape[0], columns, *kernel)], 0)
    return kept


def backward_of(weights: nn.Module, make: Callable[[], dict[str, Tensor]]) -> Callable[[], object]:
    """Generate and send gradients of ones back, a few times in a row."""
    gradients = [torch.ones(weight.shape) for weight in make().values()]

    def step() -> None:
        for _ in range(IN_A_ROW):
            weights.zero_grad(set_to_none=True)
            torch.autograd.backward(list(make().values()), gradients)

    return step


def ensembles(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """Four members trained together, against four dense ones trained together, one after another in both."""
    dense = Problem(
        tuple(architecture(name, classes=100, input_shape=(3, 32, 32)) for name in MEMBERS),
        Budget("1", 1, 1),
        100,
        (3, 32, 32),
    ).create()
    built = {"dense": dense, **{f"superweight {bank}x": shared(bank, MEMBERS) for bank in STEP_LIMITS}}
    method = create(Registry().method("superweight"), {}, "superweight")
    batch = Batch(inputs, labels, torch.arange(len(labels)))

    def step(network: nn.Module) -> Callable[[], object]:
        def one() -> None:
            network.zero_grad(set_to_none=True)
            network.train()
            for loss in method.losses(network, batch, functional.cross_entropy):
                loss.backward()  # type: ignore[no-untyped-call]

        return one

    contestants = {name: step(network) for name, network in built.items()}
    report("Four members, batch 32, forward and backward", contestants, rounds, dict.fromkeys(built, MEMBERS_LIMIT))


def compiled(rounds: int, inputs: Tensor, labels: Tensor) -> None:
    """The whole network through torch.compile, against the compiled dense network."""
    built = networks()
    contestants = {
        name: training_step(torch.compile(built[name], fullgraph=True), inputs, labels)  # type: ignore[arg-type]
        for name in ("dense", "superweight 1x")
    }
    report("Batch 32, forward and backward, torch.compile", contestants, rounds, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="step,evaluation,composition,members,compile")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    inputs, labels = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    work: dict[str, Callable[[], None]] = {
        "step": lambda: steps(options.rounds, inputs, labels),
        "evaluation": lambda: evaluations(options.rounds, inputs),
        "composition": lambda: composition(options.rounds),
        "members": lambda: ensembles(options.rounds, inputs, labels),
        "compile": lambda: compiled(options.rounds, inputs, labels),
    }
    for name in options.only.split(","):
        work[name]()


if __name__ == "__main__":
    main()
