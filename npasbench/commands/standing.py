"""How all runs of a folder stand: from the run directories first, what batches planned and the scheduler says second."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from npasbench.commands.estimates import duration
from npasbench.commands.jobs import Jobs, look, sentence
from npasbench.commands.wording import plural, what_is_wrong
from npasbench.running.progress import progress, restarts
from npasbench.running.rundir import RunDirectory, find_runs

_LISTED = 20
_OPEN = ("waiting", "running", "interrupted")
_ORDER = ("running", "interrupted", "failed", "corrupt")


@dataclass(frozen=True)
class Standing:
    """Every run as a row, and the jobs that matter for those that are open."""

    rows: list[dict[str, Any]]
    jobs: Jobs

    @property
    def states(self) -> Counter[str]:
        """Runs by state."""
        return Counter(row["state"] for row in self.rows)

    @property
    def over(self) -> bool:
        """Whether no run is open."""
        return not any(self.states[state] for state in _OPEN)

    @property
    def exit_code(self) -> int:
        """1 if a run failed or is corrupt."""
        return 1 if self.states["failed"] or self.states["corrupt"] else 0

    def report(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        jobs = {
            "alive": self.jobs.alive,
            "requeued": self.jobs.requeued,
            "troubles": [asdict(one) for one in self.jobs.troubles],
            "complaints": self.jobs.complaints,
        }
        return {"runs": len(self.rows), "states": self.states, "rows": self.rows, "jobs": jobs}


class Reader:
    """Reads how runs stand, as often as asked; a result that was read once is not read again while it is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._done: dict[Path, dict[str, Any]] = {}

    def read(self) -> Standing:
        """How all runs stand now."""
        rows = [self._row(directory) for directory in find_runs(self.root)]
        jobs = look(self.root, {row["run"]: row["state"] for row in rows})
        there = {row["run"] for row in rows}
        rows += [{"run": run, "state": "waiting"} for run in sorted(set(jobs.planned) - there)]
        return Standing(rows, jobs)

    def _row(self, directory: RunDirectory) -> dict[str, Any]:
        known = self._done.get(directory.path)
        if known is not None and directory.result_file.exists():
            return known
        state, record = directory.standing()
        row: dict[str, Any] = {"run": directory.path.relative_to(self.root).as_posix(), "state": state}
        if record is not None:
            if again := record.provenance.get("restarts"):
                row["restarts"] = again
            self._done[directory.path] = row
            return row
        return row | _details(directory, state)


def _details(directory: RunDirectory, state: str) -> dict[str, Any]:
    """What a row says beyond its state, of a run without a result."""
    if state == "corrupt":
        return {"reason": what_is_wrong(directory)}
    if state == "failed":
        again = restarts(directory)
        return {"reason": directory.failure().get("error", "failure.json cannot be read"), "restarts": again}
    if state == "waiting":
        again = restarts(directory)
        return {"restarts": again} if again else {}
    far = progress(directory)
    return {"epoch": far.epoch, "epochs": far.epochs, "seconds_left": far.seconds_left, "restarts": far.restarts}


def lines(standing: Standing) -> list[tuple[str, bool]]:
    """What is shown: lines, and whether each is bad news. The last one counts all runs."""
    shown = [(line, False) for line in _cells(standing.rows)]
    for state in _ORDER:
        those = [row for row in standing.rows if row["state"] == state]
        bad = state in ("failed", "corrupt")
        shown += [(f"{row['run']}: {_told(row)}", bad) for row in those[:_LISTED]]
        if len(those) > _LISTED:
            shown.append((f"... and {len(those) - _LISTED} more {state}; --json lists all", bad))
    jobs = standing.jobs
    if jobs.alive:
        alive = ", ".join(f"{number} {state}" for state, number in sorted(jobs.alive.items()))
        again = f", requeued {_times(jobs.requeued)}" if jobs.requeued else ""
        shown.append((f"Jobs of open runs: {alive}{again}.", False))
    shown += [(sentence(trouble), True) for trouble in jobs.troubles]
    shown += [(f"The scheduler could not be asked: {complaint}", True) for complaint in jobs.complaints]
    return [*shown, (summary(standing), False)]


def summary(standing: Standing) -> str:
    """How many runs there are in each state, and how often they were begun again."""
    states = ", ".join(f"{number} {state}" for state, number in sorted(standing.states.items())) or "none"
    restarted = [row["restarts"] for row in standing.rows if row.get("restarts")]
    again = f" {plural(len(restarted), 'run')} restarted, {_times(sum(restarted))} in all." if restarted else ""
    return f"{plural(len(standing.rows), 'run')}: {states}.{again}"


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    cells: dict[str, Counter[str]] = {}
    for row in rows:
        cells.setdefault(row["run"].rsplit("/", 1)[0], Counter())[row["state"]] += 1
    width = max(map(len, cells), default=0)
    return [
        f"{cell:<{width}}  " + ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        for cell, counts in cells.items()
    ]


def _told(row: dict[str, Any]) -> str:
    if "epoch" not in row:
        return f"{row['state']}: {row['reason']}"
    parts = [row["state"], f"epoch {row['epoch']} of {row['epochs']}" if row["epochs"] else f"epoch {row['epoch']}"]
    if row["seconds_left"] is not None:
        parts.append(f"{duration(row['seconds_left'])} of training left")
    if row["restarts"]:
        parts.append(f"restarted {_times(row['restarts'])}")
    return ", ".join(parts)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
