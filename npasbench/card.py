"""Task cards and suites: TOML files read into frozen models with strict keys.

A card fixes everything but the method. Its fingerprint is the SHA-256 of everything that decides a result; title and
description are left out, every default is in. Two results are comparable only under the same fingerprint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, ValidationError, field_validator, model_validator

from npasbench.amounts import Memory, Minutes
from npasbench.budget import Accounting, canonical
from npasbench.card_data import Data, Name, Normalise, Positive, Strict
from npasbench.card_problems import problems_of
from npasbench.errors import CardError, UsageError

__all__ = [
    "Card",
    "Data",
    "Entry",
    "Needs",
    "Normalise",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Strict",
    "Suite",
    "fingerprint",
    "kind_of",
    "read_card",
    "read_suite",
]

Fraction = Annotated[float, Field(ge=0, le=1)]


class Optimizer(Strict):
    """SGD or AdamW, as torch defines them."""

    name: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    momentum: Fraction = 0.0
    nesterov: StrictBool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _adamw_has_no_momentum(self) -> Self:
        if self.name == "adamw" and (self.momentum or self.nesterov):
            raise ValueError("momentum and nesterov belong to sgd; remove them")
        return self


class Schedule(Strict):
    """One of torch's learning-rate schedules, moved on after every optimizer step.

    ``one-cycle`` (cosine, momentum fixed) and ``cosine`` need nothing more; ``steps`` multiplies the rate by ``factor``
    at the start of each epoch of ``at``; ``constant`` leaves it alone. ``warmup`` epochs rise linearly before the
    last three.
    """

    name: Literal["one-cycle", "cosine", "steps", "constant"]
    at: tuple[Positive, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _steps_need_epochs(self) -> Self:
        if (self.name == "steps") != bool(self.at):
            raise ValueError("'at' lists the epochs of the schedule 'steps', and of no other")
        if self.name == "one-cycle" and self.warmup:
            raise ValueError("one-cycle brings its own warm-up; remove 'warmup'")
        if any(later <= earlier for earlier, later in itertools.pairwise((self.warmup - 1, *self.at))):
            raise ValueError(
                f"'at' is {list(self.at)} after a warm-up of {self.warmup} epochs; list later epochs in ascending order"
            )
        return self


class Recipe(Strict):
    """How every method is trained."""

    epochs: Positive
    batch_size: Positive
    optimizer: Optimizer
    schedule: Schedule
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` runs the network under autocast; parameters stay float32."""
    memory_format: Literal["contiguous", "channels-last"] = "contiguous"
    threads: Positive
    """CPU threads of one run: one thread and two give different bits, so the card fixes them."""
    norm_images: Annotated[int, Field(ge=2)] | None = None
    """How many images of a batch a BatchNorm sees at once; by default all. Decides a result, so it is the card's to say:
    a run on several GPUs normalises each one's share, and so does one process if the card says so."""

    @model_validator(mode="after")
    def _training_outlasts_the_warm_up(self) -> Self:
        if self.schedule.warmup >= self.epochs:
            raise ValueError(
                f"a warm-up of {self.schedule.warmup} of {self.epochs} epochs never ends; shorten 'warmup' in the schedule"
            )
        return self

    @model_validator(mode="after")
    def _norm_images_fit(self) -> Self:
        if self.norm_images is not None and self.norm_images > self.batch_size:
            raise ValueError(f"'norm_images' is {self.norm_images}, more than a batch of {self.batch_size} has")
        return self

    def deciding(self) -> dict[str, Any]:
        """What of it goes into a fingerprint: see :meth:`Data.deciding`."""
        content = self.model_dump(mode="json")
        if self.norm_images is None:
            del content["norm_images"]
        return content


class Needs(Strict):
    """What one run needs of a machine at least; asked for when it is submitted, and decides no result."""

    gpus: Annotated[int, Field(ge=0)] = 0
    memory: Memory = "8G"
    time: Minutes = 30
    """With the dense network; a method may say that it takes longer."""


