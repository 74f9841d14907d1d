"""Which tensors share channels: found by the library Torch-Pruning (Fang et al., "DepGraph", CVPR 2023), then tried out.

What cannot be cut keeps its channels: convolutions with groups that are not depthwise, GroupNorm, channels that are
split among several layers or of which some only go together, tied and excluded weights, and the logits themselves.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.errors import MissingLibrary, UsageError
from npasbench.problem import Architecture
from npasbench.pruning.channels import ChannelGroup, Role, Slice, remove

_CONVOLUTIONS = nn.modules.conv._ConvNd
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
_NOISE, _TOLERANCE = 0.05, 1e-3


class CannotFollow(UsageError):
    """The library finds no way through a network."""


@functools.lru_cache(maxsize=16)
def channel_groups(
    architecture: Architecture, input_shape: tuple[int, ...], excluded: tuple[str, ...] = ()
) -> tuple[ChannelGroup, ...]:
    """The groups of channels of an architecture that can be removed, in network order; at least two channels each.

    ``excluded`` are patterns of modules or parameters that stay as they are.

    Raises:
        MissingLibrary: if the library is not installed.
        UsageError: without the shape of an input.
        CannotFollow: if the library itself fails.
    """
    if not input_shape:
        raise UsageError(
            "channel-l1 follows an example through the network to find its channels, and no input shape is known here; use "
            "'npasbench run'."
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(0)
        network = architecture.create().eval().requires_grad_(True)
        for parameter in network.parameters():  # what starts at zero would let everything pass
            parameter.data.add_(torch.randn_like(parameter), alpha=_NOISE)
        example = torch.randn(2, *input_shape)
        groups = [group for group in _found(network, example) if not _touches(group, excluded)]
    with torch.no_grad():
        return tuple(_tried(network, example, _apart(groups)))


def of_members(
    architectures: Sequence[Architecture], input_shape: tuple[int, ...], excluded: tuple[str, ...] = ()
) -> tuple[ChannelGroup, ...]:
    """As :func:`channel_groups`; of several architectures for the ensemble of all of them, one after another."""
    if len(architectures) == 1:
        return channel_groups(architectures[0], input_shape, excluded)
    return tuple(
        _prefixed(group, f"members.{index}.")
        for index, one in enumerate(architectures)
        for group in channel_groups(one, input_shape)
        if not _touches(_prefixed(group, f"members.{index}."), excluded)
    )


# What the library finds


def _found(network: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """The library's groups as slices, in network order, without those that hold what cannot be cut."""
    library = _library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph, items = _traced(library.DependencyGraph(), network, example)
        except Exception as error:
            what = " ".join(str(error).split()) or "no reason given"
            raise CannotFollow(f"Torch-Pruning cannot follow its channels ({type(error).__name__}: {what})") from error
    network.requires_grad_(False)
    names = _Names(network)
    groups = [_group(names, graph, one) for one in items]
    groups += [_heads(name, module) for name, module in names.attention() if module not in graph.module2node]
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    return sorted((group for group in groups if group), key=lambda group: order[group.name])


def _traced(graph: Any, network: nn.Module, example: Tensor) -> tuple[Any, list[list[Any]]]:
    """The library's graph, and of each of its groups the items."""
    graph.build_dependency(network, example, forward_fn=lambda model, images: model(images), verbose=False)
    return graph, [list(group) for group in graph.get_all_groups()]


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise MissingLibrary(
            "channel-l1 needs the library Torch-Pruning, which is not installed: pip install 'npasbench[pruning]'."
        ) from None
    return torch_pruning


