"""How far a run was verified by somebody else than who made it, as pages say it."""

from __future__ import annotations

from npasbench.running.verification import STATES

from .board import Cell
from .store import Run

MEANING = {
    "submitted": "as its author sent it",
    "re-evaluated": "predicted again from the stored weights",
    "re-run": "trained again from its spec",
}


def verification(run: Run) -> str:
    """Submitted, re-evaluated or re-run; nothing for a run without numbers."""
    return run.verified if run.accuracy is not None else ""


def weakest(cell: Cell) -> str:
    """What holds for every counted run of a cell; nothing where there is none."""
    states: tuple[str, ...] = STATES
    return min((verification(run) for run in cell.counted), key=states.index, default="")
