"""``npasbench new-method``: a working method in a file of about 30 lines, with its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from npasbench.errors import UsageError

_USED_IN_FILE = ("Knobs", "OneVector", "SharingMethod", "WeightGenerator")


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
    if reason := _unfit(name, module):
        raise UsageError(f"'{name}' cannot name a method: {reason}. Choose another, such as my-{name}.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for target, template in targets.items():
            text = files("npasbench.commands").joinpath("templates", template).read_text(encoding="utf-8")
            target.write_text(Template(text).substitute(words), encoding="utf-8")
            click.echo(f"wrote {target}")
    click.echo(f"Now:  npasbench check {name} --plugin {folder / (module + '.py')}")


def _unfit(name: str, module: str) -> str | None:
    """Why a method, its class or its file cannot have this name, or None."""
    from npasbench.registry import Registry

    installed = Registry().sources.get(name)
    if installed:
        return f"it is the name of a method of {installed.origin}"
    for word in (module, _class_name(name)):
        if keyword.iskeyword(word):
            return f"{word} is a word of Python itself"
    if _class_name(name) in _USED_IN_FILE:
        return f"its class would be {_class_name(name)}, which its file has another use for"
    if module in sys.stdlib_module_names:
        return f"{module}.py would hide Python's own module {module}"
    if importlib.util.find_spec(module):
        return f"{module}.py would hide the installed module {module}"
    return None


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))
