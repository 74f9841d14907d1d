"""Counting trained scalars, by kind: the number that a budget is held against.

Every trained parameter counts once, however many slots or views it has. A pruned parameter counts what its mask keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from npasbench.errors import UsageError

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_MIXING = frozenset({"coefficients", "embeddings", "scales", "projections", "upsamplers"})
"""Kinds of a generator's parameters that only choose among its others, mix or resize them; all others are its bank."""
_WEIGHTS = frozenset({"convolution", "linear", "attention", "embedding", "classifier"})


@dataclass(frozen=True)
class Count:
    """Trained scalars by kind."""

    by_kind: Mapping[str, int]
    bank_params: int
    """The papers' count: what weights are generated from, or where nothing is generated the layers' own weights.

    Norms and biases are not in it, nor what only mixes, chooses or resizes shared values.
    """

    @property
    def total(self) -> int:
        """All trained scalars needed at inference."""
        return sum(self.by_kind.values())

    def held(self, accounting: str) -> int:
        """What a budget limits: the total, or under bank accounting the papers' count."""
        return self.bank_params if accounting == "bank" else self.total

    def as_dict(self) -> dict[str, int]:
        """By kind, and ``total`` last."""
        return {**self.by_kind, "total": self.total}


def rounding(network: nn.Module, accounting: str) -> int:
    """By how much a network may miss its budget: nothing, but under the papers' count half a scalar for each bank.

    The papers round every group's share of a budget by itself, so that the banks' sum may lie above it.
    """
    banks = sum(kind == "bank" for kind in parameter_kinds(network).values())
    return banks // 2 if accounting == "bank" else 0


def count(network: nn.Module, *, masks: Mapping[str, Tensor] | None = None) -> Count:
    """Count the trained scalars of a network.

    ``masks`` holds bool tensors by parameter name; without it the network's own ``masks`` are used if it has some.
    Kinds of a weight generator's parameters are the first part of their names (*bank*, *coefficients*, ...); others are
    *convolution*, *linear*, *attention*, *embedding*, *classifier* (each network's last linear layer, its bias included
    unless its weight is generated), *norm*, *bias* or *other*.

    Raises:
        UsageError: for a network whose parameters are not yet initialised (lazy modules).
    """
    if masks is None:
        own = getattr(network, "masks", None)
        masks = own if isinstance(own, Mapping) else {}
    kinds = parameter_kinds(network)
    room = _storage_sizes(network)
    prefixes = _generators(network)
    by_kind: dict[str, int] = {}
    made_from, own = 0, 0
    generated = False
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        storage = parameter.untyped_storage()._cdata
        number = int(masks[name].sum()) if name in masks else min(parameter.numel(), room[storage])
        room[storage] -= min(parameter.numel(), room[storage])
        by_kind[kinds[name]] = by_kind.get(kinds[name], 0) + number
        if name.rpartition(".")[2] == "bias":
            continue
        if not name.startswith(prefixes):
            own += number if kinds[name] in _WEIGHTS else 0
        elif kinds[name] not in _MIXING:
            made_from, generated = made_from + number, True
    return Count(by_kind, made_from if generated else own)


def parameter_kinds(network: nn.Module) -> dict[str, str]:
    """The kind of each parameter, by its name in the network."""
    prefixes = _generators(network)
    classifiers = _classifiers(network)
    kinds = {}
    for name, _ in network.named_parameters():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is not None:
            kinds[name] = name.removeprefix(prefix).split(".")[0]
        else:
            owner, _, local = name.rpartition(".")
            kinds[name] = "classifier" if name in classifiers else _kind(network.get_submodule(owner), local)
    return kinds


def _generators(network: nn.Module) -> tuple[str, ...]:
    """What the names of weight generators' parameters begin with."""
    from npasbench.sharing.network import SharedNetwork

    shared = [name for name, module in network.named_modules() if isinstance(module, SharedNetwork)]
    return tuple(f"{name}.generator." if name else "generator." for name in shared)


def _kind(module: nn.Module, local: str) -> str:
    if isinstance(module, NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    if local.startswith("bias") or local.endswith("_bias"):
        return "bias"
    if isinstance(module, nn.modules.conv._ConvNd) and local == "weight":
        return "convolution"
    if isinstance(module, nn.Linear) and local == "weight":
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.MultiheadAttention) and local.endswith("proj_weight"):
        return "attention"
    return "other"


def _classifiers(network: nn.Module) -> set[str]:
    """Weight and bias of the last linear layer of the network, or of each member of an ensemble, if not generated."""
    from npasbench.networks.members import Members

    roots = {
        f"{name}.members.{index}".lstrip("."): member
        for name, module in network.named_modules()
        if isinstance(module, Members)
        for index, member in enumerate(module.members)
    } or {"": network}
    found = set()
    for prefix, root in roots.items():
        linear = [name for name, module in root.named_modules() if isinstance(module, nn.Linear)]
        if linear and root.get_submodule(linear[-1])._parameters["weight"] is not None:
            found |= {".".join(part for part in (prefix, linear[-1], local) if part) for local in ("weight", "bias")}
    return found


def _storage_sizes(network: nn.Module) -> dict[int, int]:
    """Scalars that each storage can hold: parameters that are views of one storage share this room."""
    sizes = {}
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UsageError(f"'{name}' belongs to a lazy module: run one batch through the network first.")
        storage = parameter.untyped_storage()
        sizes[storage._cdata] = storage.nbytes() // parameter.element_size()
    return sizes
