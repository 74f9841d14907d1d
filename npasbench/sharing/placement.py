"""Where each layer's templates lie in its group's bank (SSN, Plummer et al., ICLR 2022, section 3.1).

A layer of size P reads a block of K templates: K * P neighbouring entries, read as ``[K, P]``. Blocks of one size
follow one another, shapes that occur often come first, and whoever would run over the end starts again at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from npasbench.sharing.upsample import Stretch


@dataclass(frozen=True)
class Block:
    """What one layer reads: ``templates`` of equal size between ``start`` and ``end`` of the bank.

    ``small`` is the shape that bilinear upsampling starts from, ``copies`` the number of extra copies that the other
    kinds of upsampling make; both are None where the bank is as large as the layer.
    """

    templates: int
    start: int
    end: int
    small: tuple[int, ...] | None = None
    copies: int | None = None

    @property
    def upsampled(self) -> bool:
        """Whether the layer is larger than what it reads."""
        return self.small is not None or self.copies is not None


Place = Callable[[Sequence[tuple[int, ...]], int], list[Block]]
"""Blocks for the shapes of a group's layers in a bank of a size; raises ``TooSmall``."""


def template_count(size: int, bank: int, most: int) -> int:
    """K: how many layers of this size the bank could hold, at least 1 and at most ``most``."""
    return min(max(1, bank // size), most)


def place_blocks(
    shapes: Sequence[tuple[int, ...]], bank: int, most: Sequence[int], stretch: Stretch, *, sliding: bool = False
) -> list[Block]:
    """The published placement, entry by entry; ``shapes`` are in the bank's own order, ``most`` limits their templates.

    A block size that is new begins at the first multiple of itself behind all that was begun before, or at 0 if that is
    past its K-th block. ``sliding`` starts over after K blocks of one size, as the release does for groups of layers by
    class or shape.

    Raises:
        TooSmall: if a layer cannot be upsampled from this bank.
    """
    blocks: dict[int, Block] = {}
    cursors: dict[int, tuple[int, int]] = {}  # block size -> next block, blocks before starting over
    begun = 0
    for index in by_frequency(shapes):
        wanted = _wanted(shapes[index], bank, most[index], stretch)
        size = wanted.end
        if size not in cursors:
            first = -(-begun // size)
            begun, first = (0, 0) if first >= wanted.templates else (begun + size, first)
            cursors[size] = (first, wanted.templates)
        cursor, limit = cursors[size]
        if (cursor + 1) * size > bank:
            cursor = 0
        blocks[index] = _at(wanted, cursor * size, bank)
        cursor += 1
        cursors[size] = (0 if sliding and cursor == limit else cursor, limit)
    return [blocks[index] for index in range(len(shapes))]


def cover_bank(shapes: Sequence[tuple[int, ...]], bank: int, most: Sequence[int], stretch: Stretch) -> list[Block]:
    """A placement that leaves no entry unread if all blocks together are as long as the bank, and else reads them all.

    Large blocks are placed first, each where the last one ended; the last one of a round is aligned with the bank's end
    instead of leaving a rest. Layers of one size therefore meet at the same few places, and are mixed in one product.

    Raises:
        TooSmall: if a layer cannot be upsampled from this bank.
    """
    wanted = [_wanted(shape, bank, limit, stretch) for shape, limit in zip(shapes, most, strict=True)]
    blocks: dict[int, Block] = {}
    cursor = 0
    for index in sorted(range(len(shapes)), key=lambda i: -wanted[i].end):
        size = wanted[index].end
        last = bank - min(size, bank)
        start = min(cursor, last)
        blocks[index] = _at(wanted[index], start, bank)
        cursor = 0 if start == last else start + size
    return [blocks[index] for index in range(len(shapes))]


def fewest_templates(shapes: Sequence[tuple[int, ...]], bank: int, most: int, stretch: Stretch) -> list[int]:
    """As few templates for each layer as read the whole bank, and at most ``most``.

    As many as the bank could hold whole networks. What is left then is given to as few layers as can be, one template
    more each: to the smallest that reads all of it, or else to the largest and so on. Layers that can mix no more, since
    the bank does not hold it, leave it to the others. Where all have their most and that is less than the bank (more than
    ``most`` whole networks, or layers that are upsampled only), the rest stays unread.

    Raises:
        TooSmall: if a layer cannot be upsampled from this bank.
    """
    wanted = [_wanted(shape, bank, most, stretch) for shape in shapes]
    limits = [block.templates for block in wanted]
    sizes = [min(block.end, bank) // block.templates for block in wanted]
    counts = [whole_networks(shapes, bank, most)] * len(sizes)
    left = bank - counts[0] * sum(sizes)
    while left > 0 and (able := [i for i, limit in enumerate(limits) if counts[i] < limit]):
        rounds = min(left // sum(sizes[i] for i in able), *(limits[i] - counts[i] for i in able))
        more = able * rounds or _fewest_of(able, sizes, left)
        for index in more:
            counts[index] += 1
        left -= sum(sizes[index] for index in more)
    return counts


def whole_networks(shapes: Sequence[tuple[int, ...]], bank: int, most: int) -> int:
    """How many times all these layers fit a bank, at least 1 and at most ``most``."""
    return template_count(sum(math.prod(shape) for shape in shapes), bank, most)


def _fewest_of(layers: Sequence[int], sizes: Sequence[int], left: int) -> list[int]:
    """As few of these layers as are together as large as what is ``left``."""
    rest, chosen = sorted(layers, key=lambda i: sizes[i]), []
    while left > 0 and rest:
        chosen.append(rest.pop(next((i for i, layer in enumerate(rest) if sizes[layer] >= left), len(rest) - 1)))
        left -= sizes[chosen[-1]]
    return chosen


def by_frequency(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Layers ordered by how often their shape occurs, most frequent first; ties and layers as they were registered."""
    members: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape, []).append(index)
    return [index for group in sorted(members.values(), key=len, reverse=True) for index in group]


def unread(blocks: Sequence[Block], bank: int) -> int:
    """How many entries of a bank no layer reads."""
    end = read = 0
    for block in sorted(blocks, key=lambda block: block.start):
        read += max(0, block.end - max(end, block.start))
        end = max(end, block.end)
    return bank - read


def _wanted(shape: tuple[int, ...], bank: int, most: int, stretch: Stretch) -> Block:
    """The block a layer needs, as if it began at 0; its end may lie behind the bank's where copies fill the layer."""
    size = math.prod(shape)
    if size <= bank:
        templates = template_count(size, bank, most)
        return Block(templates, 0, templates * size)
    small = stretch.small(shape, bank)
    if small is not None:
        return Block(1, 0, math.prod(small), small=small)
    return Block(1, 0, size, copies=stretch.copies(size, bank))


def _at(wanted: Block, start: int, bank: int) -> Block:
    return Block(wanted.templates, start, min(start + wanted.end, bank), wanted.small, wanted.copies)
