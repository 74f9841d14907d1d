"""Step 2 of the SuperWeight search: layers that mix alike but whose coefficients' gradients disagree go separate ways.

Teterwak et al. (WACV 2024, section 3.2). A class of layers shares one row of coefficients; where it falls apart, the
first part keeps the row and every further part gets one new row with the same values and the same momentum, so no weight
changes at that moment.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from npasbench.sharing.agreement import Linkage, agreeing, cosines
from npasbench.sharing.composed import Classes, ComposedWeights


def unshare(weights: ComposedWeights, optimizer: torch.optim.Optimizer, threshold: float, rule: Linkage) -> int:
    """Split the classes of all SuperWeights by the evidence gathered so far, and forget it. Returns the number of new rows."""
    classes: Classes = {}
    sources: dict[str, list[int]] = {}
    for key, numbers in weights.classes.items():
        heard = f"evidence{key}" in dict(weights.named_buffers())
        classes[key], sources[key] = (
            _split(numbers, weights.evidence(key), threshold, rule)
            if heard
            else (numbers, list(range(1 + max(numbers))))
        )
    old = {key: weights.coefficients[key] for key in classes}
    weights.set_classes(classes)
    with torch.no_grad():
        for key, rows in sources.items():
            new = weights.coefficients[key]
            if new is not old[key]:
                new.copy_(old[key][rows])
                _replace(optimizer, old[key], new, rows)
    for name, buffer in weights.named_buffers():
        if name.startswith("evidence"):
            buffer.zero_()
    return sum(weights.coefficients[key].shape[0] - old[key].shape[0] for key in classes)


def _split(numbers: list[int], evidence: Tensor, threshold: float, rule: Linkage) -> tuple[list[int], list[int]]:
    """The new classes, and for each new row the old one that it comes from."""
    split, sources = list(numbers), list(range(1 + max(numbers)))
    for number in range(1 + max(numbers)):
        places = [place for place, one in enumerate(numbers) if one == number]
        vectors = [evidence[place].cpu() for place in places]
        if len(places) == 1 or not any(bool(vector.any()) for vector in vectors):
            continue
        parts = agreeing(cosines(vectors), threshold, rule, both_directions=False)
        for part in range(1, 1 + max(parts)):
            sources.append(number)
            for place, one in zip(places, parts, strict=True):
                if one == part:
                    split[place] = len(sources) - 1
    return split, sources


def _replace(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, rows: list[int]) -> None:
    """Put a parameter in another's place, with its state: rows of what has its shape, the rest as it is."""
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is not None:
        optimizer.state[new] = {
            name: value[rows].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
            for name, value in state.items()
        }
