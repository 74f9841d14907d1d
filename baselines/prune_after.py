"""Pruning what is shared: a sharing method with a larger bank than its budget allows, of which masks keep as much as fits.

The bank is ``grow`` times what the method would have. Entries of it are removed by one of the rules of pruning:

* ``magnitude``: the smallest, while the network trains, on the cubic schedule of Zhu & Gupta (arXiv 1710.01878, section 3);
* ``random``, and ``snip`` (Lee et al., ICLR 2019), ``grasp`` (Wang et al., ICLR 2020), ``synflow`` (Tanaka et al., NeurIPS
  2020): before training. Their scores are derivatives of a loss, or of the synaptic flow, and through what is generated
  from an entry they reach the entry. SynFlow's network is positive: there, what is generated is taken as its absolute value.

Coefficients, embeddings, scales, norms and biases are never removed. The budget is met exactly; masks are counted as side
information.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from npasbench import building
from npasbench.addon import AddOn, bare, hang, hung, joined, parted
from npasbench.api import (
    Batch,
    BudgetTooSmall,
    Criterion,
    Findings,
    Knobs,
    Method,
    MethodError,
    Problem,
    Progress,
    SearchContext,
    Structure,
)
from npasbench.errors import NpasbenchError
from npasbench.pruning import scores
from npasbench.pruning.bank import AbsoluteWeights, PrunedBank, bank_tensors, shared_networks
from npasbench.pruning.flow import positive
from npasbench.pruning.gains import gains_at_one
from npasbench.pruning.masks import largest, ranked
from npasbench.pruning.schedule import reached, remaining
from npasbench.sharing.allocation import in_proportion
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import unshared_parameters

_SEARCHED = ("snip", "grasp", "synflow")
_LEAST = -1.0
"""Below every magnitude and flow."""


class PruneAfterKnobs(Knobs):
    """``grow``: how many times the bank that would fit; ``scope`` compares entries over all tensors or within each of them.

    Magnitude pruning runs from ``begin`` to ``end`` of training, ``every`` so many steps; ``batches`` are what SNIP and
    GraSP look at, with logits that for GraSP are divided by ``temperature``; ``rounds`` is how often SynFlow prunes and
    looks again.
    """

    rule: Literal["magnitude", "random", "snip", "grasp", "synflow"] = "magnitude"
    grow: float = Field(2.0, gt=1, le=1000)
    scope: Literal["global", "tensor"] = "global"
    begin: float = Field(0.2, ge=0, lt=1)
    end: float = Field(0.8, gt=0, le=1)
    every: PositiveInt = 3
    batches: PositiveInt = 1
    temperature: float = Field(200.0, gt=0)
    rounds: PositiveInt = 100

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"pruning cannot begin at {self.begin} and end at {self.end} of training")
        return self


class PruneAfter(AddOn):
    """Prunes the bank of a sharing method, which begins larger than its budget allows."""

    knobs = PruneAfterKnobs

    def skip(self, problem: Problem) -> str | None:
        """The method's own reason, or that there is no bank in its network."""
        reason = self.inner.skip(problem)
        method = bare(self)
        if reason:
            return reason
        dense = problem.budget.dense
        for parameters in (problem.budget.parameters, dense, 4 * dense):  # at a small budget some build nothing at all
            larger = dataclasses.replace(problem.budget, parameters=parameters)
            try:
                network = building.build(method, dataclasses.replace(problem, budget=larger), Findings(), seed=0)
            except BudgetTooSmall:
                continue
            except NpasbenchError:
                return None
            searched = method.needs_search() and not method.structure(network).masks
            return None if searched else self._unfit(method, network)  # what a search finds may make it another network
        return None

    def time_factor(self, problem: Problem) -> float:
        """Scores before training take a little."""
        return self.inner.time_factor(problem) + (0.2 if self.settings.rule in _SEARCHED else 0.0)

    # The larger bank

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        """The method's network at a larger budget, with masks on its bank and how many entries they are to keep."""
        own, inner = parted(findings)
        given = f"That is with grow = {self.settings.grow:g};"
        try:
            network = self.inner.build(self._grown(problem), inner, rng)
        except BudgetTooSmall as error:  # the number it names is of the larger budget
            raise BudgetTooSmall(hint=f"{error.hint} {given} a larger grow may need less.".lstrip()) from None
        if reason := self._unfit(self.inner, network):
            raise MethodError(f"{self.title}: {reason}.")
        try:
            bank = PrunedBank.on(network, problem, self.inner.final_count(network))
        except BudgetTooSmall:
            raise BudgetTooSmall(hint=f"{given} a smaller grow may need less.") from None
        hang(network, self.name, bank)
        if self.settings.rule == "random":
            bank.mask(network, self._largest(scores.random(bank.weights(network), rng), bank.keep))
        elif own.facts.get("parameters") == problem.budget.parameters:
            bank.mask(network, own.tensors)
        return network

    def _grown(self, problem: Problem) -> Problem:
        """The problem with a budget that leaves ``grow`` times as much for the bank."""
        budget, rest = problem.budget, 0
        if budget.accounting == "total":
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                dense = problem.create()
                rest = unshared_parameters(dense, shareable_layers(dense, problem.excluded))
        parameters = rest + int(self.settings.grow * max(budget.parameters - rest, 1))
        return dataclasses.replace(problem, budget=dataclasses.replace(budget, parameters=parameters))

    def _unfit(self, method: Method, network: nn.Module) -> str | None:
        """Why a method's network is none to prune."""
        name, instead = bare(method).name, "give a method that generates its weights from a bank, such as roast"
        if method.structure(network).masks:
            return f"{name} prunes by itself; use it without {self.name}, or {instead}"
        if not shared_networks(network):
            return f"{name} generates no weights, so there is no bank to prune; use --method magnitude, or {instead}"
        if not bank_tensors(network):
            return f"{name} has nothing to prune but coefficients, embeddings and scales; {instead}"
        return None

    # What is removed before training

    def needs_search(self) -> bool:
        """Rules that look at losses or at the flow do so before the network is built."""
        return self.settings.rule in _SEARCHED or self.inner.needs_search()

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """The method's own search, for the larger bank; then the masks, in the network as it will be built."""
        inner = Findings()
        if self.inner.needs_search():
            inner = self._searched(self._grown(problem), context)
        if self.settings.rule not in _SEARCHED:
            return joined(Findings(), inner)
        network = building.audited(self, problem, joined(Findings(), inner), context.seed)
        masks = {name: mask.cpu() for name, mask in self._found(network, problem, context).items()}
        return joined(Findings({"parameters": problem.budget.parameters}, masks), inner)

    def _searched(self, grown: Problem, context: SearchContext) -> Findings:
        try:
            return self.inner.search(grown, context.acting_as(self.inner))
        except BudgetTooSmall as error:
            raise BudgetTooSmall(
                f"{str(error).rstrip('.')}. That is before pruning, when with grow = {self.settings.grow:g} it may have "
                f"{grown.budget.parameters:,} parameters; a larger grow may need less."
            ) from None

    def _found(self, network: nn.Module, problem: Problem, context: SearchContext) -> dict[str, Tensor]:
        bank: PrunedBank = hung(network, self.name)
        if self.settings.rule == "synflow":
            return self._by_flow(network, bank, problem.input_shape)
        rule, batches = self.settings.rule, self.settings.batches
        with gains_at_one(network):
            if rule == "snip":
                found = scores.snip(bank.weights(network), context.losses(network, batches=batches))
            else:
                tempered = context.acting_as(_tempered(self, self.settings.temperature))
                found = scores.grasp(bank.weights(network), tempered.losses(network, batches=batches))
        return self._largest(ranked(found, rule), bank.keep)

    def _by_flow(self, network: nn.Module, bank: PrunedBank, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """SynFlow's rounds: after each of n, (keep / all)^(1 / n) of what was left before remains."""
        twin = positive(network)
        weights = bank.weights(twin)
        for shared in shared_networks(twin):
            shared.generator = AbsoluteWeights(shared.generator)
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        for number in range(1, self.settings.rounds + 1):
            flow = scores.synflow_round(twin, weights, input_shape)
            left = round(bank.size * (bank.keep / bank.size) ** (number / self.settings.rounds))
            masks = self._largest(_among(flow, masks), left if number < self.settings.rounds else bank.keep)
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.mul_(masks[name])
        return masks

    def _largest(self, given: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
        """Masks that keep the largest of all scores, or of each tensor's in proportion to its size."""
        if self.settings.scope == "global":
            return largest(given, keep)
        shares = in_proportion([score.numel() for score in given.values()], keep)
        return {
            name: largest({name: score}, share)[name]
            for (name, score), share in zip(given.items(), shares, strict=True)
        }

    # Training

    def after_backward(self, network: nn.Module, progress: Progress) -> None:
        """Removed entries gather no momentum."""
        self.inner.after_backward(network, progress)
        bank: PrunedBank = hung(network, self.name)
        masks = bank.masks(network)
        for name, weight in bank.weights(network).items():
            if weight.grad is not None:
                weight.grad.mul_(masks[name])

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """Remove what the schedule says, and keep what was removed at zero."""
        self.inner.after_step(network, progress)
        bank: PrunedBank = hung(network, self.name)
        masks = bank.masks(network)
        if self.settings.rule == "magnitude" and (left := self._left(bank, progress)) is not None:
            masks = self._largest(_among(scores.magnitude(bank.weights(network)), masks), left)
        bank.mask(network, masks)

    def _left(self, bank: PrunedBank, progress: Progress) -> int | None:
        """How many entries the schedule leaves after this step; None if it does nothing now."""
        knobs = self.settings
        t = reached(progress.step, progress.steps, begin=knobs.begin, end=knobs.end, every=knobs.every)
        return None if t is None else remaining(bank.size, bank.keep, t)

    # What it is in the end

    def final_count(self, network: nn.Module) -> int:
        """The method's, less what will have been removed."""
        bank: PrunedBank = hung(network, self.name)
        return self.inner.final_count(network) - (bank.size - bank.keep)

    def structure(self, network: nn.Module) -> Structure:
        """The method's, and the masks on its bank."""
        inner, bank = self.inner.structure(network), hung(network, self.name)
        return dataclasses.replace(inner, masks={**inner.masks, **bank.masks(network)})

    def restore(self, network: nn.Module, structure: Structure) -> None:
        """The method's, then the masks."""
        bank: PrunedBank = hung(network, self.name)
        others = {name: mask for name, mask in structure.masks.items() if name not in bank.names}
        self.inner.restore(network, dataclasses.replace(structure, masks=others))
        bank.mask(network, structure.masks)

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """The method's, and how many of its bank's entries remain."""
        bank: PrunedBank = hung(network, self.name)
        return {**self.inner.allocation(network), "pruned_bank": {"entries": bank.size, "kept": bank.keep}}

    def side_information_bits(self, network: nn.Module) -> int:
        """The method's, and one bit for each entry of the bank."""
        bank: PrunedBank = hung(network, self.name)
        return self.inner.side_information_bits(network) + bank.size


class _Tempered(AddOn):
    """Divides the logits of the method within it by a temperature, before any criterion sees them."""

    name = "temperature"
    temperature: float

    def losses(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Iterator[Tensor]:
        """The method's, of its logits divided."""
        yield from self.inner.losses(
            network, batch, lambda logits, labels: criterion(logits / self.temperature, labels)
        )


def _tempered(method: Method, temperature: float) -> Method:
    """The method with the same add-ons, all of which see tempered logits."""
    if not isinstance(method, AddOn):
        tempered = _Tempered(method)
        tempered.temperature = temperature
        return tempered
    other = copy.copy(method)
    other.inner = _tempered(method.inner, temperature)
    return other


def _among(given: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores, those of removed entries below any other."""
    return {name: score.masked_fill(~masks[name], _LEAST) for name, score in given.items()}
