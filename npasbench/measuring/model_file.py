"""``model.safetensors``: a trained network as nothing but the numbers that are counted, plus BatchNorm's running statistics.

Of a pruned parameter only what its mask keeps is stored. Masks (as packed bits) and other integers of the structure lie
beside the floats; facts are JSON in the header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from npasbench.errors import MethodError, RunError
from npasbench.method import Method, Structure
from npasbench.running.files import atomic

_RUNNING = ("running_mean", "running_var")
_HEADER_LIMIT = 50_000_000
_GROWTH = 16
_STRUCTURE_LIMIT = 256_000_000
"""Bytes. What a structure holds beside masks, the network does not tell before it is restored."""


def write_model(path: Path, method: Method, network: nn.Module) -> int:
    """Store a trained network; returns the number of trained scalars written.

    Raises:
        MethodError: if the structure hides floats.
    """
    structure = method.structure(network)
    for name, tensor in structure.tensors.items():
        if tensor.is_floating_point() or tensor.is_complex():
            raise MethodError(
                f"{method.title}.structure holds '{name}' as {tensor.dtype}; trained numbers belong into parameters."
            )
    numbers = {f"parameter.{name}": value for name, value in _stored(network, structure).items()}
    written = sum(value.numel() for value in numbers.values())
    tensors = {**numbers, **{f"running.{name}": value for name, value in _running(network).items()}}
    tensors |= {f"mask.{name}": _pack(mask) for name, mask in structure.masks.items()}
    tensors |= {f"structure.{name}": value for name, value in structure.tensors.items()}
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as file:
        file.write(save(content, metadata={"facts": json.dumps(dict(structure.facts))}))
    return written


def read_model(path: Path, method: Method, network: nn.Module) -> int:
    """Fill a newly built network from a file; whatever the file does not hold becomes NaN. Returns the scalars read.

    Raises:
        RunError: if the file is damaged or does not fit the network.
    """
    try:
        tensors, facts = _read(path, network)
        masks = {name: _unpack(bits, network.get_parameter(name)) for name, bits in _part(tensors, "mask.").items()}
        method.restore(network, Structure(masks, _part(tensors, "structure."), facts))
        return _fill(network, masks, _part(tensors, "parameter."), _part(tensors, "running."))
    except (
        SafetensorError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise RunError(f"{path} does not fit its run: {error}. Remove the run's folder and run again.") from error


def _fill(network: nn.Module, masks: dict[str, Tensor], numbers: dict[str, Tensor], running: dict[str, Tensor]) -> int:
    unknown = sorted(numbers.keys() - {name for name, _ in network.named_parameters()})
    if unknown:
        raise ValueError(f"it holds '{unknown[0][:100]}', which the network does not have")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.fill_(torch.nan)
        for name, parameter in network.named_parameters():
            if name not in numbers:
                continue
            if name in masks:
                parameter.zero_()
                parameter[masks[name].to(parameter.device)] = numbers[name].to(parameter)
            else:
                parameter.copy_(numbers[name])
        for name, buffer in _running(network).items():
            buffer.copy_(running[name])
    return sum(value.numel() for value in numbers.values())


def _stored(network: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """Every trained parameter once, masked ones as the vector of what remains."""
    return {
        name: parameter[structure.masks[name]] if name in structure.masks else parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def _running(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in network.named_buffers() if name.rpartition(".")[2] in _RUNNING}


def running_statistics(network: nn.Module) -> int:
    """Scalars in BatchNorm's running means and variances: listed apart, the same for every method on an architecture."""
    return sum(buffer.numel() for buffer in _running(network).values())


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(bits: Tensor, parameter: Tensor) -> Tensor:
    flat = np.unpackbits(bits.numpy(), count=parameter.numel()).astype(bool)
    return torch.from_numpy(flat).view(parameter.shape)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the facts, once the header says that they are no more than the network can hold."""
    header = _header(path)
    _check_sizes({name: value for name, value in header.items() if name != "__metadata__"}, network)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
    return tensors, facts


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its length in 8 bytes, then JSON."""
    if not path.is_file():
        raise ValueError("it is no plain file, or is not there")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_HEADER_LIMIT, path.stat().st_size):
            raise ValueError(f"its header claims {length:,} bytes, more than the file or any header has")
        content = json.loads(file.read(length))
    if not isinstance(content, dict):
        raise ValueError("its header is no table of tensors")
    return content


def _check_sizes(header: dict[str, Any], network: nn.Module) -> None:
    """See that it is of the order of the network's size; restoring its structure may still make the network larger."""
    values = [*network.parameters(), *network.buffers()]
    room = _GROWTH * 8 * sum(value.numel() for value in values) + _STRUCTURE_LIMIT
    claimed = 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        size = int(end) - int(begin)
        claimed += size
        if size < 0 or claimed > room:
            raise ValueError(f"'{name[:100]}' claims {size:,} bytes, more than the network has room for")
