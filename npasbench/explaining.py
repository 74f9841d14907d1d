"""One sentence for an error in a method's code: what it says, and the line of the method that led to it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from npasbench.errors import MissingLibrary, NpasbenchError

if TYPE_CHECKING:
    from npasbench.method import Method


def explain(error: BaseException, *methods: type[Method]) -> str:
    """``ValueError: what it says in my_idea.py:31 (forward)``; an error of npasbench is a sentence as it is.

    Of a message of several lines only the first is shown. The place is the last line of the method's own file that was
    being run, else of an add-on's, which come after it, else of a file beside one of them, and one of torch or of the
    harness only where there is none of these.
    """
    if isinstance(error, NpasbenchError):
        return str(error)
    said = f"{type(error).__name__}: {_first_line(error)}".rstrip(": .")
    frame = _frame(error, [file for method in methods for file in _files(method)])
    return f"{said} in {Path(frame.filename).name}:{frame.lineno} ({frame.name})" if frame else said


def missing_library(error: BaseException, name: str, *methods: type[Method]) -> MissingLibrary | None:
    """What to raise in place of ``error`` where the method called ``name`` lacks a library; None for any other error."""
    for one in _with_causes(error):
        if isinstance(one, MissingLibrary):
            return one
        library = _library(one)
        if library:
            return MissingLibrary(
                f"{name} needs the library '{library}', which is not installed: {explain(one, *methods)}. Install it, then "
                "start the same command again."
            )
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _library(error: BaseException) -> str:
    """The library that is not there, if that is the error; nothing if only a part of it is not."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    library = error.name.partition(".")[0]
    try:
        return library if importlib.util.find_spec(library) is None else ""
    except ValueError:  # it is imported, but not from a file
        return ""


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _frame(error: BaseException, files: list[Path]) -> traceback.FrameSummary | None:
    """The frame to name, of the latest first: in one of ``files``, in their order, else beside one, else anywhere."""
    latest = traceback.extract_tb(error.__traceback__)[::-1]
    own = [frame for file in files for frame in latest if Path(frame.filename) == file]
    beside = [frame for frame in latest if Path(frame.filename).parent in {file.parent for file in files}]
    return next(iter([*own, *beside, *latest]), None)


def _files(method: type[Method]) -> list[Path]:
    """The files that define a method and the methods it is derived from, the contract left out."""
    from npasbench.addon import AddOn
    from npasbench.method import Method

    contract = (Method.__module__, AddOn.__module__)
    classes = [one for one in method.__mro__ if issubclass(one, Method)]
    modules = [sys.modules.get(one.__module__) for one in classes if one.__module__ not in contract]
    return [Path(file) for module in modules if (file := getattr(module, "__file__", None))]
