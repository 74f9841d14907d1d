"""The protocol ``holdout-best``: of all epochs the one that is best on held-out training images is tested."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from npasbench.building import build
from npasbench.data import DataSet
from npasbench.data.loading import Loader
from npasbench.measuring.count import count, rounding
from npasbench.method import Findings, Method, Structure
from npasbench.plan import RunSpec
from npasbench.problem import Problem
from npasbench.running.record import HeldOut
from npasbench.training.evaluate import predict
from npasbench.training.loop import Training
from npasbench.training.recipe import place


class BestEpoch:
    """Looks at the held-out images after every epoch, and keeps what the network was at the best; the first of equals.

    An epoch at whose end the network is larger than its budget, as while it is being pruned, cannot be the best, unless
    there is no other.
    """

    def __init__(self, spec: RunSpec, data: DataSet) -> None:
        self.spec, self.data = spec, data
        self._kept: dict[str, Any] = {}
        self._loader: Loader | None = None

    def look(self, training: Training) -> float:
        """Accuracy on the held-out images after the epoch that has just ended; random generators stay where they are."""
        labels = self.data.held_labels
        if labels is None:
            raise ValueError("the protocol holds no images out")
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            self._loader = self._loader or self.data.held_loader(training.device)
            inputs = self.data.held(training.recipe.batch_size * 10, training.device, self._loader)
            predicted = predict(training.network, inputs, training.recipe, training.device).argmax(1)
        right, within = int((predicted == labels).sum()), self._within_budget(training)
        if not self._kept or (within, right) > (self._kept["within"], self._kept["right"]):
            structure = training.method.structure(training.network)
            kept = {
                "epoch": training.epoch + 1,
                "within": within,
                "right": right,
                "network": training.network.state_dict(),
                "masks": dict(structure.masks),
                "tensors": dict(structure.tensors),
                "facts": dict(structure.facts),
            }
            self._kept = copy.deepcopy(kept)
        return right / len(labels)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return self._kept

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._kept = state

    def close(self) -> None:
        """End the processes that decode held-out images, if there are any."""
        if self._loader is not None:
            self._loader.close()

    def network(self, method: Method, problem: Problem, findings: Findings, device: torch.device) -> nn.Module:
        """The best epoch's network, built anew: the trained one may have grown or lost parts since."""
        network = build(method, problem, findings, self.spec.seed)
        kept = self._kept
        method.restore(network, Structure(kept["masks"], kept["tensors"], kept["facts"]))
        network.load_state_dict(kept["network"])
        return place(network, self.spec.task.recipe, device)

    def result(self) -> HeldOut:
        """What the record says of it."""
        examples = 0 if self.data.held_labels is None else len(self.data.held_labels)
        return HeldOut(epoch=self._kept["epoch"], examples=examples, accuracy=self._kept["right"] / examples)

    def _within_budget(self, training: Training) -> bool:
        counted = count(training.network, masks=training.method.structure(training.network).masks)
        accounting = self.spec.task.accounting
        held = counted.held(accounting)
        return held <= self.spec.budget_parameters + rounding(training.network, accounting)
