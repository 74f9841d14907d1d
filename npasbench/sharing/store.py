"""How a store of parameters is divided: groups of layers, a bank for each, a block of its bank for each layer.

SSN (Plummer et al., ICLR 2022, section 3). A group of one layer is not shared: it keeps a weight of its own, taken from
the same parameters; the others divide the rest in proportion to their layers' sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from npasbench.errors import BudgetTooSmall
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.placement import Block, Place
from npasbench.sharing.upsample import TooSmall

_MARGIN = 512


@dataclass(frozen=True)
class Group:
    """Layers that share a bank of ``bank`` entries; ``blocks`` says what each reads. A dense group has no blocks."""

    layers: tuple[LayerSpec, ...]
    bank: int
    blocks: tuple[Block, ...] = ()

    @property
    def dense(self) -> bool:
        """Whether this is one layer with a weight of its own."""
        return not self.blocks


@dataclass(frozen=True)
class Division:
    """The rule by which a store is divided.

    ``order`` gives the layers of each group in the bank's own order; ``place`` the blocks of a group's shapes in a bank;
    ``alone`` whether a layer that is alone in its group keeps a weight of its own; ``extras`` what generating weights
    costs beside the store.
    """

    order: tuple[tuple[LayerSpec, ...], ...]
    place: Place
    extras: Callable[[Sequence[Group]], int]
    alone: bool = True

    def at(self, parameters: int) -> list[Group]:
        """The groups for a store of ``parameters``; 0 makes every bank as large as its largest layer.

        Shares are rounded group by group, half to even as published, so their sum may miss ``parameters`` by one or two.

        Raises:
            TooSmall: if a bank would be empty, or too small for one of its layers.
        """
        return [self._group(layers, bank) for layers, bank in zip(self.order, self._banks(parameters), strict=True)]

    def largest(self, available: int) -> list[Group]:
        """The groups with the largest store that fits ``available`` together with everything else that is generated from.

        Raises:
            BudgetTooSmall: with the smallest ``available`` that can be met.
        """
        try:
            for parameters in range(self._begin(available), 0, -1):
                groups = self.at(parameters)
                if self.cost(groups) <= available:
                    return groups
        except TooSmall:
            pass
        raise BudgetTooSmall(smallest=self.cost(self.at(self.smallest(available))))

    def _begin(self, available: int) -> int:
        """A store that is surely large enough to begin the search with, without counting down from ``available``.

        Smaller stores have fewer coefficients; only projections may grow, by less than the margin.
        """
        below = available - self.extras(self.at(available))
        return min(available, available - self.extras(self.at(max(1, below))) + _MARGIN) if below > 0 else available

    def smallest(self, above: int = 1) -> int:
        """The smallest store with which every layer can be given a weight; found by bisection."""
        low, high = 0, max(1, above)
        while not self._fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(middle) else (middle, high)
        return high

    def cost(self, groups: Sequence[Group]) -> int:
        """All scalars that the weights of these groups are generated from."""
        return sum(group.bank for group in groups) + self.extras(groups)

    def _banks(self, parameters: int) -> list[int]:
        sizes = [sum(layer.size for layer in layers) for layers in self.order]
        own = [self.alone and len(layers) == 1 for layers in self.order]
        available = parameters - sum(size for size, is_own in zip(sizes, own, strict=True) if is_own)
        shared = sum(size for size, is_own in zip(sizes, own, strict=True) if not is_own)
        if parameters == 0:
            return [max(layer.size for layer in layers) for layers in self.order]
        if available < 0:
            raise TooSmall(f"{-available:,} parameters are missing for layers that are not shared")
        return [size if is_own else round(size / shared * available) for size, is_own in zip(sizes, own, strict=True)]

    def _group(self, layers: tuple[LayerSpec, ...], bank: int) -> Group:
        if self.alone and len(layers) == 1:
            return Group(layers, bank)
        if bank < 1:
            raise TooSmall("a group of layers is left without a bank")
        return Group(layers, bank, tuple(self.place([layer.shape for layer in layers], bank)))

    def _fits(self, parameters: int) -> bool:
        try:
            self.at(parameters)
        except TooSmall:
            return False
        return True
