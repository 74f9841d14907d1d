"""``npasbench show``: one task, suite, method or add-on in full."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click

from npasbench.commands.options import data_root_option, json_option, plugin_option
from npasbench.errors import UnknownName


@click.command("show")
@click.argument("name")
@plugin_option
@data_root_option
@json_option
def show(name: str, plugins: tuple[str, ...], data_root: Path | None, as_json: bool) -> None:
    """Show a task (budgets resolved), a suite, or a method or add-on (knobs, citation).

    \b
    Example:  npasbench show digits15-wrn-10-1
    """
    content = _content(name, plugins, data_root)
    if as_json:
        click.echo(json.dumps(content, indent=1))
        return
    for key, value in content.items():
        if isinstance(value, str) and "\n" in value:
            click.echo(click.style(f"{key}:", bold=True) + "\n" + value.strip("\n"))
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            click.echo(click.style(f"{key}: ", bold=True) + shown)


def _content(name: str, plugins: tuple[str, ...], data_root: Path | None) -> dict[str, Any]:
    from npasbench.card import Card
    from npasbench.registry import Registry

    registry = Registry(plugins)
    if name in registry.sources:
        return _of_method("method", registry.method(name), registry.sources[name])
    if name in registry.addons:
        return _of_method("add-on", registry.addon(name), registry.addons[name])
    if name not in registry.files and not name.endswith(".toml"):
        raise UnknownName("method, add-on, task or suite", name, [*registry.sources, *registry.addons, *registry.files])
    found = registry.suite_or_card(name)
    return _of_card(found, data_root) if isinstance(found, Card) else found.model_dump(mode="json", by_alias=True)


def _of_method(kind: str, method: Any, source: Any) -> dict[str, Any]:
    knobs = {
        knob: {"default": field.get_default(), "type": str(field.annotation).replace("typing.", "")}
        for knob, field in method.knobs.model_fields.items()
    }
    return {
        kind: source.name,
        "summary": inspect.cleandoc(method.__doc__ or ""),
        "version": method.version,
        "from": source.origin,
        "knobs": knobs,
        "about knobs": inspect.cleandoc(method.knobs.__doc__ or "") if knobs else "none",
        "cite": method.cite or "nothing to cite",
    }


def _of_card(given: Any, data_root: Path | None) -> dict[str, Any]:
    from npasbench.budget import resolve
    from npasbench.data import resolved
    from npasbench.plan import dense_parameters

    card = resolved(given, data_root)
    dense = dense_parameters(card)
    content: dict[str, Any] = card.model_dump(mode="json", by_alias=True)
    content["budgets"] = {text: resolve(text, dense, card.accounting).parameters for text in card.budgets}
    return {**content, "dense_parameters": dense, "fingerprint": card.fingerprint}
