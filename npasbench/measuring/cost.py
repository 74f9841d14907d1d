"""What a cell costs: multiply-adds, times, peak memory, gradients exchanged. The same for all its seeds."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from npasbench.measuring.live_bytes import LiveBytes
from npasbench.method import Batch
from npasbench.sharing.network import SharedNetwork

Losses = Callable[[nn.Module, Batch], Iterator[Tensor]]
KEYS = (
    "macs",
    "generation_macs",
    "step_seconds",
    "generation_seconds",
    "evaluation_seconds",
    "peak_memory_bytes",
    "exchanged_bytes",
)
"""What :func:`measure` gives."""


def measure(network: nn.Module, batch: Batch, losses: Losses, *, repeats: int = 5) -> dict[str, float | None]:
    """Measure a network on one batch, with the threads and on the device that it has.

    * ``macs``: multiply-adds of matrix products, convolutions and attention in one example's forward, without
      generation; for an ensemble, of all members.
    * ``generation_macs``: the same for generating all weights once. Look-ups, signs and sums count nothing.
    * ``step_seconds``: forward and backward of all losses of the batch, generation included, no optimizer step.
    * ``generation_seconds``: forward and backward of the weight generator alone.
    * ``evaluation_seconds``: forward of the batch in evaluation mode, generated weights kept.
    * ``peak_memory_bytes``: the most that one forward and backward hold at once beyond what was there before:
      activations, gradients, generated weights. On CUDA what its allocator saw, on the CPU all tensors, but not
      what a kernel allocates within itself.
    * ``exchanged_bytes``: the gradients that each process of data-parallel training hands in at every step, one for
      each trained parameter. Of shared weights that is the bank's, not those of the weights made from it.

    Times are medians of ``repeats`` after one unmeasured turn. Figures of a generator are None without one. The
    network, its gradients and the random generators stay as they are. ``losses`` brings the recipe's autocast; for
    the evaluation to run under it too, call this function under it.
    """
    devices = [batch.inputs.device] if batch.inputs.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        network = copy.deepcopy(network)
        network.zero_grad(set_to_none=True)
        step = _step(network, batch, losses)
        generation = _generation(network)
        macs, generation_macs = multiply_adds(network, batch.inputs[:1])
        network.train()
        peak = _peak_memory(step, batch.inputs.device)
        return {
            "macs": macs,
            "generation_macs": generation_macs if generation else None,
            "step_seconds": _median_seconds(step, repeats, batch.inputs.device),
            "generation_seconds": _median_seconds(generation, repeats, batch.inputs.device) if generation else None,
            "evaluation_seconds": _evaluation_seconds(network, batch, repeats),
            "peak_memory_bytes": peak,
            "exchanged_bytes": exchanged_bytes(network),
        }


def exchanged_bytes(network: nn.Module) -> int:
    """Bytes of the gradients of all trained parameters, each distinct one once; a gradient has its parameter's type."""
    return sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)


# What is measured


def _step(network: nn.Module, batch: Batch, losses: Losses) -> Callable[[], None]:
    def step() -> None:
        for loss in losses(network, batch):
            loss.backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)

    return step


def _generators(network: nn.Module) -> list[nn.Module]:
    return [module.generator for module in network.modules() if isinstance(module, SharedNetwork)]


def _generation(network: nn.Module) -> Callable[[], None] | None:
    """Forward and backward of all generators, with ones for the gradients of the weights."""
    generators = _generators(network)

    def generate() -> None:
        weights = [weight for generator in generators for weight in generator().values() if weight.requires_grad]
        if weights:
            torch.autograd.backward(
                weights, [torch.ones((), device=w.device, dtype=w.dtype).expand_as(w) for w in weights]
            )
        network.zero_grad(set_to_none=True)

    return generate if generators else None


def _evaluation_seconds(network: nn.Module, batch: Batch, repeats: int) -> float:
    network.eval()
    with torch.no_grad():
        return _median_seconds(lambda: network(batch.inputs), repeats, batch.inputs.device)


# How it is measured


def multiply_adds(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """Multiply-adds of one forward without its generators', and the generators'."""
    network.eval()
    # Gradients stay enabled, so that weights are generated anew; attention is counted as the products it consists of.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for generator in _generators(network):
            generator()
        generated: int = counter.get_total_flops()
        network(example)
        total: int = counter.get_total_flops() - generated
    # The forward generated too, so what remains of the total holds generation once more.
    return (total - generated) // 2, generated // 2


def _median_seconds(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        begun = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def wait_for(device: torch.device) -> None:
    """Let a CUDA device finish what it was given; elsewhere nothing is pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    if device.type != "cuda":
        live = LiveBytes()
        with live:
            work()
        return live.peak
    work()  # libraries keep their workspaces after the first turn
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
