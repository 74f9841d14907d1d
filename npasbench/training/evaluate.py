"""Evaluation on the test set, once: probabilities, accuracy, negative log-likelihood, calibration error, diversity."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from npasbench.card import Recipe
from npasbench.training.recipe import autocast, format_inputs

BINS = 15


def predict(network: nn.Module, inputs: Iterable[Tensor], recipe: Recipe, device: torch.device) -> Tensor:
    """Log-probabilities ``[examples, classes]`` in float32 on the CPU; of an ensemble, of the members' mean probability."""
    return mean_prediction(predict_each(network, inputs, recipe, device))


def predict_each(network: nn.Module, inputs: Iterable[Tensor], recipe: Recipe, device: torch.device) -> Tensor:
    """As :func:`predict`, but of an ensemble each member's: ``[members, examples, classes]``."""
    network.eval()
    parts = []
    with torch.no_grad(), autocast(recipe, device):
        for batch in inputs:
            logits = network(format_inputs(batch.to(device), recipe)).float()
            parts.append(functional.log_softmax(logits, dim=-1).cpu())
    return torch.cat(parts, dim=-2)


def log_probabilities(logits: Tensor) -> Tensor:
    """``[batch, classes]`` or ``[members, batch, classes] -> [batch, classes]``."""
    return mean_prediction(functional.log_softmax(logits, dim=-1))


def mean_prediction(each: Tensor) -> Tensor:
    """Log of the members' mean probability: ``[members, examples, classes] -> [examples, classes]``; of one network, it."""
    return each if each.dim() == 2 else torch.logsumexp(each, dim=0) - float(np.log(each.shape[0]))


def score(log_probability: Tensor, labels: Tensor, names: Iterable[str]) -> dict[str, float]:
    """The named metrics: ``accuracy`` and ``top5`` (0 to 1), ``nll`` (nats), ``ece`` (0 to 1, 15 equal-width bins)."""
    metrics = {
        "accuracy": lambda: float((log_probability.argmax(1) == labels).double().mean()),
        "top5": lambda: float((log_probability.topk(5).indices == labels[:, None]).any(1).double().mean()),
        "nll": lambda: float(functional.nll_loss(log_probability.double(), labels)),
        "ece": lambda: calibration_error(log_probability, labels),
    }
    return {name: metrics[name]() for name in names}


def calibration_error(log_probability: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., ICML 2017, section 2): |accuracy - confidence| over equal-width bins."""
    confidence, predicted = log_probability.double().exp().max(1)
    right = (predicted == labels).double()
    which = torch.clamp((confidence * bins).ceil().long() - 1, 0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def diversity(each: Tensor, labels: Tensor) -> float | None:
    """How often two members predict different classes, over all pairs, divided by the ensemble's error.

    ``each`` is ``[members, examples, classes]``. From 0 (all members agree) up; None where that is no number: for one
    network, and for an ensemble without an error. The measure is that of the SuperWeights release.
    """
    if each.dim() == 2 or len(each) < 2:
        return None
    error = 1 - score(mean_prediction(each), labels, ["accuracy"])["accuracy"]
    pairs = itertools.combinations(each.argmax(-1), 2)
    differing = [float((one != other).double().mean()) for one, other in pairs]
    return sum(differing) / len(differing) / error if error > 0 else None


def correctness_bits(log_probability: Tensor, labels: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """One bit for each test example, packed: 1 where the prediction is right."""
    packed: np.ndarray[tuple[int], np.dtype[np.uint8]] = np.packbits((log_probability.argmax(1) == labels).numpy())
    return packed
