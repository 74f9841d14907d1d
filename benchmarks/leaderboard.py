"""How long the site takes: 10,000 synthetic runs from nothing, and again after one new run. Limits: 60 s, 1 GB, 5 s.

The runs are the published ones of one task under other labels, as one published file. Seconds and peak memory are those
of the whole process ``npasbench leaderboard``, imports included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from npasbench.card import fingerprint

RESULTS = Path(__file__).resolve().parent.parent / "results"
TASK = "digits15-wrn-10-1"
SECONDS, GIGABYTES, AGAIN = 60, 1.0, 5


def synthetic(runs: int) -> list[str]:
    """So many lines; every label has all its budgets and seeds."""
    lines = (RESULTS / f"{TASK}.jsonl").read_text(encoding="utf-8").splitlines()
    content = [json.loads(line) for line in lines]
    done = [one for one in content if one["record"]["state"] == "done"]
    copies = (relabelled(one, number) for number in itertools.count() for one in done)
    return [json.dumps(one, sort_keys=True) for one in itertools.islice(copies, runs)]


def relabelled(one: dict[str, Any], number: int) -> dict[str, Any]:
    """The same result under another label, as a run of its own."""
    record = {**one["record"], "label": f"{one['record']['label']}-{number}"}
    record["knobs"] = {**record["knobs"], "copy": number}
    names = ("method", "method_version", "knobs", "budget", "budget_parameters", "seed")
    decides = {"task": record["task_fingerprint"], **{name: record[name] for name in names}}
    return {**one, "record": {**record, "fingerprint": fingerprint(decides)}}


def render(results: Path, site: Path) -> float:
    """Seconds of one call of the command."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "npasbench", "leaderboard", str(results), "--out", str(site)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    """Print both times and the peak of memory, each against its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    lines = synthetic(count + 1)
    with tempfile.TemporaryDirectory() as folder:
        results, site = Path(folder) / "results", Path(folder) / "site"
        results.mkdir()
        file = results / f"{TASK}.jsonl"
        file.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
        first = render(results, site)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        again = render(results, site)
        pages = sum(1 for _ in site.rglob("*.html"))
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 2**20
    print(f"{count:,} runs, {pages:,} pages, {size:,.0f} MiB")
    for name, value, limit, unit in (
        ("from nothing", first, SECONDS, "s"),
        ("peak memory", peak, GIGABYTES, "GiB"),
        ("after one new run", again, AGAIN, "s"),
    ):
        print(f"{name:<20}{value:8.2f} {unit:<4} {'ok' if value <= limit else 'OVER'} (at most {limit:g})")


if __name__ == "__main__":
    main()
