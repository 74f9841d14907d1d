"""The conformance kit: what every method must do, checked on a small task at every budget of its card."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from npasbench.addon import classes
from npasbench.brief_training import BriefSearch, Enough, OneEpoch, Quiet
from npasbench.budget import resolve
from npasbench.building import audited, build, searched
from npasbench.card import Card
from npasbench.data import DataSet, describe, load, resolved
from npasbench.data import check as check_data
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, LayerCollapse
from npasbench.explaining import explain, missing_library
from npasbench.measuring.count import count
from npasbench.measuring.model_file import read_model, write_model
from npasbench.method import Batch, Findings, Method
from npasbench.networks import architecture
from npasbench.plan import dense_parameters
from npasbench.problem import Problem
from npasbench.registry import Registry
from npasbench.sharing_call import export
from npasbench.training.loop import Training

SEED = 1000
_MOST_IN_A_LOSS = 1000
_SMALL_BATCH = 10  # so that one epoch of the small task has steps enough to learn something


@dataclass(frozen=True)
class Verdict:
    """One check: whether it passed, and what was seen."""

    name: str
    passed: bool
    detail: str = ""


def check_method(
    name: str,
    *,
    task: str = "digits15-wrn-10-1",
    knobs: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
    addons: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[Verdict]:
    """Every check on a method within its ``addons``, in order; what a check finds wrong is in its verdict, not raised.

    Raises:
        UnknownName: for an unknown method, add-on, knob or task.
        PluginError: if the method cannot be imported.
        DataError: if the task's data are not under the data root, or damaged.
        MissingLibrary: if the method needs a library that is not installed.
    """
    registry = Registry(plugins)
    case = _Case(
        registry.resolve(name, dict(knobs or {}), addons)[0], resolved(registry.card(task), data_root), data_root
    )
    check_data(case.card.data, data_root)
    verdicts = [case.builds(budget) for budget in case.card.budgets]
    if all(verdict.detail.startswith("skipped") for verdict in verdicts):
        return [*verdicts, Verdict("has nothing to do on this task", True, "choose another with --task")]
    if case.buildable is None:
        return [
            *verdicts,
            Verdict("can be built at one of the task's budgets", False, "no budget of the task suits it"),
        ]
    return [*verdicts, *(case.verdict(check_name, check) for check_name, check in case.checks())]


class _Wrong(Exception):
    """A check found something wrong."""


class _Case:
    """A method on a task, at the largest budget of the card at or below the dense count that it can be built at."""

    def __init__(self, method: Method, card: Card, data_root: Path | None) -> None:
        self.method, self.card, self.data_root = method, card, data_root
        self.dense = dense_parameters(card)
        self.buildable: Problem | None = None
        self._found: dict[tuple[str, int], Findings] = {}

    @cached_property
    def data(self) -> DataSet:
        return load(self.card.data, seed=SEED, root=self.data_root)

    def problem(self, budget: str) -> Problem:
        classes, shape = describe(self.card.data)
        members = tuple(architecture(name, classes=classes, input_shape=shape) for name in self.card.members)
        return Problem(members, resolve(budget, self.dense, self.card.accounting), classes, shape)

    def builds(self, budget: str) -> Verdict:
        problem = self.problem(budget)
        name = f"budget {budget} ({problem.budget.parameters:,})"
        try:
            reason = self.method.skip(problem)
            if reason:
                return Verdict(name, True, f"skipped: {reason}")
            network = audited(self.method, problem, self.findings(problem), SEED)
            final = self.method.final_count(network)
        except BudgetTooSmall as error:
            return Verdict(name, error.smallest is not None, f"refused: {error}")
        except LayerCollapse as error:
            return Verdict(name, True, f"refused: {error}")
        except Exception as error:
            return self.failed(name, error)
        if self.buildable is None or problem.budget.fraction <= 1:
            self.buildable = problem
        used = final / problem.budget.parameters
        return Verdict(name, True, f"built, {final:,} parameters ({used:.1%} of the budget)")

    def findings(self, problem: Problem, seed: int = SEED) -> Findings:
        """What a search finds in one epoch a stage; nothing where the method needs none."""
        if not self.method.needs_search():
            return Findings()
        asked = (problem.budget.text, seed)
        if asked not in self._found:
            self._found[asked] = searched(self.method, problem, BriefSearch(seed, self.training))
        return self._found[asked]

    def verdict(self, name: str, check: Callable[[], str]) -> Verdict:
        try:
            detail = check()
        except _Wrong as error:
            return Verdict(name, False, str(error))
        except Exception as error:
            return self.failed(name, error)
        return Verdict(name, True, detail)

    def failed(self, name: str, error: Exception) -> Verdict:
        """What a method raised; of one that lacks a library nothing can be said."""
        methods = classes(self.method)
        missing = missing_library(error, self.method.title, *methods)
        if missing:
            raise missing from None
        return Verdict(name, False, explain(error, *methods))

    def checks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "logits have the right shape and are finite", self._logits
        yield "gradients reach every parameter tensor", self._gradients
        yield "the same seed gives the same network", self._seeds
        yield "saved and loaded, it gives the same output", self._save_and_load
        yield "a deep copy is independent and gives the same output", self._deep_copy
        yield "structure and restore bring a trained network back", self._structure
        yield "exported, a plain dense network gives the same output", self._export
        yield "one epoch lowers the loss", self._learns

    def network(self, seed: int = SEED) -> nn.Module:
        if self.buildable is None:
            raise _Wrong("it was not built at any budget")
        return build(self.method, self.buildable, self.findings(self.buildable, seed), seed)

    def training(self, network: nn.Module, epochs: int = 1, batch_size: int | None = None) -> Training:
        changes = {"epochs": epochs, "batch_size": batch_size or self.card.recipe.batch_size}
        recipe = self.card.recipe.model_copy(update=changes)
        batches = Batches(self.data, self.card.data, recipe.batch_size, SEED, torch.device("cpu"))
        return Training(self.method, network, recipe, batches, torch.device("cpu"))

    def _logits(self) -> str:
        logits = self.network()(self.data.some_to_train(4))
        expected = (4, self.data.classes)
        if tuple(logits.shape[-2:]) != expected or logits.dim() not in (2, 3):
            raise _Wrong(f"logits are {list(logits.shape)}, expected {list(expected)} or members before that")
        if not bool(torch.isfinite(logits).all()):
            raise _Wrong("logits are not finite")
        return f"{list(logits.shape)}"

    def _gradients(self) -> str:
        network = self.network().train()
        training = self.training(network)
        reached = {
            name: torch.zeros_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.requires_grad
        }
        for batch in training.batches.epoch(0):
            for loss in training.losses(network, batch):
                loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                reached[name] |= parameter.grad != 0
        never = [name for name, seen in reached.items() if not bool(seen.any())]
        if never:
            raise _Wrong(f"no gradient reaches {', '.join(never[:5])}, which is counted all the same")
        share = sum(int(seen.sum()) for seen in reached.values()) / sum(seen.numel() for seen in reached.values())
        left = "" if share == 1 else "; entries that none ever reaches count as dead in a run's certificate"
        return f"in one epoch they reach {share:.1%} of what is counted{left}"

    def _seeds(self) -> str:
        first, again, other = self.network(), self.network(), self.network(SEED + 1)
        if not _same(self._output(first), self._output(again)):
            raise _Wrong("two builds with one seed differ; draw from the generator that build is given")
        if _same(self._output(first), self._output(other)):
            raise _Wrong("two seeds give the same network")
        return ""

    def _save_and_load(self) -> str:
        network, other = self._trained(), self.network()
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        self.method.restore(other, self.method.structure(network))
        other.load_state_dict(torch.load(file, weights_only=True))
        return self._agree(network, other)

    def _deep_copy(self) -> str:
        network = self._trained()
        twin = copy.deepcopy(network)
        detail = self._agree(network, twin)
        before = self._output(network)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        if not _same(before, self._output(network)):
            raise _Wrong("changing the copy changes the original")
        return detail

    def _structure(self) -> str:
        network, other = self._trained(), self.network()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            written = write_model(path, self.method, network)
            read_model(path, self.method, other)
        counted = count(network, masks=self.method.structure(network).masks).total
        if written != counted:
            raise _Wrong(f"{written:,} scalars had to be stored where {counted:,} are counted")
        return self._agree(network, other)

    def _export(self) -> str:
        network = self._trained()
        plain = export(network)
        kinds = {type(module).__module__.split(".")[0] for module in plain.modules()}
        if "npasbench_plugin" in str(kinds):
            raise _Wrong("the exported network still holds the plugin's modules")
        difference = float((self._output(network) - self._output(plain)).abs().max())
        if difference > 1e-5:
            raise _Wrong(f"outputs differ by {difference:.2g}")
        return f"largest difference {difference:.1g}"

    def _learns(self) -> str:
        network = self.network()
        before = self._training_loss(network)
        with contextlib.suppress(Enough):
            self.training(network, self.card.recipe.epochs, _SMALL_BATCH).run(OneEpoch())
        after = self._training_loss(network)
        if not after < before:
            raise _Wrong(f"the training loss went from {before:.4f} to {after:.4f}")
        return f"{before:.3f} to {after:.3f}"

    def _training_loss(self, network: nn.Module) -> float:
        """The loss over training images, normalised by their own statistics; the network stays as it is."""
        twin = copy.deepcopy(network).train()
        training = self.training(twin)
        inputs = self.data.some_to_train(_MOST_IN_A_LOSS)
        several = Batch(inputs, self.data.train_labels[: len(inputs)], torch.arange(len(inputs)))
        with torch.no_grad():
            return sum(float(loss) for loss in training.losses(twin, several))

    def _trained(self) -> nn.Module:
        network = self.network()
        self.training(network).run(Quiet())
        return network

    def _output(self, network: nn.Module) -> Tensor:
        network.eval()
        with torch.no_grad():
            output: Tensor = network(next(self.data.test(64)))
        return output

    def _agree(self, one: nn.Module, other: nn.Module) -> str:
        difference = float((self._output(one) - self._output(other)).abs().max())
        if not difference == 0.0:
            raise _Wrong(f"outputs differ by {difference:.2g}")
        return ""


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other)
