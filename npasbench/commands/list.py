"""``npasbench list``: the names that can be used."""

from __future__ import annotations

import json

import click

from npasbench.commands.options import json_option, plugin_option


@click.command("list")
@click.argument("kind", type=click.Choice(["methods", "addons", "tasks", "suites", "all"]), default="all")
@plugin_option
@json_option
def list_names(kind: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """List methods, add-ons, tasks and suites, with where they come from.

    \b
    Example:  npasbench list methods
    """
    from npasbench.card import Card, Suite
    from npasbench.registry import Registry

    registry = Registry(plugins)
    names = {
        "methods": {name: source.origin for name, source in registry.sources.items()},
        "addons": {name: source.origin for name, source in registry.addons.items()},
        "tasks": {name: str(registry.files[name]) for name in registry.names(Card)},
        "suites": {name: str(registry.files[name]) for name in registry.names(Suite)},
    }
    chosen = {key: value for key, value in names.items() if kind in (key, "all")}
    if as_json:
        click.echo(json.dumps(chosen, indent=1))
        return
    for key, values in chosen.items():
        click.secho(key, bold=True)
        width = max(map(len, values), default=0)
        for name, origin in values.items():
            click.echo(f"  {name:<{width}}  {click.style(origin, dim=True)}")
