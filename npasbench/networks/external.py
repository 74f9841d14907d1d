"""timm's and torchvision's classifiers by name, for any number of classes and input size, with fresh weights.

Whether a network can take the inputs, and whether it can be had in other widths, is tried on the meta device, which costs
neither memory nor random numbers.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.errors import UnknownName, UsageError
from npasbench.networks.widths import Widths, find_widths
from npasbench.problem import Architecture

Shape = tuple[int, ...]

_FORMS = ("wrn-<depth>-<width>", "row-transformer", "torchvision:<name>", "timm:<name>")
_EXAMPLES = ("wrn-10-1", "wrn-16-2", "wrn-28-10")
_SIZES = (8, 16, 32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
_TORCHVISION_SIZE_SETTINGS = {"vit_": "image_size", "maxvit_": "input_size"}


def external(name: str, *, classes: int, input_shape: Shape) -> Architecture:
    """The architecture ``timm:<name>``, ``torchvision:<name>`` or ``<name>``, torchvision's if both have it.

    Raises:
        UnknownName: with the nearest names of the libraries.
        UsageError: for a timm name with a tag of pretrained weights. When the network is created: if it is no
            classifier or cannot take inputs of this shape; then with a size that it can take.
    """
    library, model = _find(name)
    network = (library, model, classes, input_shape)
    return Architecture(name, functools.partial(_create, *network), scales=functools.partial(_scales, *network))


def _create(library: Library, model: str, classes: int, shape: Shape, width: float = 1.0) -> nn.Module:
    _check(library, model, classes, shape)
    widths = None if width == 1.0 else _widths(library, model, classes, shape)
    if widths is not None:
        try:
            return widths.create(width, functools.partial(library.build, model, classes, shape))
        except ValueError as error:
            raise UsageError(f"{library.name}:{model} cannot be built at width {width:g} ({error}).") from error
    if torch.get_default_device().type == "meta" and _fault(library, model, classes, shape, "meta") is not None:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return library.build(model, classes, shape).to("meta")
    return library.build(model, classes, shape)


def _scales(library: Library, model: str, classes: int, shape: Shape) -> bool:
    return _widths(library, model, classes, shape) is not None


@functools.cache
def _widths(library: Library, model: str, classes: int, shape: Shape) -> Widths | None:
    """How the network gets another width, found out once a process."""
    _check(library, model, classes, shape)
    given = (library.channels or shape[0], *shape[1:])
    return find_widths(lambda number: library.build(model, number, given), classes, given)


# Finding names


@dataclass(frozen=True)
class Library:
    """Where networks come from: the names that it knows, and how it builds one for classes and an input shape.

    ``channels`` are those that its constructors know; for others the first layer is replaced afterwards (None: any).
    """

    name: str
    names: Callable[[], list[str]]
    build: Callable[[str, int, Shape], nn.Module]
    channels: int | None = None


def _find(name: str) -> tuple[Library, str]:
    prefix, colon, model = name.rpartition(":")
    libraries = [library for library in LIBRARIES if not colon or library.name == prefix]
    for library in libraries:
        if model in library.names():
            return library, model
        if library.name == "timm" and model.partition(".")[0] in library.names():
            plain = f"timm:{model.partition('.')[0]}"
            raise UsageError(f"'{name}' names pretrained weights, which are never used; write '{plain}'.")
    lead = f"{prefix}:" if libraries and colon else ""
    known = sorted({one for library in libraries for one in library.names()} | set(() if lead else _EXAMPLES))
    near = [lead + one for one in difflib.get_close_matches(model, known, n=3, cutoff=0.5)]
    hint = "All others: timm.list_models(), torchvision.models.list_models()."
    raise UnknownName("architecture", name, [*_FORMS, *near], hint)


# Building


def _build_torchvision(model: str, classes: int, shape: Shape) -> nn.Module:
    from torchvision import models

    channels, height, width = shape
    settings: dict[str, object] = {}
    if model in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    for start, key in _TORCHVISION_SIZE_SETTINGS.items():
        if model.startswith(start):
            settings[key] = height if key == "image_size" else (height, width)
    network: nn.Module = models.get_model(model, weights=None, num_classes=classes, **settings)
    if channels != 3:
        _replace_stem(network, channels)
    return network


def _replace_stem(network: nn.Module, channels: int) -> None:
    """Give the first convolution ``channels`` inputs, and normal weights that keep its outputs' deviation."""
    convolutions = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    name, stem = next(convolutions)
    new = nn.Conv2d(
        channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stride=stem.stride,  # type: ignore[arg-type]
        padding=stem.padding,  # type: ignore[arg-type]
        bias=stem.bias is not None,
    )
    with torch.no_grad():
        if not new.weight.is_meta:
            new.weight.normal_(0, float(stem.weight.std()) * (3 / channels) ** 0.5)
    if stem.bias is not None:
        new.bias = stem.bias
    network.set_submodule(name, new)


def _build_timm(model: str, classes: int, shape: Shape) -> nn.Module:
    import timm

    settings: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": shape[0]}
    state = torch.get_rng_state()
    try:
        network: nn.Module = timm.create_model(model, img_size=tuple(shape[1:]), **settings)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        torch.set_rng_state(state)
        network = timm.create_model(model, **settings)
    return network


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


LIBRARIES = (
    Library("torchvision", _torchvision_names, _build_torchvision, channels=3),
    Library("timm", _timm_names, _build_timm),
)


# Trying


@functools.cache
def _check(library: Library, model: str, classes: int, shape: Shape) -> None:
    """See once a process whether the network turns two examples into two rows of logits."""
    if _fault(library, model, classes, shape, "meta") is None:
        return
    fault = _fault(library, model, classes, shape, "cpu")  # some networks cannot be built on the meta device
    if fault is None:
        return
    nearest = sorted(_SIZES, key=lambda size: abs(size - max(shape[1:])))
    sizes = ((shape[0], size, size) for size in nearest)
    works = next((size for size in sizes if _fault(library, model, classes, size, "meta") is None), None)
    advice = f"It can take {list(works)}: resize the images, or choose" if works else "Choose"
    raise UsageError(
        f"{library.name}:{model} cannot classify inputs of shape {list(shape)} ({fault}). "
        f"{advice} another architecture."
    )


def _fault(library: Library, model: str, classes: int, shape: Shape, device: str) -> str | None:
    """What goes wrong in one forward of a throw-away network in training mode, or None."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device(device):
        try:
            logits = library.build(model, classes, shape).train()(torch.zeros(2, *shape))
        except Exception as error:
            return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(logits, Tensor) and tuple(logits.shape) == (2, classes):
        return None
    return "it does not return one row of logits for each image, so it is no plain classifier"
