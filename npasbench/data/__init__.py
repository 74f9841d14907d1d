"""Data sets by name: what they look like, whether they are there, and their split for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from npasbench import card
from npasbench.data import cifar, digits
from npasbench.data.dataset import DataSet
from npasbench.data.normalise import normalised
from npasbench.data.root import data_root
from npasbench.errors import UnknownName, UsageError

__all__ = ["DataSet", "check", "data_root", "describe", "load"]


@dataclass(frozen=True)
class _Source:
    """A set: what is known of it without reading it, whether it is under a data root, and how it is split."""

    classes: int
    input_shape: tuple[int, int, int]
    check: Callable[[str, Path], None]
    split: Callable[[card.Data, int, Path], DataSet]


_SOURCES = {
    "digits": _Source(
        digits.CLASSES,
        digits.INPUT_SHAPE,
        check=lambda name, root: None,  # noqa: ARG005
        split=lambda data, seed, root: digits.split(data, seed),  # noqa: ARG005
    ),
    **{name: _Source(classes, cifar.INPUT_SHAPE, cifar.check, cifar.split) for name, classes in cifar.CLASSES.items()},
}


def load(data: card.Data, *, seed: int, root: Path | None = None) -> DataSet:
    """The training and test examples of a card for a seed: the same for every method, fresh tensors for every call.

    ``root`` is the folder of sets that have to be brought along; see :func:`data_root`.

    Raises:
        UnknownName: for a set that does not exist, with the nearest names.
        UsageError: for a split or an augmentation that the set cannot be given.
        DataError: if the set is not there, or damaged.
    """
    source = _source(data.set)
    _fits(data, source)
    raw = source.split(data, seed, data_root(root))
    train, test = (normalised(inputs, data.normalise) for inputs in (raw.train_inputs, raw.test_inputs))
    return replace(raw, train_inputs=train, test_inputs=test)


def check(data: card.Data, root: Path | None = None) -> None:
    """See that a card's data are there and whole, and can be augmented as it says. Raises as :func:`load` does."""
    source = _source(data.set)
    _fits(data, source)
    source.check(data.set, data_root(root))


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


def _fits(data: card.Data, source: _Source) -> None:
    """Refuse what the set cannot be given."""
    channels, *sides = source.input_shape
    smaller = min(sides)
    if data.shift >= smaller:
        raise UsageError(f"A shift of {data.shift} pixels leaves nothing of '{data.set}'; use at most {smaller - 1}.")
    if data.cutout > smaller:
        raise UsageError(f"A cutout of {data.cutout} pixels is larger than '{data.set}'; use at most {smaller}.")
    if data.normalise is not None and len(data.normalise.mean) != channels:
        given = len(data.normalise.mean)
        raise UsageError(f"normalise has {given} means, but '{data.set}' has channels: {channels}. Give one for each.")
    if data.protocol == "holdout-best":
        raise UsageError(f"'{data.set}' cannot be split for the protocol 'holdout-best'; use 'full-last'.")
