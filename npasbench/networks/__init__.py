"""Reference architectures by name: wide residual networks, a row transformer, timm's and torchvision's."""

from __future__ import annotations

import functools

from npasbench.errors import UsageError
from npasbench.problem import Architecture

__all__ = ["architecture"]


@functools.lru_cache(maxsize=256)
def architecture(name: str, *, classes: int, input_shape: tuple[int, ...]) -> Architecture:
    """The architecture of that name, for ``classes`` classes and examples of ``input_shape``.

    Names are ``wrn-<depth>-<width>``, ``row-transformer``, ``timm:<name>``, ``torchvision:<name>``, or a bare name
    of either library (torchvision's where both have it). ``input_shape`` is ``[channels, height, width]``. timm and
    torchvision are imported only for a name of theirs, and weights are never downloaded. Whether one of their
    networks can take the inputs is seen when it is first created.

    Raises:
        UnknownName: with the nearest names.
        UsageError: for a depth that a wide residual network cannot have, for an impossible shape or class count.
    """
    _check(classes, input_shape)
    if name.startswith("wrn-"):
        from npasbench.networks.wrn import wide_resnet

        return wide_resnet(name, classes=classes, channels=input_shape[0])
    if name == "row-transformer":
        from npasbench.networks.transformer import row_transformer

        return row_transformer(classes=classes, input_shape=input_shape)
    from npasbench.networks.external import external

    return external(name, classes=classes, input_shape=input_shape)


def _check(classes: int, input_shape: tuple[int, ...]) -> None:
    if classes < 1:
        raise UsageError(f"A classifier needs at least one class, not {classes}.")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise UsageError(
            f"An input shape is [channels, height, width], all of them positive; {list(input_shape)} was given."
        )
