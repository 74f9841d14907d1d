"""The classes that a run's method and add-ons are, and whether their source is still what was submitted."""

from __future__ import annotations

from collections.abc import Mapping

from npasbench.method import Method
from npasbench.plan import RunSpec
from npasbench.registry import Registry, source_hash


def changed_since(spec: RunSpec, submitted: Mapping[str, str | None]) -> str:
    """A sentence if a method's source is not what it was at submission; it is imported first, so that nothing slips in."""
    if not submitted.keys() & {spec.method, *(one.name for one in spec.addons)}:
        return ""
    for name, method in classes_of(spec).items():
        if name in submitted and source_hash(method) != submitted[name]:
            kind = "method" if name == spec.method else "add-on"
            return (
                f"The source of {kind} '{name}' has changed since these jobs were submitted, so they do nothing. "
                "Submit again to run it as it is now."
            )
    return ""


def classes_of(spec: RunSpec) -> dict[str, type[Method]]:
    """The classes of a run's method and add-ons, by name."""
    registry = Registry(spec.plugins)
    return {spec.method: registry.method(spec.method), **{one.name: registry.addon(one.name) for one in spec.addons}}
