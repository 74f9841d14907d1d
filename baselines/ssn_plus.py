"""Shapeshifter Networks (see :mod:`.ssn`) with what the release leaves on the table; every change is a knob.

The release leaves 15 to 45 % of a bank unread, lets the deviation of a layer's first weights fall to a tenth of what its
initialisation asks for or rise to twice that, mixes as many templates as fit even where the budget would give each layer
its own, steps on coefficients as far as on weights though one moves a whole template, and clusters raw embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch

from npasbench.api import BudgetTooSmall, LayerSpec
from npasbench.sharing.generate import BankedWeights
from npasbench.sharing.initial import common_std, normal
from npasbench.sharing.placement import Block, cover_bank, fewest_templates, place_blocks, whole_networks
from npasbench.sharing.store import Division, Group

from .ssn import Ssn, SsnKnobs


class SsnPlusKnobs(SsnKnobs):
    """As for ``ssn``, and for each change ``published`` (or ``raw``) to undo it.

    ``placement = "cover"`` leaves no entry of a bank unread that its layers' templates can read. ``templates = "fewest"``
    gives every layer as many templates as the bank could hold whole networks, and a few layers some more so that all of
    it is read: layers share no more than the budget forces them to; ``published`` as many as fit. A bank that is larger
    than every layer's ``max_templates``, or whose layers are all upsampled from less, keeps a rest that nobody reads.
    ``initial = "preserving"`` gives every layer's first weights the deviation of its own initialisation.
    ``steps = "weights"`` measures coefficients in units of their templates' norms, so that a step on one moves a weight
    no further than a step on the weight. ``alone = "upsampled"`` lets a layer that is alone in its group read a bank
    like any other where its whole weight does not fit the budget; ``published`` refuses the budget.
    ``vectors = "standardised"`` is what learned groups are clustered by.
    """

    placement: Literal["cover", "published"] = "cover"
    templates: Literal["fewest", "published"] = "fewest"
    initial: Literal["preserving", "published"] = "preserving"
    alone: Literal["upsampled", "published"] = "upsampled"
    steps: Literal["weights", "published"] = "weights"
    vectors: Literal["standardised", "raw"] = "standardised"


class SsnPlus(Ssn):
    """Shapeshifter Networks that use their whole bank, start with the right variance and share no more than they must."""

    knobs = SsnPlusKnobs
    version = 2

    def divided(self, division: Division, parameters: int, exact: bool) -> list[Group]:
        """Layers alone in their groups keep a weight of their own if it fits, or read a bank if it does not.

        Raises:
            BudgetTooSmall: with the smallest ``parameters`` of either.
        """
        try:
            return super().divided(division, parameters, exact)
        except BudgetTooSmall as error:
            if self.settings.alone == "published":
                raise
            kept = error.smallest
        try:
            return super().divided(dataclasses.replace(division, alone=False), parameters, exact)
        except BudgetTooSmall as error:
            raise BudgetTooSmall(
                smallest=min((n for n in (kept, error.smallest) if n is not None), default=None)
            ) from None

    def division(self, layers: Sequence[LayerSpec], numbers: Sequence[int]) -> Division:
        """As published, but that a larger bank may need fewer of the fewest templates."""
        division = super().division(layers, numbers)
        return dataclasses.replace(division, floor=self._whole if self.settings.templates == "fewest" else None)

    def place(self, shapes: Sequence[tuple[int, ...]], bank: int, sliding: bool) -> list[Block]:
        """Blocks that together read as much of the bank as their templates can."""
        if self.settings.placement == "published":
            return super().place(shapes, bank, sliding)
        return cover_bank(shapes, bank, self.most(shapes, bank), self.stretch)

    def most(self, shapes: Sequence[tuple[int, ...]], bank: int) -> list[int]:
        """As few templates as read the whole bank, if ``max_templates`` do."""
        if self.settings.templates == "published":
            return super().most(shapes, bank)
        return fewest_templates(shapes, bank, self.settings.max_templates, self.stretch)

    def _whole(self, shapes: Sequence[tuple[int, ...]], bank: int) -> list[Block]:
        """With the templates that nobody goes below: as many as the bank could hold whole networks."""
        least = whole_networks(shapes, bank, self.settings.max_templates)
        return place_blocks(shapes, bank, [least] * len(shapes), self.stretch)

    def generator(self, groups: Sequence[Group], rng: torch.Generator) -> BankedWeights:
        """Banks and coefficients whose first weights have the deviation of each layer's own initialisation."""
        weights = super().generator(groups, rng)
        with torch.no_grad():
            if self.settings.initial == "preserving":
                for index, bank in weights.bank.items():
                    bank.copy_(normal(bank.numel(), std=common_std(groups[int(index)].layers), rng=rng))
                weights.preserve_variance()
            if self.settings.steps == "weights":
                weights.slow_coefficients()
        return weights

    @property
    def standardised(self) -> bool:
        """Whether learned groups are clustered by standardised vectors."""
        return bool(self.settings.vectors == "standardised")
