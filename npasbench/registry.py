"""Where names become methods, cards and suites: entry points and ``--plugin`` files, looked up when asked for.

Entry-point groups: ``npasbench.methods`` (a :class:`~npasbench.method.Method` class each) and ``npasbench.tasks`` (a
package that holds cards ``*.toml`` and ``suites/*.toml``). A plugin that fails to import is named with its error when
it is asked for, and stops nobody else. No plugin replaces a method: a name has one owner.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from npasbench.card import Card, Suite, kind_of, read_card, read_suite
from npasbench.errors import CardError, NpasbenchError, PluginError, PluginWarning, UnknownName, UsageError

if TYPE_CHECKING:
    from npasbench.method import Method

METHODS = "npasbench.methods"
TASKS = "npasbench.tasks"


@dataclass(frozen=True)
class Source:
    """Where a method comes from: an installed entry point, or a class in a plugin."""

    name: str
    origin: str
    entry_point: EntryPoint | None = None
    method: type[Method] | None = None

    def load(self) -> type[Method]:
        """Import the class.

        Raises:
            PluginError: naming the plugin and its error.
        """
        from npasbench.method import Method

        if self.method is not None:
            return self.method
        try:
            loaded = self.entry_point.load() if self.entry_point else None
        except (Exception, SystemExit) as error:
            raise PluginError(f"Method '{self.name}' ({self.origin}) cannot be imported: {_say(error)}.") from error
        if not (inspect.isclass(loaded) and issubclass(loaded, Method)):
            raise PluginError(
                f"Method '{self.name}' ({self.origin}) is {loaded!r}, not a subclass of npasbench.api.Method."
            )
        return loaded


class Registry:
    """All methods, cards and suites that can be named, given the ``--plugin`` files or modules of this call."""

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        named = (str(Path(p).resolve()) if p.endswith(".py") else p for p in plugins)
        self.plugins = tuple(dict.fromkeys(named))

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every method by name. A plugin that cannot be imported is warned of, with its error, and stops nobody else.

        Raises:
            UsageError: if a plugin is not there, or names a method as another is named already.
        """
        found, broken = self._found
        for error in broken:
            warnings.warn(str(error), PluginWarning, stacklevel=2)
        return found

    @cached_property
    def _found(self) -> tuple[dict[str, Source], list[PluginError]]:
        """Every method by name, and what is wrong with plugins that cannot be imported."""
        found, broken = _installed(), []
        for plugin in self.plugins:
            try:
                plugged = _plugged(plugin)
            except PluginError as error:
                broken.append(error)
                continue
            for source in plugged:
                if source.name in found:
                    raise UsageError(_taken(source, found[source.name]))
                found[source.name] = source
        return dict(sorted(found.items())), broken

    def method(self, name: str) -> type[Method]:
        """The class of a method.

        Raises:
            UnknownName: with the nearest names.
            PluginError: if its plugin cannot be imported.
            UsageError: if a plugin is not there, or names a method as another is named already.
        """
        found, broken = self._found
        if name not in found and broken:
            raise broken[0]
        if name not in self.sources:
            raise UnknownName("method", name, self.sources, "A method of your own is named with --plugin FILE.py.")
        return self.sources[name].load()

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
    known = set(method.knobs.model_fields)
    for knob in knobs:
        if knob not in known:
            raise UnknownName(f"knob of {name}", knob, known)
    try:
        return method(method.knobs.model_validate(knobs))
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


def source_hash(method: type[Method]) -> str | None:
    """SHA-256 of the file that defines a method, or None where there is none."""
    path = inspect.getsourcefile(method)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).exists() else None


def _installed() -> dict[str, Source]:
    """The method of every entry point; of several with one name npasbench's own, else the first, stays."""
    found: dict[str, Source] = {}
    for entry in sorted(entry_points(group=METHODS), key=lambda e: e.dist is None or e.dist.name != "npasbench"):
        if entry.name not in found:
            found[entry.name] = Source(entry.name, _origin(entry), entry_point=entry)
            continue
        warnings.warn(
            f"Method '{entry.name}' of {_origin(entry)} is left out: {found[entry.name].origin} has a method of that name.",
            PluginWarning,
            stacklevel=2,
        )
    return found


def _plugged(plugin: str) -> list[Source]:
    """The methods that a plugin file or module defines."""
    from npasbench.method import Method

    module = _import(plugin)
    methods = [
        value
        for value in dict.fromkeys(v for v in vars(module).values() if inspect.isclass(v))
        if issubclass(value, Method)
        and not inspect.isabstract(value)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
    ]
    if not methods:
        raise PluginError(
            f"Plugin '{plugin}' defines no method. It needs a class derived from npasbench.api.SharingMethod or Method."
        )
    return [Source(method.name, plugin, method=method) for method in methods]


def _taken(source: Source, owner: Source) -> str:
    who = source.method.__name__ if source.method else source.name
    return (
        f"Plugin '{source.origin}' names its class {who} '{source.name}', but that is the name of a method of "
        f"{owner.origin}. Rename it: write name = 'my-{source.name}' in the class; or leave --plugin out, if the method "
        "that is there already is the one you mean."
    )


def _import(plugin: str) -> ModuleType:
    try:
        if not plugin.endswith(".py"):
            return _import_module(plugin)
        if not Path(plugin).is_file():
            raise UsageError(f"There is no plugin file {plugin}. Name an existing .py file, or an importable module.")
        name = "npasbench_plugin_" + hashlib.sha256(plugin.encode()).hexdigest()[:12]
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, plugin)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except NpasbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"Plugin '{plugin}' cannot be imported: {_say(error)}.") from error


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        near = f" Did you mean {name}.py?" if Path(f"{name}.py").is_file() else ""
        raise UsageError(
            f"There is no plugin module '{name}'.{near} Name an importable module, or an existing .py file."
        ) from None


def _folders(entry_point: EntryPoint) -> list[str]:
    """The folders of a package of tasks, without importing it; one that is not there is warned about and stops no other."""
    try:
        spec = importlib.util.find_spec(entry_point.value)
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{entry_point.value}'")
    except Exception as error:
        warnings.warn(
            f"Tasks '{entry_point.name}' ({_origin(entry_point)}) cannot be found: {_say(error)}.",
            PluginWarning,
            stacklevel=2,
        )
        return []
    return list(spec.submodule_search_locations or [])


def _origin(entry_point: EntryPoint) -> str:
    package = f"{entry_point.dist.name} {entry_point.dist.version}, " if entry_point.dist else ""
    return f"{package}{entry_point.value}"


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")
