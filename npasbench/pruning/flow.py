"""The network in which SynFlow measures: positive, and linear as far as it can be (Tanaka et al., NeurIPS 2020, section 6).

Every parameter is its absolute value and the input is all ones, so that ReLUs pass everything on. What the paper's
networks did not need is done so that flow is conserved in others too: normalisation passes its input on, which for
BatchNorm at its initial statistics is what evaluation mode does; an activation that bends or saturates, f, acts as its
gain: x times f(x) / x, the quotient held constant. torch's own multi-head layer is left as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_NORMS = frozenset({F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm, F.rms_norm})
_BENT = frozenset(
    {F.sigmoid, F.tanh, F.softmax, F.hardtanh, F.relu6, F.hardsigmoid, F.hardswish, F.silu, F.gelu, F.mish, F.softplus}
    | {torch.sigmoid, torch.tanh, torch.softmax}
    | {Tensor.sigmoid, Tensor.sigmoid_, Tensor.tanh, Tensor.tanh_, Tensor.softmax}
)
_LAYERS = frozenset(
    {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
)


def positive(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in float64 and evaluation mode whose parameters are their absolute values."""
    twin = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    return twin


class SynapticFlow(TorchFunctionMode):
    """Within it normalisation is the identity, and activations, softmax and attention act as their gains.

    If ``level``, what a linear layer or convolution gives is scaled to the root mean square of its input, by a factor
    held constant. In a chain of layers and ReLUs without biases that is one factor for all scores, whose order stays; but
    a residual branch is then worth as much beside its shortcut at every density, and does not fade as its weights go.
    """

    def __init__(self, *, level: bool) -> None:
        super().__init__()
        self.level = level

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what stands for it."""
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **given)
        if func in _LAYERS and self.level:
            return _levelled(args[0] if args else given["input"], func(*args, **given))
        if func not in _NORMS and func not in _BENT:
            return func(*args, **given)
        x, *rest = args or (given.pop("input"),)
        return x.clone() if func in _NORMS else _as_gain(x, func(x.clone(), *rest, **given))


def _as_gain(x: Tensor, value: Tensor) -> Tensor:
    """``value``, which some function made of ``x``, with the derivative ``value / x`` (0 where x is 0)."""
    gain = torch.where(x == 0, 0.0, value / x).detach()
    return value.detach() + gain * (x - x.detach())


def _levelled(given: Tensor, out: Tensor) -> Tensor:
    """``out`` at the root mean square of ``given``; as it is if it is zero."""
    now = _size(out)
    return out * torch.where(now > 0, _size(given) / now, 1.0)


def _size(values: Tensor) -> Tensor:
    return values.detach().square().mean().sqrt()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(q k^T * scale) v`` with softmax as its gain; ``[..., tokens, width]`` each, without dropout."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    products = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))  # [..., tokens, tokens]
    seen = torch.zeros_like(products)
    if is_causal:
        seen = seen.masked_fill(torch.ones_like(products, dtype=torch.bool).triu(1), -math.inf)
    if attn_mask is not None:
        seen = seen.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else seen + attn_mask
    return _as_gain(products, (products + seen).softmax(-1)) @ value