class _Names:
    """What a network calls its modules and parameters, and which parameters stand in several places."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.modules = {id(module): name for name, module in network.named_modules()}
        self.parameters = {id(parameter): name for name, parameter in network.named_parameters()}
        places = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))
        self.tied = {one for one, number in places.items() if number > 1}

    def attention(self) -> list[tuple[str, nn.MultiheadAttention]]:
        """Attention modules with one packed input projection."""
        every = ((name, one) for name, one in self.network.named_modules() if isinstance(one, nn.MultiheadAttention))
        return [(name, one) for name, one in every if one.in_proj_weight is not None]

    def cuts(self, target: Any, outputs: bool) -> list[tuple[str, str, int, Role]] | None:
        """Owner, tensor, dimension and role of what one of the library's nodes cuts; None where it cannot be cut."""
        if isinstance(target.module, nn.Parameter):
            owner, _, local = self.parameters[id(target.module)].rpartition(".")
            return [(owner, local, target.pruning_dim % target.module.dim(), "carries")]
        name = self.modules.get(id(target.module))
        if name is None:
            return []  # an operation without parameters
        packed = name.removesuffix(".out_proj")
        if name != packed and packed in dict(self.attention()) and not outputs:
            # What reaches attention's output from its input has gone through the packed projection, a bare parameter.
            return [(packed, "in_proj_weight", 1, "reads")]
        cuts = _cuts(target.module, outputs)
        return None if cuts is None else [(name, *one) for one in cuts]


def _group(names: _Names, graph: Any, items: Sequence[Any]) -> ChannelGroup | None:
    """One of the library's groups; None if something in it cannot be cut, or is cut for some channels only, or none reads."""
    channels = len(items[0].idxs)
    slices: list[Slice] = []
    for item in items:
        cuts = names.cuts(item.dep.target, graph.is_out_channel_pruning_fn(item.dep.handler))
        if cuts is None:
            return None
        positions = _positions(item, channels) if cuts else ()
        if positions is None:
            return None
        slices += [Slice(owner, tensor, dim, positions, role) for owner, tensor, dim, role in cuts]
    if any(id(getattr(names.network.get_submodule(one.module), one.tensor)) in names.tied for one in slices):
        return None
    makers = {one.module for one in slices if one.role == "makes"}
    first = next((name for name in names.modules.values() if name in makers), None)
    if first is None or channels < 2 or not any(one.role == "reads" for one in slices):
        return None
    return ChannelGroup(first, channels, tuple(slices))


def _heads(name: str, attention: nn.MultiheadAttention) -> ChannelGroup | None:
    """The inner channels of an attention module: a channel is the same place in every head of queries, keys and values."""
    width, number = attention.embed_dim, attention.num_heads
    inner = width // number
    places = [[head * inner + channel for head in range(number)] for channel in range(inner)]
    packed = tuple(tuple(part * width + one for part in range(3) for one in own) for own in places)
    rows = Slice(name, "in_proj_weight", 0, packed, "makes")
    columns = Slice(f"{name}.out_proj", "weight", 1, tuple(map(tuple, places)), "reads")
    bias = () if attention.in_proj_bias is None else (Slice(name, "in_proj_bias", 0, packed, "carries"),)
    return ChannelGroup(name, inner, (rows, *bias, columns)) if inner > 1 else None


def _positions(item: Any, channels: int) -> tuple[tuple[int, ...], ...] | None:
    """Where each channel lies; None unless each has as many positions as the others."""
    positions: list[list[int]] = [[] for _ in range(channels)]
    for index, root in zip(item.idxs, item.root_idxs, strict=True):
        if root is None:
            return None
        positions[root].append(index)
    return tuple(map(tuple, positions)) if len({len(one) for one in positions}) == 1 and positions[0] else None


def _cuts(module: nn.Module, outputs: bool) -> list[tuple[str, int, Role]] | None:
    """The tensors of a module, with dimension and role, that removing outputs or inputs cuts; None where it cannot be."""
    if isinstance(module, _CONVOLUTIONS):
        return _cuts_of_convolution(module, outputs)
    if isinstance(module, nn.Linear):
        return _with_bias(module, [("weight", 0, "makes")]) if outputs else [("weight", 1, "reads")]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [(name, 0, "carries") for name in _STATISTICS if getattr(module, name, None) is not None]
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and module.elementwise_affine:
        return _with_bias(module, [("weight", 0, "carries")])
    if isinstance(module, nn.PReLU):
        return [("weight", 0, "carries")] if module.num_parameters > 1 else []
    if isinstance(module, nn.Embedding):
        return [("weight", 1, "makes")]
    return [] if not any(True for _ in module.parameters(recurse=False)) else None


