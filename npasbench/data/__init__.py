"""Data sets by name: what they look like, and their split for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from npasbench import card
from npasbench.data import digits
from npasbench.data.dataset import DataSet
from npasbench.errors import UnknownName, UsageError

__all__ = ["DataSet", "describe", "load"]


@dataclass(frozen=True)
class _Source:
    """A set: what is known of it without reading it, and how it is split."""

    classes: int
    input_shape: tuple[int, int, int]
    split: Callable[[card.Data, int], DataSet]


_SOURCES = {"digits": _Source(digits.CLASSES, digits.INPUT_SHAPE, digits.split)}


def load(data: card.Data, *, seed: int) -> DataSet:
    """The training and test examples of a card for a seed: the same for every method, fresh tensors for every call.

    Raises:
        UnknownName: for a set that does not exist, with the nearest names.
        UsageError: for a split that the set cannot be given.
    """
    source = _source(data.set)
    smaller = min(source.input_shape[1:])
    if data.shift >= smaller:
        raise UsageError(f"A shift of {data.shift} pixels leaves nothing of '{data.set}'; use at most {smaller - 1}.")
    if data.protocol == "holdout-best":
        raise UsageError(f"'{data.set}' cannot be split for the protocol 'holdout-best'; use 'full-last'.")
    return source.split(data, seed)


def describe(set_name: str) -> tuple[int, tuple[int, ...]]:
    """The number of classes and the input shape ``[channels, height, width]`` of a set, without reading it.

    Raises:
        UnknownName: for a set that does not exist, with the nearest names.
    """
    source = _source(set_name)
    return source.classes, source.input_shape


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        raise UnknownName("data set", name, _SOURCES)
    return _SOURCES[name]
