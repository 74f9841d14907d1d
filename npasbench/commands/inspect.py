"""``npasbench inspect``: what a method would allocate, layer by layer, without training."""

from __future__ import annotations

import json
from typing import Any

import click

from npasbench.commands.aligned import show_tables
from npasbench.commands.options import json_option, plugin_option, read_knobs, set_option, with_option
from npasbench.errors import BudgetTooSmall, UsageError


@click.command("inspect")
@click.argument("method")
@click.option("--architecture", "--members", "architectures", required=True, help="One name, or several with commas.")
@click.option("--classes", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--input", "shape", default="3,32,32", show_default=True, help="Channels, height, width of one example.")
@click.option("--budget", help="Everything trained: a fraction or a count. [default: 1]")
@click.option(
    "--bank-size",
    type=click.IntRange(min=0),
    help="The papers' count: only what weights are generated from. 0 leaves the size to the method (ssn: the largest layer).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@set_option
@with_option
@plugin_option
@json_option
def inspect(
    method: str,
    architectures: str,
    classes: int,
    shape: str,
    budget: str | None,
    bank_size: int | None,
    seed: int,
    settings: tuple[str, ...],
    addons: tuple[str, ...],
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show each layer's share of the parameters and the count by kind. Exits 1, with the minimum, if it cannot be built.

    \b
    Example:  npasbench inspect template-bank --architecture wrn-16-4 --classes 100 --budget 0.5
    """
    if budget is not None and bank_size is not None:
        raise UsageError("Give --budget (everything trained) or --bank-size (the papers' count), not both.")
    try:
        content = _inspected(
            method, architectures, classes, _shape(shape), budget, bank_size, seed, settings, addons, plugins
        )
    except BudgetTooSmall as error:
        if as_json:
            click.echo(json.dumps({"method": method, "error": str(error), "smallest": error.smallest}, indent=1))
        raise
    if as_json:
        click.echo(json.dumps(content, indent=1))
    else:
        show_tables(content)


def _inspected(
    name: str,
    architectures: str,
    classes: int,
    shape: tuple[int, ...],
    budget: str | None,
    bank_size: int | None,
    seed: int,
    settings: tuple[str, ...],
    addons: tuple[str, ...],
    plugins: tuple[str, ...],
) -> dict[str, Any]:
    from npasbench.budget import Budget, resolve
    from npasbench.building import audited, build
    from npasbench.measuring.count import count
    from npasbench.method import Findings
    from npasbench.networks import architecture
    from npasbench.problem import Problem
    from npasbench.registry import Registry

    method = Registry(plugins).resolve(name, read_knobs(settings), addons)[0]
    members = tuple(architecture(one, classes=classes, input_shape=shape) for one in architectures.split(","))
    dense = sum(count(member.create()).total for member in members)
    resolved = resolve(budget or "1", dense) if bank_size is None else Budget(str(bank_size), bank_size, dense, "bank")
    problem = Problem(members, resolved, classes, shape)
    reason = method.skip(problem)
    if reason:
        raise UsageError(f"{method.title} has no business here: {reason}.")
    network = (build if bank_size == 0 else audited)(method, problem, Findings(), seed)
    which = {"architecture": architectures} if len(members) == 1 else {"members": [m.name for m in members]}
    counted = count(network, masks=method.structure(network).masks)
    return {
        "method": name,
        **({"with": list(addons)} if addons else {}),
        **which,
        "classes": classes,
        "budget": resolved.parameters,
        "dense": dense,
        **method.allocation(network),
        "parameters": dict.fromkeys(_kinds(network), 0) | counted.as_dict(),
        "final_count": method.final_count(network),
    }


def _kinds(network: Any) -> tuple[str, ...]:
    """Kinds that are shown even where there are none, so that two outputs of one method can be compared key by key."""
    kinds: tuple[str, ...] = getattr(getattr(network, "generator", None), "kinds", ())
    return (*kinds, "norm", "bias") if kinds else ()


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"'{text}' is not an input shape. Write channels, height and width, such as 3,32,32.")
    return shape
