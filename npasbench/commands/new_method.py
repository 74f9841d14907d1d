"""``npasbench new-method``: a working method in a file of about 30 lines, with its test."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from npasbench.errors import UsageError


@click.command("new-method")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where the files go. [default: here]")
def new_method(name: str, folder: Path) -> None:
    """Write NAME.py, a working sharing method to start from, and test_NAME.py.

    \b
    Example:  npasbench new-method my-idea
    """
    from npasbench.running.files import writing

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"'{name}' cannot name a method. Use small letters, digits and single hyphens, such as my-idea."
        )
    module = name.replace("-", "_")
    words = {
        "name": name,
        "file": f"{module}.py",
        "title": name.replace("-", " ").capitalize(),
        "class_": _class_name(name),
    }
    targets = {folder / f"{module}.py": "method.py.txt", folder / f"test_{module}.py": "test_method.py.txt"}
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} is there already and is left alone. Choose another name or folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for target, template in targets.items():
            text = files("npasbench.commands").joinpath("templates", template).read_text(encoding="utf-8")
            target.write_text(Template(text).substitute(words), encoding="utf-8")
            click.echo(f"wrote {target}")
    click.echo(f"Now:  npasbench check {name} --plugin {folder / (module + '.py')}")


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))
