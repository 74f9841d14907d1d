"""Errors that tell a user what was given, what was expected and what to do next.

Every mistake of a user ends in one of these, and the command line prints the sentence instead of a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NpasbenchError(Exception):
    """A mistake that its message explains in a sentence; the command line ends with :attr:`exit_code`."""

    exit_code = 1


class UsageError(NpasbenchError):
    """The call itself is wrong: an unknown name, a value that cannot be read, an impossible combination."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing answers to; the message offers the nearest ones and then all of them."""

    def __init__(self, kind: str, given: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
        guess = f" Did you mean {_either(near)}?" if near else ""
        every = f" Known: {', '.join(names)}." if names else f" There is no {kind} at all."
        super().__init__(f"Unknown {kind} '{given}'.{guess}{every}{' ' + hint if hint else ''}")
        self.given, self.near = given, near


class CardError(UsageError):
    """A task card or suite that cannot be read: names the file, the line or key, and the fix."""


class DataError(NpasbenchError):
    """A data set that is not where it was looked for, or damaged: names the folder or file, and how to get it."""


class PluginError(NpasbenchError):
    """A plugin that could not be imported or broke the contract: names the plugin, where it came from and its error."""


class PluginWarning(UserWarning):
    """A plugin that cannot be used, but that nobody has asked for by name yet."""


class MissingLibrary(NpasbenchError):
    """A method needs a library that is not installed: names both, and how to install it where that is known."""


class MethodError(NpasbenchError):
    """A method broke its contract while it built or trained a network (wrong shape, wrong name, NaN)."""


class BudgetTooSmall(NpasbenchError):
    """A method cannot meet a budget. ``smallest`` is the least number of parameters it can, where known; ``hint`` a
    sentence on what else would help.

    A :class:`~npasbench.api.SharingMethod` raises it from ``generator`` with the parameters that its generator
    needs at least; the harness adds what lies outside the generator and names the total.
    """

    def __init__(self, message: str = "", *, smallest: int | None = None, hint: str = "") -> None:
        least = (
            f"{smallest:,} parameters are the least it can be built with" if smallest else "it cannot be built so small"
        )
        super().__init__(f"{message or least} {hint}".rstrip())
        self.smallest, self.hint = smallest, hint


class LayerCollapse(NpasbenchError):
    """Pruning would leave nothing of a layer, so that no signal passes it. ``layers`` are the names of such weights."""

    def __init__(self, layers: Iterable[str], keep: int) -> None:
        self.layers = tuple(layers)
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        super().__init__(
            f"Layer collapse: keeping the {keep:,} largest scores leaves nothing of {', '.join(self.layers[:3])}{more}. "
            "Take a larger budget, or a rule that keeps a share of every layer."
        )


class RunError(NpasbenchError):
    """Something about a run directory: a file that is missing, damaged or does not fit."""


class WriteError(RunError):
    """A file cannot be written: read-only, no permission, disk full. No fault of the run, which stays open."""

    run = ""
    """The run at which a worker came to it."""


class LeaseLost(RunError):
    """Another worker has taken the run over; this one must not touch it any more."""


class TeamEnded(RunError):
    """The processes that train one run together cannot go on: one has failed, and the others may wait for it."""


def _either(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
