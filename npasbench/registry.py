"""Where names become methods, add-ons, cards and suites: entry points and ``--plugin`` files, looked up when asked for.

Entry-point groups: ``npasbench.methods`` (a :class:`~npasbench.method.Method` class each), ``npasbench.addons`` (an
:class:`~npasbench.addon.AddOn` class each) and ``npasbench.tasks`` (a package that holds cards ``*.toml`` and
``suites/*.toml``). A plugin that fails to import is named with its error when it is asked for, and stops nobody else. No
plugin replaces a method: a name has one owner.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from npasbench.added import Added, read_addon
from npasbench.card import Card, Suite, kind_of, read_card, read_suite
from npasbench.errors import CardError, PluginError, PluginWarning, UnknownName, UsageError
from npasbench.sources import Source, installed, origin, plugged, say, source_hash, taken

if TYPE_CHECKING:
    from npasbench.addon import AddOn
    from npasbench.method import Knobs, Method

TASKS = "npasbench.tasks"
_OWN_METHOD = "A method of your own is named with --plugin FILE.py."
_OWN_ADDON = "An add-on of your own is named with --plugin FILE.py."


class Registry:
    """All methods, add-ons, cards and suites that can be named, given the ``--plugin`` files or modules of this call."""

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        named = (str(Path(p).resolve()) if p.endswith(".py") else p for p in plugins)
        self.plugins = tuple(dict.fromkeys(named))

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every method by name. A plugin that cannot be imported is warned of, with its error, and stops nobody else.

        Raises:
            UsageError: if a plugin is not there, or names a method or add-on as another is named already.
        """
        return {name: source for name, source in self._all.items() if source.kind == "method"}

    @cached_property
    def addons(self) -> dict[str, Source]:
        """Every add-on by name; warnings and errors as for :attr:`sources`."""
        return {name: source for name, source in self._all.items() if source.kind == "add-on"}

    @cached_property
    def _all(self) -> dict[str, Source]:
        found, broken = self._found
        for error in broken:
            warnings.warn(str(error), PluginWarning, stacklevel=3)
        return found

    @cached_property
    def _found(self) -> tuple[dict[str, Source], list[PluginError]]:
        """Every method and add-on by name, and what is wrong with plugins that cannot be imported."""
        found, broken = installed(), []
        for plugin in self.plugins:
            try:
                brought = plugged(plugin)
            except PluginError as error:
                broken.append(error)
                continue
            for source in brought:
                if source.name in found:
                    raise UsageError(taken(source, found[source.name]))
                found[source.name] = source
        return dict(sorted(found.items())), broken

    def method(self, name: str) -> type[Method]:
        """The class of a method.

        Raises:
            UnknownName: with the nearest names.
            PluginError: if its plugin cannot be imported.
            UsageError: if a plugin is not there, or names a method as another is named already.
        """
        self._complain_instead_of_missing(name)
        if name in self.addons:
            raise UsageError(f"'{name}' is an add-on, not a method. Name a method, and give it --with {name}.")
        if name not in self.sources:
            raise UnknownName("method", name, self.sources, _OWN_METHOD)
        return self.sources[name].load()

    def addon(self, name: str) -> type[AddOn]:
        """The class of an add-on; errors as for :meth:`method`."""
        self._complain_instead_of_missing(name)
        if name in self.sources:
            raise UsageError(f"'{name}' is a method, not an add-on ('npasbench list addons'). Name it with --method.")
        if name not in self.addons:
            raise UnknownName("add-on", name, self.addons, _OWN_ADDON)
        return self.addons[name].load_addon()

    def assemble(self, name: str, knobs: dict[str, Any], added: Sequence[tuple[str, dict[str, Any]]] = ()) -> Method:
        """A method with its knobs set, within its add-ons in the order in which they are given, each with its knobs.

        Raises:
            UnknownName: for a name or knob that is not known, with the nearest ones.
            UsageError: for a value that a knob does not take, or an add-on given twice.
        """
        method = create(self.method(name), knobs, name)
        for number, (addon, own) in enumerate(added):
            if addon in [earlier for earlier, _ in added[:number]]:
                raise UsageError(f"The add-on '{addon}' is given twice. Keep one.")
            chosen = self.addon(addon)
            settings = _settings(chosen, own, addon)
            method = chosen(method, settings, lambda other: create(self.method(other), {}, other))
        return method

    def resolve(self, name: str, knobs: dict[str, Any], words: Sequence[str]) -> tuple[Method, tuple[Added, ...]]:
        """The same from add-ons as they are written, with what a run's spec says of them."""
        from npasbench.addon import around

        pairs = [read_addon(word) for word in words]
        method = self.assemble(name, knobs, pairs)
        added = (
            Added(
                name=addon,
                version=one.version,
                knobs=one.settings.model_dump(mode="json"),
                uses={other.name: other.version for other in one.uses()},
            )
            for (addon, _), one in zip(pairs, around(method), strict=True)
        )
        return method, tuple(added)

    def _complain_instead_of_missing(self, name: str) -> None:
        """Of a name that is not there, a broken plugin may be the reason."""
        found, broken = self._found
        if name not in found and broken:
            raise broken[0]

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every installed card and suite by name."""
        folders = [Path(folder) for e in entry_points(group=TASKS) for folder in _folders(e)]
        return {
            path.stem: path
            for folder in folders
            for path in sorted([*folder.glob("*.toml"), *folder.glob("suites/*.toml")])
        }

    def names(self, kind: type[Card] | type[Suite]) -> list[str]:
        """The names of all installed cards, or of all suites."""
        return [name for name, path in self.files.items() if (path.parent.name == "suites") == (kind is Suite)]

    def card(self, name: str) -> Card:
        """A card by name, or by the path of its file.

        Raises:
            UnknownName: with the nearest names.
            CardError: if the file is broken.
        """
        if name.endswith(".toml"):
            return read_card(Path(name))
        if name not in self.names(Card):
            raise UnknownName(
                "task", name, self.names(Card), "A card of your own is named by its path, ending in .toml."
            )
        card = read_card(self.files[name])
        if card.name != name:
            raise CardError(f"{self.files[name]} holds the task '{card.name}'; give file and task one name.")
        return card

    def suite_or_card(self, name: str) -> Suite | Card:
        """A suite or a card, by name or path; errors as for :meth:`card`."""
        if name.endswith(".toml"):
            return read_suite(Path(name)) if kind_of(Path(name)) is Suite else read_card(Path(name))
        if name not in self.files:
            raise UnknownName(
                "task or suite", name, self.files, "One of your own is named by its path, ending in .toml."
            )
        return read_suite(self.files[name]) if name in self.names(Suite) else self.card(name)


def create(method: type[Method], knobs: dict[str, Any], name: str) -> Method:
    """A method with its knobs set.

    Raises:
        UnknownName: for a knob that the method does not have.
        UsageError: for a value that a knob does not take.
    """
    return method(_settings(method, knobs, name))


def _settings(method: type[Method], knobs: dict[str, Any], name: str) -> Knobs:
    known = set(method.knobs.model_fields)
    for knob in knobs:
        if knob not in known:
            raise UnknownName(f"knob of {name}", knob, known)
    try:
        return method.knobs.model_validate(knobs)
    except ValidationError as error:
        raise UsageError(_complaint(error, knobs, name)) from None


def _complaint(error: ValidationError, knobs: dict[str, Any], name: str) -> str:
    """One sentence about the first knob that was given a wrong value, whatever kinds of values it takes."""
    first = error.errors()[0]
    if not first["loc"]:
        return f"The knobs of {name} do not go together: {first['msg'].removeprefix('Value error, ')}."
    knob = str(first["loc"][0])
    own = [one["msg"].removeprefix("Value error, ") for one in error.errors() if one["loc"][:1] == first["loc"][:1]]
    messages = list(dict.fromkeys(own))
    joined = "; or: ".join(messages[:3])
    return f"Knob '{knob}' of {name} was given {knobs.get(knob)!r}: {joined}."


def _folders(entry_point: EntryPoint) -> list[str]:
    """The folders of a package of tasks, without importing it; one that is not there is warned about and stops no other."""
    try:
        spec = importlib.util.find_spec(entry_point.value)
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{entry_point.value}'")
    except Exception as error:
        warnings.warn(
            f"Tasks '{entry_point.name}' ({origin(entry_point)}) cannot be found: {say(error)}.",
            PluginWarning,
            stacklevel=2,
        )
        return []
    return list(spec.submodule_search_locations or [])


__all__ = ["TASKS", "Registry", "Source", "create", "source_hash"]
