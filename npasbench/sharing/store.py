"""How a store of parameters is divided: groups of layers, a bank for each, a block of its bank for each layer.

SSN (Plummer et al., ICLR 2022, section 3.1). A group of one layer is not shared: it keeps a weight of its own, taken from
the same parameters; the others divide the rest in proportion to their layers' sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from npasbench.errors import BudgetTooSmall
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.placement import Block, Place
from npasbench.sharing.upsample import TooSmall

_MARGIN, _TRIALS = 512, 400


class Extras(NamedTuple):
    """What generating weights costs beside the store: what rises with its size, what falls with it, and the rest."""

    rising: int
    falling: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.rising + self.falling + self.other


@dataclass(frozen=True)
class Group:
    """Layers that share a bank of ``bank`` entries; ``blocks`` says what each reads. A dense group has no blocks."""

    layers: tuple[LayerSpec, ...]
    bank: int
    blocks: tuple[Block, ...] = ()

    @property
    def dense(self) -> bool:
        """Whether this is one layer with a weight of its own."""
        return len(self.blocks) == 0


@dataclass(frozen=True)
class Division:
    """The rule by which a store is divided.

    ``order`` gives the layers of each group in the bank's own order; ``place`` the blocks of a group's shapes in a bank;
    ``alone`` whether a layer that is alone in its group keeps a weight of its own; ``extras`` what generating weights
    costs beside the store. Where a larger bank may ask for fewer templates, ``floor`` places no more than any larger one does.
    """

    order: tuple[tuple[LayerSpec, ...], ...]
    place: Place
    extras: Callable[[Sequence[Group]], Extras]
    alone: bool = True
    floor: Place | None = None

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
        least = self.smallest(available)
        store = available
        spared = self._spared(max(least, self._below(available))) if store >= least else 0
        while store >= least:
            groups = self.at(store)
            if self.cost(groups) <= available:
                return groups
            # In a smaller store what falls with its size costs no less, and what rises no less than in the smallest.
            store = min(store - 1, available - self.extras(groups).falling - spared)
        raise BudgetTooSmall(smallest=self._least_cost(least))

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
        return sum(group.bank for group in groups) + self.extras(groups).total

    def _spared(self, store: int) -> int:
        """The least that rises with the size of a store, in any that is no smaller than this."""
        return self.extras(replace(self, place=self.floor or self.place).at(store)).rising

    def _below(self, available: int) -> int:
        """A store that is no larger than the answer can be, where nothing falls with its size; else 0."""
        extras = self.extras(self.at(available))
        return 0 if extras.falling else available - extras.rising - 2 * extras.other - _MARGIN

    def _least_cost(self, least: int) -> int:
        """The least that any store from ``least`` on costs: more of it may need fewer copies or projections, and so cost less."""
        highest = self.cost(self.at(least))
        if not self.extras(self.at(least)).falling:
            return self._least_from(least, highest)
        step = max(1, (highest - least) // _TRIALS)
        costs = {store: self.cost(self.at(store)) for store in range(least, highest + step, step)}
        # Just below a store nothing that falls with the size is cheaper, so at most a step can be saved there.
        promising = [store for store, cost in costs.items() if cost - step < min(costs.values())]
        near = {one for store in promising for one in range(max(least, store - step + 1), store + 1)}
        return min(self.cost(self.at(store)) for store in near)

    def _least_from(self, store: int, least: int) -> int:
        """The least that any store from this one on costs, all of them tried until they alone cost more."""
        spared, rounded = self._spared(store), len(self.order)
        while store + spared - rounded < least:
            store += 1
            least = min(least, self.cost(self.at(store)))
        return least

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
