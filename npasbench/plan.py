"""From a suite, or a task and a method, to runs: every task x method x budget x seed, each with its fingerprint."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from npasbench.added import Added, value_word
from npasbench.budget import Budget, canonical, resolve
from npasbench.card import Card, Entry, Suite, fingerprint
from npasbench.registry import Registry


class RunSpec(BaseModel):
    """One run, fully resolved. The label, paths and plugins' places are not in its fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Card
    label: str
    method: str
    method_version: int
    knobs: dict[str, Any]
    budget: str
    budget_parameters: int = Field(gt=0)
    dense_parameters: int = Field(gt=0)
    seed: int = Field(ge=0)
    plugins: tuple[str, ...] = ()
    task_file: str | None = None
    """Where a card that is not installed came from."""
    addons: tuple[Added, ...] = ()
    """The first around the method, the next around that."""

    @cached_property
    def cell_fingerprint(self) -> str:
        """The fingerprint of what all seeds of a cell have in common."""
        return fingerprint(self._decides())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the result, every default included."""
        return fingerprint({**self._decides(), "seed": self.seed})

    @property
    def folder(self) -> Path:
        """The run directory, relative to the folder of all runs."""
        return self.cell_folder / f"seed{self.seed}-{self.fingerprint[:8]}"

    @property
    def cell_folder(self) -> Path:
        """The folder of all seeds of this cell."""
        return Path(self.task.name) / self.label / self.budget

    @property
    def resolved_budget(self) -> Budget:
        """The budget as methods see it."""
        return Budget(self.budget, self.budget_parameters, self.dense_parameters, self.task.accounting)

    def command(self) -> str:
        """The command line that repeats this run, but for what is a machine's own: where data lie, and its devices."""
        words = ["npasbench", "run", self.task_file or self.task.name, "--method", self.method, "--label", self.label]
        words += ["--budget", self.budget, "--seeds", str(self.seed)]
        for knob, value in self.knobs.items():
            if value is not None:  # TOML has no word for it; only a default can be None
                words += ["--set", f"{knob}={value_word(value)}"]
        for addon in self.addons:
            words += ["--with", addon.word]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        return shlex.join(words)

    def as_json(self) -> dict[str, Any]:
        """What ``spec.json`` holds."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"addons"})
        return {**content, **self._with(), "task_fingerprint": self.task.fingerprint, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunSpec:
        """The spec that :meth:`as_json` gave."""
        return cls.model_validate({k: v for k, v in content.items() if k not in ("task_fingerprint", "fingerprint")})

    def _decides(self) -> dict[str, Any]:
        return {
            "task": self.task.fingerprint,
            "method": self.method,
            "method_version": self.method_version,
            "knobs": self.knobs,
            "budget": self.budget,
            "budget_parameters": self.budget_parameters,
            **self._with(),
        }

    def _with(self) -> dict[str, Any]:
        """The add-ons, if there are any: a run without keeps the fingerprint it had before there were add-ons."""
        return {"addons": [one.as_json() for one in self.addons]} if self.addons else {}


def plan_suite(
    suite: Suite,
    registry: Registry,
    *,
    budgets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data_root: Path | None = None,
) -> list[RunSpec]:
    """All runs of a suite, seeds outermost, so that a plan that is cut short has every cell."""
    budgets, seeds = budgets or suite.budgets or (), seeds or suite.seeds or ()
    specs = [
        spec
        for task in suite.tasks
        for entry in suite.entry
        for spec in plan_entry(task, entry, registry, budgets=budgets, seeds=seeds, data_root=data_root)
    ]
    return sorted(specs, key=lambda spec: spec.seed)


def plan_entry(
    task: str,
    entry: Entry,
    registry: Registry,
    *,
    budgets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data_root: Path | None = None,
) -> list[RunSpec]:
    """All runs of one entry on one task (a name, or the path of a card), by default at the card's budgets and seeds.

    Of tasks on a folder of images the folder below ``data_root`` is looked at: its images are part of the task.

    Raises:
        DataError: if such a folder is not there, or wrongly laid out.
    """
    from npasbench.addon import bare
    from npasbench.data import resolved as with_data

    card = with_data(registry.card(task), data_root)
    outer, added = registry.resolve(entry.method, entry.set, entry.with_)
    method = bare(outer)
    dense = dense_parameters(card)
    resolved = [resolve(budget, dense, card.accounting) for budget in (budgets or card.budgets)]
    return [
        RunSpec(
            task=card,
            label=entry.label,
            method=entry.method,
            method_version=method.version,
            knobs=method.settings.model_dump(mode="json"),
            budget=canonical(budget.text),
            budget_parameters=budget.parameters,
            dense_parameters=dense,
            seed=seed,
            plugins=registry.plugins,
            task_file=str(Path(task).resolve()) if task.endswith(".toml") else None,
            addons=added,
        )
        for seed in (seeds or card.seeds)
        for budget in resolved
    ]


def dense_parameters(card: Card) -> int:
    """What fractions of a budget refer to: the trained scalars of a task's dense network(s), counted as the card counts."""
    from npasbench.data import describe

    classes, input_shape = describe(card.data)
    return _dense_parameters(card.members, classes, input_shape, card.accounting)


@lru_cache(maxsize=64)
def _dense_parameters(members: tuple[str, ...], classes: int, input_shape: tuple[int, ...], accounting: str) -> int:
    import torch

    from npasbench.measuring.count import count
    from npasbench.networks import architecture

    with torch.device("meta"):
        networks = [architecture(name, classes=classes, input_shape=input_shape).create() for name in members]
    return sum(count(network).held(accounting) for network in networks)
