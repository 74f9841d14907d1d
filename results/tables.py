"""Print the tables of docs/results.md from the published records in this folder: python results/tables.py"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from npasbench.leaderboard.published import read_published
from npasbench.leaderboard.statistics import Interval, mean_interval, paired_difference
from npasbench.running.record import Record

HERE = Path(__file__).parent
FIRST = (
    "dense",
    "narrow",
    "ssn",
    "ssn-shape",
    "ssn-random",
    "ssn-learned",
    "ssn-plus",
    "ssn-plus-learned",
    "superweight",
)
PAIRS = (
    ("ssn", "narrow"),
    ("ssn", "naive-all"),
    ("ssn-plus", "ssn"),
    *(("ssn-plus", other) for other in ("narrow", "naive-all", "roast", "hashed", "template-bank", "magnitude")),
    ("ssn-learned", "ssn"),
    ("ssn-learned", "ssn-random"),
    ("superweight", "superweight-untied"),
    ("superweight", "superweight-published"),
    *(("superweight", other) for other in ("narrow", "deep-ensemble", "ssn", "ssn-plus", "roast", "template-bank")),
    *(
        ("superweight-untied", other)
        for other in ("narrow", "deep-ensemble", "batch-ensemble", "naive", "template-bank")
    ),
    *((other, "narrow") for other in ("deep-ensemble", "batch-ensemble", "mimo", "hashed", "roast", "template-bank")),
    *((other, "narrow") for other in ("low-rank", "basis", "recursive-lora", "pranc", "hypernetwork", "channel-l1")),
    *((other, "narrow") for other in ("magnitude", "snip", "grasp", "synflow", "random-erk")),
    *((other, "narrow") for other in ("rigl-every-10", "lottery-rate-0.5", "narrow-distill")),
    *(("lottery-rate-0.5", other) for other in ("magnitude", "synflow", "ssn-plus")),
    *((other, "random-erk") for other in ("rigl-every-10", "snip", "grasp", "synflow")),
    ("ssn-plus-distill", "ssn-plus"),
    ("ssn-plus-distill", "narrow-distill"),
    ("ssn-plus-distill", "lottery-rate-0.5"),
    ("ssn-plus-prune-after", "ssn-plus"),
)

Cells = dict[tuple[str, int], list[Record]]


def main() -> None:
    """Two tables for each task."""
    for path in sorted(HERE.glob("*.jsonl")):
        problems: list[str] = []
        cells: Cells = defaultdict(list)
        for _, one in read_published(path, problems):
            cells[one.record.label, one.record.budget_parameters].append(one.record)
        if problems:
            raise SystemExit("\n".join(problems))
        print(f"### {path.stem}\n")
        show(cells)


def show(cells: Cells) -> None:
    """Accuracy in percent, and paired differences in percentage points."""
    names = {parameters: record.budget for (_, parameters), (record, *_) in cells.items()}
    budgets = sorted(names)
    seeds = max(map(len, cells.values()))
    labels = sorted({label for label, _ in cells}, key=lambda label: (label not in FIRST, _place(label), label))
    print("| | " + " | ".join(f"{names[b]} = {b:,}" for b in budgets) + " |")
    print("|---|" + "---|" * len(budgets))
    for label in labels:
        written = [accuracy(cells[label, b], seeds) for b in budgets]
        if any(cell[:1].isdigit() for cell in written):
            print(f"| {label} | " + " | ".join(written) + " |")
    print("\n| paired by seed | " + " | ".join(names[b] for b in budgets) + " |")
    print("|---|" + "---|" * len(budgets))
    for ours, theirs in PAIRS:
        differences = [difference(cells[ours, b], cells[theirs, b]) for b in budgets]
        if not any(differences):
            continue
        print(f"| {ours} - {theirs} | " + " | ".join(differences) + " |")
    print()


def accuracy(runs: list[Record], seeds: int) -> str:
    """``91.04 +- 1.30``, with the number of seeds where some are missing."""
    interval = mean_interval(list(measured(runs).values()))
    if interval is None:
        states = {run.state for run in runs}
        return ", ".join(sorted(states))
    few = "" if interval.n == seeds else f" ({interval.n} of {seeds})"
    return f"{100 * interval.mean:.2f} ± {100 * interval.half:.2f}{few}"


def difference(ours: list[Record], theirs: list[Record]) -> str:
    """``+1.20 [0.31, 2.09]``, bold where the interval does not hold 0."""
    interval = paired_difference(measured(ours), measured(theirs))
    if interval is None or interval.n < 2:
        return ""
    text = f"{100 * interval.mean:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
    return f"**{text}**" if _decided(interval) else text


def measured(runs: list[Record]) -> dict[int, float]:
    """Accuracy by seed of what was trained within its budget."""
    return {run.seed: run.metrics["accuracy"] for run in runs if run.state == "done"}


def _decided(interval: Interval) -> bool:
    return interval.verdict in ("higher", "lower")


def _place(label: str) -> int:
    return FIRST.index(label) if label in FIRST else len(FIRST)


if __name__ == "__main__":
    main()
