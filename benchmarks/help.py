"""How long ``npasbench --help`` takes, as a whole process, against starting Python alone.

python benchmarks/help.py [--rounds 40]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

import numpy as np
from rounds import timed
from scipy.stats import quantile_test

LIMIT = 0.3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    command = shutil.which("npasbench") or "npasbench"
    contestants = {"python -c pass": [sys.executable, "-c", "pass"], "npasbench --help": [command, "--help"]}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, words in contestants.items():
            seconds = timed(lambda words=words: subprocess.run(words, capture_output=True, check=True))
            if turn:
                times[name].append(seconds)
    for name, seen in times.items():
        interval = quantile_test(seen, p=0.5).confidence_interval(0.95)
        print(f"{name:<18} {np.median(seen):.3f} s [{interval.low:.3f}, {interval.high:.3f}]  n={len(seen)}")
    low = quantile_test(times["npasbench --help"], p=0.5).confidence_interval(0.95).low
    print(f"{'ok' if low <= LIMIT else 'OVER'} (at most {LIMIT} s)")


if __name__ == "__main__":
    main()
