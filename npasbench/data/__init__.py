"""Data sets by name: what they look like, whether they are there, and their split for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from npasbench import card
from npasbench.data import cifar, digits, folder, imagenet
from npasbench.data.dataset import DataSet, Inputs
from npasbench.data.normalise import normalised
from npasbench.data.root import data_root
from npasbench.errors import UnknownName, UsageError

__all__ = ["DataSet", "check", "data_root", "describe", "load", "resolved"]


Shape = tuple[int, int, int]


@dataclass(frozen=True)
class _Source:
    """A set: its classes and the shape of its images, whether it is under a data root, and how it is split."""

    classes: int | None
    """None if they have to be counted."""
    input_shape: Shape | None
    """None if the card says how large the images become."""
    check: Callable[[card.Data, Path], None]
    split: Callable[[card.Data, int, Path], DataSet]
    fits: Callable[[card.Data], None] = lambda data: None  # noqa: ARG005
    """Refuses what the set cannot be given, without a look at it."""


_SOURCES = {
    "digits": _Source(
        digits.CLASSES,
        digits.INPUT_SHAPE,
        check=lambda data, root: None,  # noqa: ARG005
        split=lambda data, seed, root: digits.split(data, seed),  # noqa: ARG005
        fits=digits.fits,
    ),
    **{
        name: _Source(
            classes, cifar.INPUT_SHAPE, lambda data, root: cifar.check(data.set, root), cifar.split, cifar.fits
        )
        for name, classes in cifar.CLASSES.items()
    },
    "imagenet": _Source(
        imagenet.CLASSES, None, lambda data, root: imagenet.check(data.set, root), imagenet.split, imagenet.fits
    ),
    "folder": _Source(None, None, folder.check, folder.split),
}


def load(data: card.Data, *, seed: int, root: Path | None = None) -> DataSet:
    """The training and test examples of a card for a seed: the same for every method.

    ``root`` is the folder of sets that have to be brought along; see :func:`data_root`.

    Raises:
        UnknownName: for a set that does not exist, with the nearest names.
        UsageError: for a split or an augmentation that the set cannot be given.
        DataError: if the set is not there, or damaged.
    """
    source = _source(data.set)
    _fits(data, source)
    raw = source.split(data, seed, data_root(root))
    train, test = (_normalised(inputs, data) for inputs in (raw.train_inputs, raw.test_inputs))
    return replace(raw, train_inputs=train, test_inputs=test).under(data.protocol, seed)


def check(data: card.Data, root: Path | None = None) -> None:
    """See that a card's data are there and whole, and can be augmented as it says. Raises as :func:`load` does."""
    source = _source(data.set)
    _fits(data, source)
    source.check(data, data_root(root))


def describe(data: card.Data, root: Path | None = None) -> tuple[int, tuple[int, ...]]:
    """The number of classes and the input shape ``[channels, height, width]``; classes that no card says are counted.

    Raises:
        UnknownName: for a set that does not exist, with the nearest names.
        UsageError: for an augmentation that the set cannot be given.
        DataError: if classes have to be counted, and the folder is not there or wrongly laid out.
    """
    source = _source(data.set)
    _fits(data, source)
    known = source.classes or data.classes
    return known or folder.count_classes(data, data_root(root)), _shape(data, source)


def resolved(given: card.Card, root: Path | None = None) -> card.Card:
    """A card that says all that its fingerprint needs: of ``folder`` the number of classes, and a digest of the images.

    Raises:
        DataError: if the folder is not there, is wrongly laid out, or is not the one that the card names.
        UsageError: naming the task, for what the set cannot be given, and for metrics that it has too few classes for.
    """
    try:
        return _resolved(given, root)
    except UnknownName:
        raise
    except UsageError as error:
        raise UsageError(f"Task '{given.name}': {error}") from None


def _resolved(given: card.Card, root: Path | None) -> card.Card:
    data = given.data
    if data.set == "folder":
        _fits(data, _source(data.set))
        given = given.model_copy(update={"data": folder.resolved(data, data_root(root))})
    classes, _ = describe(given.data, root)
    if "top5" in given.metrics and classes < 5:
        raise UsageError(
            f"top5 needs five classes, and '{data.folder or data.set}' has {classes}; take it out of metrics."
        )
    return given


def _normalised(inputs: Inputs, data: card.Data) -> Inputs:
    """Of images in memory as floats, which ``split`` made anew; others are normalised when they come up."""
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return normalised(inputs, data.normalise, out=inputs)
    return inputs


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        raise UnknownName("data set", name, _SOURCES)
    return _SOURCES[name]


def _shape(data: card.Data, source: _Source) -> Shape:
    if source.input_shape is not None:
        return source.input_shape
    if data.image_size is None:
        raise UsageError(f"'{data.set}' needs an image size: write image_size = 224, say, under [data].")
    return 3, data.image_size, data.image_size


def _fits(data: card.Data, source: _Source) -> None:
    """Refuse what the set cannot be given."""
    shape = _shape(data, source)
    _is_of_its_kind(data, source)
    _can_be_augmented(data, shape)
    if data.normalise is not None and len(data.normalise.mean) != shape[0]:
        given = len(data.normalise.mean)
        raise UsageError(f"normalise has {given} means, but '{data.set}' has channels: {shape[0]}. Give one for each.")
    if data.corrupted and data.set not in cifar.CLASSES:
        known = ", ".join(cifar.CLASSES)
        raise UsageError(f"There are no corrupted test images of '{data.set}', only of {known}; remove 'corrupted'.")
    if data.corrupted and data.protocol == "tune":
        raise UsageError("The protocol 'tune' reads no test images, so no corrupted ones; remove 'corrupted'.")
    source.fits(data)


def _is_of_its_kind(data: card.Data, source: _Source) -> None:
    """See that no key is given that belongs to other sets."""
    alien = {
        "folder": source.classes is not None,
        "classes": source.classes is not None,
        "digest": source.classes is not None,
        "image_size": source.input_shape is not None,
        "resize": source.input_shape is not None,
        "crop": source.input_shape is not None,
    }
    for key, refused in alien.items():
        if refused and getattr(data, key) != card.Data.model_fields[key].default:
            raise UsageError(f"'{key}' is no key of the set '{data.set}'; remove it.")
    if data.set == "folder":
        folder.place(data, Path())
    if data.resize is not None and data.resize < (data.image_size or 0):
        raise UsageError(
            f"Resized to {data.resize} pixels an image has no centre of image_size = {data.image_size}; "
            f"give at least resize = {data.image_size}."
        )


def _can_be_augmented(data: card.Data, shape: Shape) -> None:
    smaller = min(shape[1:])
    if data.shift >= smaller:
        raise UsageError(f"A shift of {data.shift} pixels leaves nothing of '{data.set}'; use at most {smaller - 1}.")
    if data.cutout > smaller:
        raise UsageError(f"A cutout of {data.cutout} pixels is larger than '{data.set}'; use at most {smaller}.")
