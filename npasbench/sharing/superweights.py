"""SuperWeights: the pieces from which layers of different shapes are composed, and how many templates each piece gets.

Teterwak et al., "Learning to Compose SuperWeights" (WACV 2024, section 3.1). The distinct shapes of a cluster, ordered by
size, form a chain: the first SuperWeight is the smallest shape, each further one turns a shape into the next. A layer of
the t-th shape is composed of SuperWeights 0 to t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from npasbench.errors import BudgetTooSmall
from npasbench.sharing.layers import LayerSpec

CAP = 8
"""The most templates of one SuperWeight under the published allocation."""


class Region(NamedTuple):
    """A rectangle of a weight, rows times columns, that is cut out of a SuperWeight.

    The SuperWeight's block begins at ``offset`` and is ``width`` columns wide; its leading ``rows`` and ``columns`` land
    at ``top`` and ``left``. One column holds all scalars of a kernel; offsets count scalars.
    """

    superweight: int
    offset: int
    width: int
    rows: int
    columns: int
    top: int
    left: int


@dataclass(frozen=True)
class Cluster:
    """Layers that may share parameters: their weights have one kernel shape and any numbers of rows and columns."""

    layers: tuple[LayerSpec, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The weights' shape beyond rows and columns; empty for linear layers."""
        return self.layers[0].shape[2:]

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct shapes, ascending by number of scalars, then rows, then columns."""
        return tuple(sorted({layer.shape for layer in self.layers}, key=lambda shape: (math.prod(shape), *shape)))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Scalars of each SuperWeight."""
        return tuple(sum(rows * columns for rows, columns, _, _ in blocks) * self.unit for blocks in self._blocks)

    @property
    def unit(self) -> int:
        """Scalars of one kernel."""
        return math.prod(self.kernel)

    def level(self, layer: LayerSpec) -> int:
        """The last SuperWeight of a layer: it is composed of those from 0 to this one."""
        return self.shapes.index(layer.shape)

    def users(self, superweight: int) -> list[int]:
        """The positions of the layers that are composed of a SuperWeight."""
        return [position for position, layer in enumerate(self.layers) if self.level(layer) >= superweight]

    def regions(self, level: int) -> list[Region]:
        """The disjoint rectangles that make up a weight of the given level."""
        regions: list[Region] = []
        for index, (blocks, (rows, columns, *_)) in enumerate(
            zip(self._blocks, self.shapes[: level + 1], strict=False)
        ):
            regions = [cut for region in regions if (cut := _cut(region, rows, columns))]
            offset = 0
            for height, width, top, left in blocks:
                regions.append(Region(index, offset, width, height, width, top, left))
                offset += height * width * self.unit
        return regions

    @cached_property
    def _blocks(self) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
        """The blocks of each SuperWeight as rows, columns, top and left: first what widens the rows, then what is below."""
        all_blocks = []
        r = c = 0
        for rows, columns, *_ in self.shapes:
            beside = (min(r, rows), columns - c, 0, c)
            below = (rows - r, columns, r, 0)
            all_blocks.append(tuple(block for block in (beside, below) if block[0] > 0 and block[1] > 0))
            r, c = rows, columns
        return tuple(all_blocks)


def _cut(region: Region, rows: int, columns: int) -> Region | None:
    """What is left of a region in a weight of so many rows and columns."""
    kept = region._replace(rows=min(region.rows, rows - region.top), columns=min(region.columns, columns - region.left))
    return kept if kept.rows > 0 and kept.columns > 0 else None


# How many templates


@dataclass(frozen=True)
class Piece:
    """What one SuperWeight costs: ``size`` scalars a template, ``uses`` layers, ``rows`` coefficients a template."""

    size: int
    uses: int
    rows: int

    @property
    def cost(self) -> int:
        """Scalars of one template with its coefficients."""
        return self.size + self.rows


def published_templates(pieces: Sequence[Piece], parameters: int) -> list[int]:
    """Templates for each SuperWeight by the release's rule, out of ``parameters`` scalars for templates alone.

    Seven rounds over SuperWeights with more uses than templates, then seven over all, up to 8; a template is added only
    while something is left after it. 0 parameters: one each.

    Raises:
        BudgetTooSmall: if there is not one for each.
    """
    templates = [1] * len(pieces)
    base = sum(piece.size for piece in pieces)
    if parameters == 0:
        return templates
    if base > parameters:
        raise BudgetTooSmall(smallest=base)
    excess = parameters - base
    for uses in range(1, CAP):
        for index, piece in enumerate(pieces):
            if piece.uses > uses and excess - piece.size > 0:
                templates[index] += 1
                excess -= piece.size
    for _ in range(1, CAP):
        for index, piece in enumerate(pieces):
            if templates[index] < CAP and excess - piece.size > 0:
                templates[index] += 1
                excess -= piece.size
    return templates


def published_within(pieces: Sequence[Piece], parameters: int) -> list[int]:
    """As :func:`published_templates`, out of ``parameters`` for templates and coefficients together.

    Raises:
        BudgetTooSmall: if there is not one template for each, with its coefficients.
    """
    least = sum(piece.cost for piece in pieces)
    if parameters < least:
        raise BudgetTooSmall(smallest=least)
    limit = parameters - sum(piece.rows for piece in pieces)
    while True:
        templates = published_templates(pieces, limit)
        over = sum(n * piece.cost for n, piece in zip(templates, pieces, strict=True)) - parameters
        if over <= 0:
            return templates
        limit = max(limit - over, sum(piece.size for piece in pieces))


def full_templates(pieces: Sequence[Piece], parameters: int, *, counts_coefficients: bool = True) -> list[int]:
    """Templates for each SuperWeight that leave less unused than one more of the cheapest would cost.

    As published, rounds over SuperWeights with more uses than templates come first, then rounds over all, up to 8 each.
    What is left then goes beyond 8, in further rounds over all. After the first rounds the largest come first.

    Raises:
        BudgetTooSmall: if there is not one template for each.
    """
    costs = [piece.cost if counts_coefficients else piece.size for piece in pieces]
    excess = parameters - sum(costs)
    if excess < 0:
        raise BudgetTooSmall(smallest=sum(costs))
    templates = [1] * len(pieces)

    def add(index: int, number: int = 1) -> None:
        nonlocal excess
        number = min(number, excess // costs[index])
        templates[index] += number
        excess -= number * costs[index]

    for uses in range(1, CAP):
        for index, piece in enumerate(pieces):
            if piece.uses > uses:
                add(index)
    largest_first = sorted(range(len(pieces)), key=lambda index: (-costs[index], index))
    for _ in range(1, CAP):
        for index in largest_first:
            if templates[index] < CAP:
                add(index)
    while excess >= min(costs):
        rounds = max(1, excess // sum(costs))
        for index in largest_first:
            add(index, rounds)
    return templates
