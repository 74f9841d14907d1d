"""Many runs: planning, claiming, status and collecting, with stand-in workers that claim and publish but train nothing.

    python benchmarks/scale.py [--runs 1000 3000 10000] [--workers 32] [--folder /a/shared/file/system]

Each figure is seconds for so many runs, and the exponent of their growth (1 is linear). Then many worker processes claim
from one directory at once, all in the same order, which is the worst; and system calls that name or change a file are
counted by ``strace`` where there is one, as a difference over runs, so that what a process costs once does not count.

What the file system is asked to do for each run, as counted on 2026-11-21:

====================================  =============================================================================
to claim and give back                3 open, 2 write, 1 fsync, 1 link, 2 unlink, 1.2 mkdir, 7 stat
to claim, publish and give back       7 open, 5 write, 3 fsync, 2 link, 3 unlink, 1.2 mkdir, 14 stat
to pass a run that is done            1 stat
to pass a run that somebody holds     3 stat, 1 open that is refused, 1 open and read of the lease
a run that is planned, none is there  0.1 open of its cell's folder
a done run in plan or status          2 open (folder and result), 1 read, 2 getdents, 3 or 4 stat
a done run for the leaderboard        1 open, 1 read, 5 stat
====================================  =============================================================================

A run that trains asks for more, by the clock and not by its steps: every 10 seconds 1 utime of its lease; every
``--checkpoint-seconds`` (30) 1 file written, synced and renamed, 1 append to its metrics and 1 read of its lease. Of runs
that other machines hold, a process that looks asks the file system's clock (a file made, looked at and removed) once in
30 seconds, whatever their number; one that takes a run over asks it again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rounds import timed

from npasbench.commands.gaps import find_gaps
from npasbench.commands.planning import plan_runs
from npasbench.commands.standing import Reader
from npasbench.leaderboard.store import collect
from npasbench.plan import RunSpec
from npasbench.running.files import publish
from npasbench.running.lease import Lease
from npasbench.running.rundir import RunDirectory

TASK, BUDGETS, SEEDS = "digits15-wrn-10-1", 10, 10
TRACED = 200
CALLS = "file,desc"
QUIET = ("read", "write", "close", "fstat", "newfstatat", "lseek", "ioctl", "mmap", "fcntl", "poll", "pread64")


def planned(folder: Path, runs: int) -> list[RunSpec]:
    """So many runs of one suite: labels of ten budgets and ten seeds each."""
    entries = "".join(
        f'[[entry]]\nlabel = "roast-{k}"\nmethod = "roast"\n' for k in range(math.ceil(runs / BUDGETS / SEEDS))
    )
    budgets = [round(0.1 * (k + 1), 1) for k in range(BUDGETS)]
    head = f'schema = 1\nname = "many"\ntitle = "Many"\ntasks = ["{TASK}"]\nbudgets = {budgets}\n'
    suite = folder / "many.toml"
    suite.write_text(f"{head}seeds = {list(range(SEEDS))}\n{entries}")
    return plan_runs(str(suite), None, None, {}, (), (), ())[:runs]


def work(specs: Sequence[RunSpec], root: Path) -> int:
    """A stand-in worker: does every open run that nobody holds; how many it published."""
    published = 0
    for spec in specs:
        directory = RunDirectory.of(root, spec)
        if not directory.open_to_work():
            continue
        directory.create(spec)
        lease = Lease.claim(directory.lease_file)
        if lease is None:
            continue
        if directory.open_to_work():
            directory.log(f"claimed by process {os.getpid()} on {platform.node()}")
            published += publish(directory.result_file, result(spec))
            directory.log("done")
        lease.release()
    return published


def claim(specs: Sequence[RunSpec], root: Path) -> None:
    """Claim every run and give it back."""
    for spec in specs:
        directory = RunDirectory.of(root, spec)
        directory.create(spec)
        if lease := Lease.claim(directory.lease_file):
            lease.release()


def result(spec: RunSpec) -> bytes:
    """A made-up result of the size of a real one."""
    total = spec.budget_parameters
    layers = [
        {
            "layer": k,
            "name": f"blocks.{k}.conv.weight",
            "shape": [16, 16, 3, 3],
            "templates": 2,
            "start": 0,
            "end": total,
        }
        for k in range(16)
    ]
    content = {
        "schema": 1, "state": "done", "task": spec.task.name, "task_version": spec.task.version,
        "task_fingerprint": spec.task.fingerprint, "fingerprint": spec.fingerprint, "label": spec.label, "method": spec.method,
        "method_version": spec.method_version, "knobs": spec.knobs, "seed": spec.seed, "budget": spec.budget,
        "budget_parameters": total, "dense_parameters": spec.dense_parameters, "parameters": {"bank": total, "total": total},
        "metrics": {"accuracy": 0.9 + spec.seed / 1000, "nll": 0.3, "ece": 0.02}, "test_examples": 1647,
        "costs": {"train_seconds": 6.0, "wall_seconds": 7.0, "step_seconds": 0.01, "macs": 2_317_120.0},
        "certificate": {"passed": True, "floats": total, "differing_predictions": 0, "dead": 0, "detail": ""},
        "allocation": {"groups": [{"group": 0, "bank_size": total, "unused": 0, "layers": layers}]},
        "provenance": {"commit": "0" * 40, "dirty": False, "host": platform.node(), "restarts": 0, "command": spec.command()},
    }  # fmt: skip
    return json.dumps(content, indent=1).encode()


# Seconds


def growth(runs: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of a straight line through the logarithms."""
    x, y = [math.log(n) for n in runs], [math.log(one) for one in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def phases(folder: Path, runs: int) -> dict[str, float]:
    """Seconds of each phase in a fresh folder."""
    root = folder / f"runs-{runs}"
    specs: list[RunSpec] = []
    seconds = {
        "plan, nothing done": timed(lambda: (specs.extend(planned(folder, runs)), find_gaps(specs, root))),
        "one worker claims them all": timed(lambda: claim(specs, root)),
        "one worker does them all": timed(lambda: work(specs, root)),
        "a worker passes what is done": timed(lambda: work(specs, root)),
        "plan, all done": timed(lambda: find_gaps(planned(folder, runs), root)),
        "status, all done": timed(lambda: Reader(root).read()),
        "collect for the leaderboard": timed(lambda: collect(root)),
    }
    for spec in specs:  # as after a power cut: begun, and nobody holds them
        directory = RunDirectory.of(root, spec)
        directory.result_file.unlink()
        directory.checkpoint_file.touch()
        directory.metrics_file.write_text('{"epoch": 20, "step": 60, "loss": 1.0, "lr": 0.1, "seconds": 2.5}\n' * 20)
    seconds["status, all interrupted"] = timed(lambda: Reader(root).read())
    seconds["plan, all interrupted"] = timed(lambda: find_gaps(specs, root))
    shutil.rmtree(root)
    return seconds


def table(folder: Path, sizes: Sequence[int]) -> None:
    """Seconds by phase and number of runs."""
    found = [phases(folder, runs) for runs in sizes]
    print("seconds for runs:".ljust(32) + "".join(f"{runs:>9,}" for runs in sizes) + "   growth")
    for name in found[0]:
        row = [one[name] for one in found]
        exponent = f"{growth(sizes, row):.2f}" if len(sizes) > 1 else ""
        print(f"{name:<32}" + "".join(f"{one:>9.2f}" for one in row) + f"   {exponent:>6}", flush=True)


# At once


def contest(folder: Path, runs: int, workers: int) -> None:
    """Many workers claim from one directory; every run has to be published once, and claimed once."""
    root, specs = folder / "contest", planned(folder, runs)
    context = multiprocessing.get_context("fork")
    together, told = context.Barrier(workers), context.SimpleQueue()

    def join_in() -> None:
        together.wait()
        told.put(work(specs, root))

    processes = [context.Process(target=join_in) for _ in range(workers)]

    def everybody() -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    seconds = timed(everybody)
    shares = [told.get() for _ in processes]
    claims = Counter((RunDirectory.of(root, spec).log_file).read_text().count("claimed by") for spec in specs)
    left = [path.name for path in root.rglob("*") if path.name.startswith((".", "lease"))]
    print(
        f"{workers} workers at once, {runs:,} runs: {seconds:.1f} s; published {sum(shares):,} "
        f"({min(shares)} to {max(shares)} each); claimed once: {claims[1]:,}, more often: {runs - claims[1]}; "
        f"left lying: {len(left)}"
    )
    shutil.rmtree(root)
    if sum(shares) != runs or claims != {1: runs} or left:
        sys.exit("A run was claimed twice, or something was left lying.")


# System calls

TRACES: dict[str, Callable[[Sequence[RunSpec], Path], object]] = {
    "claim and release": claim,
    "claim, publish, release": work,
    "pass a run that is done": work,
    "plan of done runs": find_gaps,
    "status of done runs": lambda _, root: Reader(root).read(),
    "collect": lambda _, root: collect(root),
}


def trace(folder: Path) -> None:
    """For each phase the system calls of a run on files."""
    print("\nsystem calls on files for each run")
    roots = {runs: folder / f"traced-{runs}" for runs in (10, 10 + TRACED)}
    for name in TRACES:
        few, many = (counted(name, runs, folder, root) for runs, root in roots.items())
        each = {call: (many[call] - few[call]) / TRACED for call in sorted(many, key=many.__getitem__, reverse=True)}
        named = ", ".join(
            f"{call} {number:.1f}" for call, number in each.items() if number >= 0.05 and call not in QUIET
        )
        rest = ", ".join(f"{call} {number:.1f}" for call, number in each.items() if number >= 0.05 and call in QUIET)
        print(f"{name:<26}{named or 'none'}  |  {rest}", flush=True)


def counted(name: str, runs: int, folder: Path, root: Path) -> Counter[str]:
    """All calls of a process of its own that does one phase."""
    log = folder / "strace"
    command = [sys.executable, __file__, "--phase", name, "--runs", str(runs), "--folder", str(root)]
    subprocess.run(["strace", "-f", "-c", "-e", f"trace={CALLS}", "-o", str(log), *command], check=True)
    rows = (
        re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)", line)
        for line in log.read_text().splitlines()
    )
    return Counter({row[2]: int(row[1]) for row in rows if row and row[2] != "total"})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where to work; by default the system's temporary folder")
    parser.add_argument("--phase", choices=TRACES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        given.folder.mkdir(exist_ok=True)
        TRACES[given.phase](planned(given.folder, given.runs[0]), given.folder / "runs")
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        planned(folder, 100)
        table(folder, given.runs)
        contest(folder, min(given.runs), given.workers)
        if shutil.which("strace"):
            trace(folder)


if __name__ == "__main__":
    main()
