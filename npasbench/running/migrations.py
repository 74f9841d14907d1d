"""Records of older schemas, brought up to the present one, a version at a time; published results stay readable.

Schema 1 so far has had three forms. ``allocation`` came later, then ``members`` and ``subsets``; what a record does not
hold is empty, so these need no migration. A key that changes its name or meaning does: then raise ``SCHEMA`` in
``record.py``, add a step here, and keep examples of the old version in ``tests/data/records``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from npasbench.errors import RunError
from npasbench.running.reading import short

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Mapping[int, Step] = {}
"""What makes a record of schema n one of schema n + 1, by n. It gets a copy and need not set ``schema``."""


class NewerSchema(RunError):
    """Written by a newer npasbench; nothing is wrong with it."""


def migrated(content: Any, where: str, *, present: int, steps: Mapping[int, Step] | None = None) -> dict[str, Any]:
    """A record's JSON under the ``present`` schema.

    Raises:
        RunError: if it is of a newer schema, of one that nothing leads from, or no record at all.
    """
    steps = STEPS if steps is None else steps
    version = content.get("schema") if isinstance(content, dict) else None
    if type(version) is not int or version < min([*steps, present]):
        raise RunError(
            f"{where} has schema {short(repr(version))}, which is none of a result; {present} is the present one."
        )
    if version > present:
        raise NewerSchema(
            f"{where} has schema {short(version)}; this npasbench reads {present} and older. A newer npasbench wrote it: "
            "install that ('pip install --upgrade npasbench') to read it."
        )
    found: dict[str, Any] = dict(content)
    for number in range(version, present):
        try:
            found = steps[number](dict(found))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RunError(
                f"{where} is not a result of schema {version}: {type(error).__name__}: {short(error)}."
            ) from None
        found["schema"] = number + 1
    return found
