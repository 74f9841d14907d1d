"""``npasbench data``: whether the data of a task are there, and getting them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.options import data_root_option, json_option

if TYPE_CHECKING:
    from npasbench.card import Card, Data
    from npasbench.errors import DataError


@dataclass(frozen=True)
class Found:
    """What was found of one set; one that is optional is missed by nobody."""

    set: str
    tasks: tuple[str, ...]
    ready: bool
    optional: bool
    said: str
    wrong: bool = False
    """A card asks for what the set cannot give."""


@click.group("data")
def data() -> None:
    """Check whether the data of a task or suite are there, or prepare them.

    \b
    Example:  npasbench data check cifar100-wrn-16-4
    """


@data.command("check")
@click.argument("name", metavar="SUITE|TASK")
@click.option("--quick", is_flag=True, help="List images, but decode none.")
@data_root_option
@json_option
def check_data(name: str, quick: bool, data_root: Path | None, as_json: bool) -> None:
    """Say which data of a task or suite are missing or damaged, and how to get them. Exits 1 if any are.

    Images in files are decoded, once: those that have not changed since are not decoded again.

    \b
    Example:  npasbench data check cifar100-wrn-16-4 --data-root data
    """
    from npasbench.data import corrupted
    from npasbench.data.checking import WHOLE, look
    from npasbench.data.prepare import preparable, preparable_corrupted
    from npasbench.errors import DataError

    def whole(data: Data, root: Path) -> str:
        try:
            return look(data, root, decode=not quick, tell=_tell)
        except DataError as error:
            raise _advised(error, preparable(data, root), name, data_root) from None

    def whole_corrupted(data: Data, root: Path) -> str:
        try:
            corrupted.read(data, root)
        except DataError as error:
            raise _advised(error, preparable_corrupted(data, root), name, data_root) from None
        return WHOLE

    _report(name, data_root, as_json, whole, whole_corrupted)


@data.command("prepare")
@click.argument("name", metavar="SUITE|TASK")
@click.option("--quick", is_flag=True, help="List images, but decode none.")
@data_root_option
@json_option
def prepare_data(name: str, quick: bool, data_root: Path | None, as_json: bool) -> None:
    """Download what torchvision can (CIFAR), unpack archives that lie there (ImageNet, CIFAR-C), say how to get the rest.

    Ends as 'check' does: says what is still missing or damaged, and exits 1 if anything is.

    \b
    Example:  npasbench data prepare cifar100-wrn-16-4 --data-root data
    """
    from npasbench.data.prepare import prepare, prepare_corrupted

    def prepared(data: Data, root: Path) -> str:
        return prepare(data, root, decode=not quick, tell=_tell)

    _report(name, data_root, as_json, prepared, prepare_corrupted)


def _report(
    name: str,
    data_root: Path | None,
    as_json: bool,
    look: Callable[[Data, Path], str],
    look_at_corrupted: Callable[[Data, Path], str],
) -> None:
    """Look at every set of a task or suite, say what was found, and end with 1 if one that is needed is not ready."""
    from npasbench import data as sets
    from npasbench.data import corrupted

    root = sets.data_root(data_root)
    found = []
    for called, cards in _by_set(name).items():
        found.append(_found(called, cards, root, look))
        asking = [card for card in cards if card.data.corrupted and card.data.set in corrupted.FOLDERS]
        if asking:
            found.append(_corrupted(corrupted.FOLDERS[asking[0].data.set], asking, root, look_at_corrupted))
    if as_json:
        click.echo(json.dumps({"data_root": str(root), "sets": [asdict(one) for one in found]}, indent=1))
    else:
        for one in found:
            click.echo(f"{_mark(one)}  {one.set}: {one.said}")
    sys.exit(0 if all(one.ready or one.optional for one in found) else 1)


def _tell(done: int, of: int) -> None:
    """How far the images have been decoded, on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {of:,} images decoded", err=True, nl=done == of)


def _advised(error: DataError, preparable: bool, name: str, data_root: Path | None) -> DataError:
    """With the command that gets what is missing, if it can."""
    if not preparable:
        return error
    words = ["npasbench", "data", "prepare", name, *(["--data-root", str(data_root)] if data_root else [])]
    return type(error)(f"{error}\n  Or have it done: {shlex.join(words)}")


def _found(called: str, cards: list[Card], root: Path, look: Callable[[Data, Path], str]) -> Found:
    """What all cards of a set find there; each of them may ask for something that it cannot give."""
    from npasbench.errors import DataError, UsageError

    tasks, said, wrong = tuple(card.name for card in cards), "", []
    for data in dict.fromkeys(card.data for card in cards):
        try:
            said = look(data, root)
        except UsageError as error:
            wrong += [f"Task '{card.name}': {error}" for card in cards if card.data == data]
        except DataError as error:
            return Found(called, tasks, False, False, str(error))
    return Found(called, tasks, not wrong, False, "\n  ".join(wrong) or said, bool(wrong))


def _corrupted(called: str, cards: list[Card], root: Path, look: Callable[[Data, Path], str]) -> Found:
    from npasbench.errors import DataError

    tasks = tuple(card.name for card in cards)
    try:
        return Found(called, tasks, True, True, look(cards[0].data, root))
    except DataError as error:
        return Found(called, tasks, False, True, str(error))


def _mark(one: Found) -> str:
    if one.ready:
        return click.style("ok      ", fg="green")
    if one.wrong:
        return click.style("wrong   ", fg="red")
    return click.style("optional", fg="yellow") if one.optional else click.style("missing ", fg="red")


def _by_set(name: str) -> dict[str, list[Card]]:
    """The cards of a task or suite, by what their sets are called."""
    from npasbench.card import Suite
    from npasbench.registry import Registry

    registry = Registry()
    named = registry.suite_or_card(name)
    cards = [registry.card(task) for task in named.tasks] if isinstance(named, Suite) else [named]
    by_set: dict[str, list[Card]] = {}
    for card in cards:
        by_set.setdefault(getattr(card.data, "folder", None) or card.data.set, []).append(card)
    return by_set