def _cuts_of_convolution(module: nn.modules.conv._ConvNd, outputs: bool) -> list[tuple[str, int, Role]] | None:
    if module.groups > 1:
        depthwise = module.groups == module.out_channels == module.in_channels
        return _with_bias(module, [("weight", 0, "makes")]) if depthwise else None
    if outputs:
        return _with_bias(module, [("weight", int(module.transposed), "makes")])
    return [("weight", int(not module.transposed), "reads")]


def _with_bias(module: Any, cuts: list[tuple[str, int, Role]]) -> list[tuple[str, int, Role]]:
    return cuts if module.bias is None else [*cuts, ("bias", 0, "carries")]


# What may be cut


def _touches(group: ChannelGroup, excluded: Sequence[str]) -> bool:
    names = {".".join(one.name.split(".")[:end]) for one in group.slices for end in range(1, one.name.count(".") + 2)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in excluded)


def _apart(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """The groups that share no position with an earlier one."""
    taken: set[tuple[str, int, int]] = set()
    apart = []
    for group in groups:
        own = {(one.name, one.dim, place) for one in group.slices for places in one.positions for place in places}
        if not own & taken:
            taken |= own
            apart.append(group)
    return apart


def _tried(network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """The groups half of whose channels can be removed without a fault, found by halving."""
    sound = _sound(network, example, groups)
    return sound if len(sound) == len(groups) or _works(network, example, sound) else []


def _sound(network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    if not groups or _works(network, example, groups):
        return list(groups)
    half = len(groups) // 2
    return [*_sound(network, example, groups[:half]), *_sound(network, example, groups[half:])] if half else []


def _works(network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> bool:
    """Whether channels of all groups can be removed, and removing them is the same as letting nobody read them.

    Under a LayerNorm or in attention the others would change too, so there only the logits' shape is looked at.
    """
    logits = _without(network, example, groups)
    if logits is None or logits.shape != network(example).shape:
        return False
    simple = [group for group in groups if not _mixes(network, group)]
    unread = copy.deepcopy(network)
    for one in (one for group in simple for one in group.slices if one.role == "reads"):
        gone = [place for places in one.positions[1::2] for place in places]
        unread.get_parameter(one.name).index_fill_(one.dim, torch.tensor(gone), 0.0)
    found = logits if len(simple) == len(groups) else _without(network, example, simple)
    return found is not None and torch.allclose(found, unread(example), rtol=_TOLERANCE, atol=_TOLERANCE)


def _without(network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> Tensor | None:
    """The logits with every second channel of the groups removed; None if there are none."""
    smaller = copy.deepcopy(network)
    remove(smaller, groups, {group.name: torch.arange(group.channels) % 2 == 0 for group in groups})
    try:
        logits = smaller(example)
    except Exception:
        return None
    return logits if isinstance(logits, Tensor) else None


def _mixes(network: nn.Module, group: ChannelGroup) -> bool:
    """Whether some statistic or product runs over all channels of a group."""
    owners = (network.get_submodule(one.module) for one in group.slices if one.role != "reads")
    return any(isinstance(owner, nn.LayerNorm | nn.MultiheadAttention) for owner in owners)


def _prefixed(group: ChannelGroup, prefix: str) -> ChannelGroup:
    slices = tuple(Slice(f"{prefix}{one.module}", one.tensor, one.dim, one.positions, one.role) for one in group.slices)
    return ChannelGroup(prefix + group.name, group.channels, slices)
