"""``npasbench export``: a finished run as a plain dense network."""

from __future__ import annotations

from pathlib import Path

import click

from npasbench.errors import UsageError


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write; its folder is made if it is not there. [default: dense.safetensors in the run's folder]",
)
def export(run: Path, out: Path | None) -> None:
    """Write a run's network as a plain state dict of its architecture, in safetensors: no npasbench needed to use it.

    \b
    Example:  npasbench export runs/digits15-wrn-10-1/roast/0.1/seed0-1a2b3c4d --out dense.safetensors
    """
    import torch
    from safetensors.torch import save

    import npasbench
    from npasbench.measuring.count import count
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
    plain = npasbench.export(network)
    target = out or run / "dense.safetensors"
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in plain.state_dict().items()
    }
    with atomic(target) as file:
        file.write(save(state))
    click.echo(
        f"{target}: {', '.join(spec.task.members)}, {count(plain).total:,} parameters (trained from {spec.budget_parameters:,})."
    )
