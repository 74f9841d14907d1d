"""When weights are removed while a network trains: the cubic schedule of Zhu & Gupta (arXiv 1710.01878, section 3)."""

from __future__ import annotations


def reached(step: int, steps: int, *, begin: float, end: float, every: int) -> float | None:
    """How far the schedule is after ``step`` (from 1) of ``steps``, 0 to 1; None if nothing is removed then.

    It runs from ``begin`` to ``end``, shares of all steps, and goes on in its first step, each ``every`` steps from
    there, and its last. That one is always a step of training, and gives exactly 1.
    """
    last = max(1, round(end * steps))
    first = min(round(begin * steps), last)
    if step == last:
        return 1.0
    if not first <= step < last or (step - first) % every:
        return None
    return (step - first) / (last - first)


def remaining(total: int, keep: int, t: float) -> int:
    """How many of ``total`` remain at ``t``, on the way to ``keep``: the sparsity is 1 - (1 - t)^3 of the last."""
    return total - int((total - keep) * (1 - (1 - t) ** 3))
