"""From the words of a command line to planned runs: shared by plan and run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npasbench.errors import UsageError

if TYPE_CHECKING:
    from npasbench.plan import RunSpec


def plan_runs(
    name: str,
    method: str | None,
    label: str | None,
    knobs: dict[str, Any],
    budgets: Sequence[str],
    seeds: Sequence[int],
    plugins: Sequence[str],
    addons: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[RunSpec]:
    """The runs of a suite, or of one method on a task.

    Raises:
        UsageError: if a task is named without a method, or a suite with one; for a label that cannot name a folder.
        DataError: if a task is on a folder of images that is not below the data root, or wrongly laid out.
    """
    from pydantic import ValidationError

    from npasbench.budget import canonical
    from npasbench.card import Entry, Suite
    from npasbench.plan import plan_entry, plan_suite
    from npasbench.registry import Registry

    registry = Registry(plugins)
    found = registry.suite_or_card(name)
    texts = tuple(dict.fromkeys(canonical(budget) for budget in budgets))
    if isinstance(found, Suite):
        if method or label or knobs or addons:
            raise UsageError(
                f"{name} is a suite and names its methods; --method, --label, --set and --with belong to a task."
            )
        return plan_suite(found, registry, budgets=texts, seeds=seeds, data_root=data_root)
    if method is None:
        raise UsageError(f"{name} is a task; name a method with --method ('npasbench list methods').")
    registry.method(method)
    try:
        entry = Entry.model_validate({"label": label or method, "method": method, "set": knobs, "with": tuple(addons)})
    except ValidationError as error:
        word = error.errors()[0]["loc"][0]
        raise UsageError(
            f"'{label or method}' cannot be a {word}: it names folders, so write at most 80 lower-case letters, digits, "
            "'.', '_' and '-', and begin with a letter or digit."
        ) from None
    return plan_entry(name, entry, registry, budgets=texts, seeds=seeds, data_root=data_root)