class Card(Strict):
    """One task: data, architecture(s), budgets, recipe, metrics and seeds."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    version: Positive
    title: str
    description: str
    members: Annotated[tuple[str, ...], Field(min_length=1)]
    """Architectures by name: one, or several that form an ensemble."""
    data: Data
    budgets: Annotated[tuple[str, ...], Field(min_length=1)]
    accounting: Accounting = "total"
    recipe: Recipe
    needs: Needs = Needs()
    metrics: Annotated[tuple[Literal["accuracy", "nll", "ece", "top5"], ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=3)]

    @field_validator("budgets", mode="before")
    @classmethod
    def _canonical_budgets(cls, given: Any) -> Any:
        return _budgets(given)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _without_repeats("seed", seeds)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of everything that decides a result."""
        free = {"title", "description", "budgets", "seeds", "needs"}
        decides = self.model_dump(mode="json", by_alias=True, exclude=free)
        return fingerprint({**decides, "data": self.data.deciding(), "recipe": self.recipe.deciding()})


class Entry(Strict):
    """One labelled row of a suite: a method and its knobs. The label names table rows and run folders."""

    label: Name
    method: Name
    set: dict[str, Any] = Field(default_factory=dict)
    """Knobs that differ from the method's defaults."""
    with_: Annotated[tuple[str, ...], Field(alias="with")] = ()
    """Add-ons as ``--with`` takes them, such as "distill:weight=0.5"; the first is around the method, and so on."""


class Suite(Strict):
    """Which methods run on which tasks, at which budgets, with which seeds (by default the cards' own)."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    title: str
    description: str = ""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    budgets: tuple[str, ...] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    entry: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @field_validator("budgets", mode="before")
    @classmethod
    def _canonical_budgets(cls, given: Any) -> Any:
        return None if given is None else _budgets(given)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if seeds is None else _without_repeats("seed", seeds)

    @field_validator("tasks")
    @classmethod
    def _tasks_differ(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return _without_repeats("task", tasks)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [entry.label for entry in self.entry]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"two entries are labelled {', '.join(twice)}; labels name rows and folders, so they differ"
            )
        return self


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``: sorted keys, no spaces, NaN refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_card(path: Path) -> Card:
    """Read a task card.

    Raises:
        CardError: naming the file, the line or key, what was expected and the nearest key.
    """
    return _read(path, Card)


def read_suite(path: Path) -> Suite:
    """Read a suite; paths of cards in it are relative to its own. Errors as for :func:`read_card`."""
    suite = _read(path, Suite)
    tasks = tuple(str(path.parent / task) if task.endswith(".toml") else task for task in suite.tasks)
    return suite.model_copy(update={"tasks": tasks})


def kind_of(path: Path) -> type[Card] | type[Suite]:
    """Whether a TOML file is a suite (it has entries) or a card."""
    return Suite if "entry" in _parse(path) else Card


Model = typing.TypeVar("Model", Card, Suite)


def _read(path: Path, model: type[Model]) -> Model:
    content = _parse(path)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {sentence}" for sentence in problems_of(error, model))
        raise CardError(f"{path} is not a valid {model.__name__.lower()}:\n{problems}") from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(
            f"There is no file {path}. Name a task or suite ('npasbench list') or an existing TOML file."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{path} is not TOML: {error}. Mend that line.") from None


def _budgets(given: Any) -> Any:
    if not isinstance(given, (list, tuple)):
        raise ValueError("a list of budgets is expected, such as [0.1, 0.5, 1]")
    try:
        texts = tuple(canonical(one) for one in given)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return _without_repeats("budget", texts)


Listed = typing.TypeVar("Listed", int, str)


def _without_repeats(kind: str, values: tuple[Listed, ...]) -> tuple[Listed, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"a {kind} is listed twice")
    return values
