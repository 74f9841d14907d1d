"""What a weight is worth: scores for pruning, the larger the sooner a weight is kept.

Pure functions over named leaf parameters; each gives one score tensor for each weight, by name and of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from npasbench.errors import MethodError
from npasbench.pruning.flow import SynapticFlow

Scores = dict[str, Tensor]


def magnitude(weights: Mapping[str, Tensor]) -> Scores:
    """``|w|``."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def random(weights: Mapping[str, Tensor], rng: torch.Generator) -> Scores:
    """Uniform numbers in [0, 1) from ``rng``, a generator on the CPU."""
    return {name: torch.rand(weight.shape, generator=rng).to(weight.device) for name, weight in weights.items()}


def snip(weights: Mapping[str, Tensor], losses: Iterable[Tensor]) -> Scores:
    """``|g * w|`` with g the gradient of all losses together (Lee et al., ICLR 2019, section 4, not normalised).

    It is the magnitude of the loss's derivative with respect to a mask on the weight, at 1. Goes backward through each
    loss before it asks for the next; gradients of other parameters are left in their ``grad``.
    """
    for weight in weights.values():
        weight.grad = None
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: _taken(weight) for name, weight in weights.items()}
    return {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}


def grasp(weights: Mapping[str, Tensor], losses: Iterable[Tensor]) -> Scores:
    """``w * (H g)``, with g the gradient and H the Hessian of all losses together (Wang et al., ICLR 2020, section 4).

    The paper's score is S(-w) = -w * (H g): to first order, half the change of the gradient's squared norm when the
    weight is removed. Weights of the largest S go first, so those of the largest ``-S``, given here, are kept. The
    graphs of all losses are held until the last has come.
    """
    tensors = list(weights.values())
    with sdpa_kernel(SDPBackend.MATH), _TwiceDifferentiable():
        total = torch.stack([*losses]).sum()
        first = torch.autograd.grad(total, tensors, create_graph=True, allow_unused=True)
        reached = [gradient for gradient in first if gradient is not None and gradient.requires_grad]
        if not reached:
            raise MethodError("GraSP needs losses with a second derivative in the weights; these have none.")
        norm = torch.stack([(gradient.detach() * gradient).sum() for gradient in reached]).sum()
        second = torch.autograd.grad(norm, tensors, allow_unused=True)
    return {
        name: weight.detach() * (torch.zeros_like(weight) if product is None else product)
        for (name, weight), product in zip(weights.items(), second, strict=True)
    }


def synflow_round(
    network: nn.Module, weights: Mapping[str, Tensor], input_shape: tuple[int, ...], *, level: bool = True
) -> Scores:
    """``|w * dR/dw|``, R the sum of the network's outputs for an input of ones (Tanaka et al., NeurIPS 2020, section 6).

    ``network`` is one that :func:`~npasbench.pruning.flow.positive` gave, ``weights`` its own; for ``level`` see
    :class:`~npasbench.pruning.flow.SynapticFlow`.

    Raises:
        MethodError: if R is too large for the network's numbers.
    """
    first = next(iter(weights.values()))
    with SynapticFlow(level=level):
        total = network(torch.ones(1, *input_shape, dtype=first.dtype, device=first.device)).sum()
        if not bool(torch.isfinite(total)):
            raise MethodError(f"The synaptic flow is {float(total)}: it overflows {first.dtype}.")
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else (weight * gradient).detach().abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


class _TwiceDifferentiable(TorchFunctionMode):
    """Within it hard sigmoids are made of functions with a second derivative, as attention is by torch's plain kernel."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what stands for it."""
        given = dict(kwargs or {})
        if func is F.hardsigmoid:
            return F.relu6((args[0] if args else given["input"]) + 3) / 6
        return func(*args, **given)


def _taken(weight: Tensor) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    weight.grad = None
    return gradient
