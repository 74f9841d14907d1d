"""Where methods and add-ons come from: the entry points of installed packages, and the classes of ``--plugin`` files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from npasbench.errors import NpasbenchError, PluginError, PluginWarning, UsageError

if TYPE_CHECKING:
    from npasbench.addon import AddOn
    from npasbench.method import Method

Kind = Literal["method", "add-on"]
GROUPS: Mapping[Kind, str] = {"method": "npasbench.methods", "add-on": "npasbench.addons"}


@dataclass(frozen=True)
class Source:
    """Where a method or add-on comes from: an installed entry point, or a class in a plugin."""

    name: str
    origin: str
    entry_point: EntryPoint | None = None
    method: type[Method] | None = None
    kind: Kind = "method"

    def load(self) -> type[Method]:
        """Import the class of a method.

        Raises:
            PluginError: naming the plugin and its error.
        """
        from npasbench.addon import AddOn
        from npasbench.method import Method

        loaded = self._loaded()
        if not (inspect.isclass(loaded) and issubclass(loaded, Method)) or issubclass(loaded, AddOn):
            raise PluginError(
                f"Method '{self.name}' ({self.origin}) is {loaded!r}, not a subclass of npasbench.api.Method."
            )
        return loaded

    def load_addon(self) -> type[AddOn]:
        """Import the class of an add-on. Errors as for :meth:`load`."""
        from npasbench.addon import AddOn

        loaded = self._loaded()
        if not (inspect.isclass(loaded) and issubclass(loaded, AddOn)):
            raise PluginError(
                f"Add-on '{self.name}' ({self.origin}) is {loaded!r}, not a subclass of npasbench.api.AddOn."
            )
        return loaded

    def _loaded(self) -> object:
        if self.method is not None:
            return self.method
        try:
            return self.entry_point.load() if self.entry_point else None
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind.capitalize()} '{self.name}' ({self.origin}) cannot be imported: {say(error)}."
            ) from error


def source_hash(method: type[Method]) -> str | None:
    """SHA-256 of the file that defines a method, or None where there is none."""
    path = inspect.getsourcefile(method)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).exists() else None


def installed() -> dict[str, Source]:
    """The method or add-on of every entry point; of several with one name npasbench's own, else the first, stays."""
    found: dict[str, Source] = {}
    entries = [(kind, entry) for kind, group in GROUPS.items() for entry in entry_points(group=group)]
    for kind, entry in sorted(entries, key=lambda one: one[1].dist is None or one[1].dist.name != "npasbench"):
        if entry.name not in found:
            found[entry.name] = Source(entry.name, origin(entry), entry_point=entry, kind=kind)
            continue
        owner = found[entry.name]
        warnings.warn(
            f"{kind.capitalize()} '{entry.name}' of {origin(entry)} is left out: "
            f"{owner.origin} has {_a(owner.kind)} of that name.",
            PluginWarning,
            stacklevel=2,
        )
    return found


def plugged(plugin: str) -> list[Source]:
    """The methods and add-ons that a plugin file or module defines."""
    from npasbench.addon import AddOn
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
            f"Plugin '{plugin}' defines no method. It needs a class derived from npasbench.api.SharingMethod or Method, or "
            "from AddOn."
        )
    return [Source(one.name, plugin, None, one, "add-on" if issubclass(one, AddOn) else "method") for one in methods]


def taken(source: Source, owner: Source) -> str:
    """A sentence for a plugin's class whose name is another's."""
    who = source.method.__name__ if source.method else source.name
    return (
        f"Plugin '{source.origin}' names its class {who} '{source.name}', but that is the name of {_a(owner.kind)} of "
        f"{owner.origin}. Rename it: write name = 'my-{source.name}' in the class; or leave --plugin out, if the "
        f"{owner.kind} that is there already is the one you mean."
    )


def origin(entry_point: EntryPoint) -> str:
    """The package with its version, and the object in it."""
    package = f"{entry_point.dist.name} {entry_point.dist.version}, " if entry_point.dist else ""
    return f"{package}{entry_point.value}"


def say(error: BaseException) -> str:
    """An error's type and what it says."""
    return f"{type(error).__name__}: {error}".rstrip(": .")


def _a(kind: Kind) -> str:
    return "a method" if kind == "method" else "an add-on"


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
        raise PluginError(f"Plugin '{plugin}' cannot be imported: {say(error)}.") from error


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
