"""Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(NeurIPS 2017, arXiv 1612.01474).

Section 2.4: M networks that differ in their random initialisation, trained on the same data, predict by the mean of their
probabilities. Here all of them together fit the budget, so each is narrow. Without the adversarial training of section
2.3, and all members see the same mini-batches in the same order.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from npasbench.api import Architecture, Findings, Knobs, Method, Problem
from npasbench.measuring.count import count

from .narrow import Narrow, widest


class EnsembleKnobs(Knobs):
    """``members``: how many there are; by default as many as the task lists."""

    members: int | None = Field(None, ge=2)


class DeepEnsembleKnobs(EnsembleKnobs):
    """``of``: ``largest`` is copies of the task's largest architecture, ``listed`` one of each that it lists."""

    of: Literal["largest", "listed"] = "largest"

    @model_validator(mode="after")
    def _listed_members_are_not_counted_twice(self) -> Self:
        if self.of == "listed" and self.members is not None:
            raise ValueError("with of=listed the members are those that the task lists; leave members out")
        return self


class DeepEnsemble(Method):
    """Independent members, each initialised on its own and as wide as lets all of them fit the budget."""

    knobs = DeepEnsembleKnobs
    cite = """@inproceedings{lakshminarayanan2017simple,
  title = {Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles},
  author = {Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2017}
}"""

    def skip(self, problem: Problem) -> str | None:
        """One member is no ensemble, and an architecture without a width setting cannot be narrowed."""
        return no_ensemble(problem, self.settings.members) or Narrow().skip(self._ensemble(problem))

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """The widest members that fit, all narrowed by the same factor."""
        ensemble = self._ensemble(problem)
        return ensemble.create(
            width=widest(ensemble.architectures, problem.budget.parameters, problem.budget.accounting)
        )

    def _ensemble(self, problem: Problem) -> Problem:
        return problem if self.settings.of == "listed" else copies_of_largest(problem, self.settings.members)


def no_ensemble(problem: Problem, members: int | None) -> str | None:
    """Why there is nothing to build an ensemble of, or None."""
    if members is None and len(problem.architectures) == 1:
        return "the task has one member; say how many there shall be, such as members=4"
    return None


def copies_of_largest(problem: Problem, members: int | None) -> Problem:
    """The problem with ``members`` (by default as many as it has) copies of its largest architecture."""
    number = members or len(problem.architectures)
    return dataclasses.replace(problem, architectures=(max(problem.architectures, key=_size),) * number)


def _size(architecture: Architecture) -> int:
    with torch.device("meta"):
        return count(architecture.create()).total
