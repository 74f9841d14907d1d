"""The trained network on corrupted test images, where a card asks for them and they are under the data root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from npasbench.card import Card
from npasbench.data import data_root
from npasbench.data.corrupted import read
from npasbench.errors import DataError
from npasbench.running.record import CorruptedResult
from npasbench.training.evaluate import predict, score


def tested_on_corrupted(
    network: nn.Module, card: Card, device: torch.device, root: Path | None, test_labels: Tensor
) -> CorruptedResult:
    """The card's metrics for each corruption and their mean; if the images are not there or damaged, why.

    ``test_labels`` are those of the clean test images.
    """
    try:
        parts = list(read(card.data, data_root(root), test_labels))
    except DataError as error:
        return CorruptedResult(absent=str(error))
    by_corruption: dict[str, list[dict[str, float]]] = {}
    for part in parts:
        predicted = predict(network, part.test(card.recipe.batch_size * 10), card.recipe, device)
        found = score(predicted, part.labels, card.metrics)
        by_corruption.setdefault(part.corruption, []).append(found)
    each = {corruption: _mean(over_severities) for corruption, over_severities in by_corruption.items()}
    return CorruptedResult(metrics=_mean(each.values()), corruptions=each, test_examples=len(parts[0].labels))


def _mean(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = list(several)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
