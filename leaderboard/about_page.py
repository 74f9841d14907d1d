"""What the page about the leaderboard says: the numbers in its sentences come from the code that they describe."""

from __future__ import annotations

from dataclasses import dataclass

from . import words
from .across import TELLING_TASKS
from .across_table import AREA, KEPT, RANK
from .comparing import DRAWN, EXACT_SEEDS, LEVEL, least_p
from .statistics import RANKED_SEEDS, TELLING_SEEDS
from .tables import Column, Item, Row, Sheet, Table
from .ties import MOST_LETTERS

_SEEDS = (3, 5, 6, 8, 10, 12)


@dataclass(frozen=True)
class AboutPage:
    """Numbers and definitions of the text."""

    level: str
    fewest_seeds: int
    telling_seeds: int
    telling_tasks: int
    exact_seeds: int
    flips: str
    letters: int
    rank: str
    area: str
    kept: str
    reach: Table
    """What a number of seeds can tell."""


def about_page() -> AboutPage:
    """The page."""
    return AboutPage(
        words.number(LEVEL, 0, scale=100), RANKED_SEEDS, TELLING_SEEDS, TELLING_TASKS, EXACT_SEEDS, words.count(DRAWN + 1),
        MOST_LETTERS, RANK, AREA, KEPT, _reach(),
    )  # fmt: skip


def _reach() -> Table:
    columns = (
        Column("Seeds in common"),
        Column("Smallest p", "of one pair"),
        Column("Can tell", f"p at most {LEVEL}"),
    )
    rows = tuple(
        Row((Item(str(n)), Item(_share(least_p(n))), Item("yes" if least_p(n) <= LEVEL else "no"))) for n in _SEEDS
    )
    caption = "The smallest p is 2/2^n, of a pair alone as of any number of pairs that are corrected together."
    return Table("reach", caption, columns, rows, Sheet((), ()))


def _share(value: float) -> str:
    return f"{value:.2g}"
