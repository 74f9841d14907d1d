"""``npasbench export``: a finished run as a plain dense network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npasbench.commands.wording import plural
from npasbench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from npasbench.plan import RunSpec


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write; its folder is made if it is not there. [default: dense.safetensors in the run's folder]",
)
@click.option("--member", help="Write one member of an ensemble: its number, from 0, or its architecture's name.")
def export(run: Path, out: Path | None, member: str | None) -> None:
    """Write a run's network as a plain state dict of its architecture, in safetensors: no npasbench needed to use it.

    Of narrow, channel-l1 and the like the tensors have the shapes of the smaller network, and it says so.

    Of an ensemble, all members go into one file, as members.0., members.1., ...; --member writes one of them alone, by
    default to dense-member<number>.safetensors.

    \b
    Example:  npasbench export runs/digits15-wrn-10-1/roast/0.1/seed0-1a2b3c4d --out dense.safetensors
    """
    import torch
    from safetensors.torch import save

    import npasbench
    from npasbench.measuring.count import count
    from npasbench.networks.members import Members
    from npasbench.running import record
    from npasbench.running.certify import load_trained
    from npasbench.running.files import atomic, writing
    from npasbench.running.rundir import RunDirectory

    directory = RunDirectory(run)
    if not directory.spec_file.exists():
        raise UsageError(f"{run} is not a run directory. Name one, such as those that 'npasbench status' lists.")
    if not directory.result_file.exists() or not directory.model_file.exists():
        raise UsageError(f"{run} holds no trained network: it is {directory.state()}.")
    spec = directory.spec()
    _, network, _ = load_trained(directory, spec, torch.device("cpu"))
    plain, chosen = npasbench.export(network), None
    names = plain.names if isinstance(plain, Members) else spec.task.members
    if member is not None:
        chosen = _member(member, names)
        plain = npasbench.export(network, member=chosen)
    target = out or run / ("dense.safetensors" if chosen is None else f"dense-member{chosen}.safetensors")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in plain.state_dict().items()
    }
    with atomic(target) as file:
        file.write(save(state))
    what = ", ".join(names)
    if chosen is not None:
        what = f"member {chosen} of {what}"
    trained = record.read(directory.result_file).parameters["total"]
    click.echo(f"{target}: {what}, {count(plain).total:,} parameters (from {trained:,} that were trained).")
    if other := _of_other_shapes(state, spec, names if chosen is None else names[chosen : chosen + 1]):
        click.echo(
            f"{plural(other, 'tensor')} of other shapes than the architecture's, which load_state_dict refuses: 'Using a trained "
            "network elsewhere' in docs/runs.md says how to put them in place."
        )


def _of_other_shapes(state: dict[str, Tensor], spec: RunSpec, names: Sequence[str]) -> int:
    """How many tensors do not fit the architectures of these names."""
    import torch

    from npasbench.data import describe
    from npasbench.networks import architecture

    classes, shape = describe(spec.task.data)
    with torch.device("meta"):
        own = [architecture(name, classes=classes, input_shape=shape).create().state_dict() for name in names]
    lead = [f"members.{k}." for k in range(len(own))] if len(own) > 1 else [""]
    shapes = {f"{start}{key}": value.shape for start, of in zip(lead, own, strict=True) for key, value in of.items()}
    return sum(shapes.get(name) != value.shape for name, value in state.items())


def _member(given: str, names: Sequence[str]) -> int:
    """Which member is meant by a number or a name; a number is not yet held against how many there are."""
    if given.isascii() and given.isdigit():
        return int(given)
    named = [k for k, name in enumerate(names) if name == given]
    if not named:
        raise UnknownName("member", given, names, "A member may also be named by its number, from 0.")
    if len(named) > 1:
        raise UsageError(f"{given} is the name of members {', '.join(map(str, named))}; give a number.")
    return named[0]
