"""The real SLURM that ``tests/slurm/up`` starts: is it there, what does it say, and how its daemons are ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parent / "slurm"


def ask(*command: str, timeout: float = 60) -> str:
    """What a command of SLURM's prints, errors included."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)
    return done.stdout.decode(errors="replace")


def reason_to_skip() -> str:
    """Why the tests cannot run here, or nothing. Somebody's real cluster is not tested on."""
    if shutil.which("sbatch") is None:
        return "no sbatch on PATH; tests/slurm/up installs and starts a SLURM on this machine"
    if not os.environ.get("SLURM_CONF"):
        return 'SLURM_CONF is not set; start a SLURM of the tests\' own with . "$(tests/slurm/up)"'
    if not folder().joinpath("env").exists():
        return "this cluster was not started by tests/slurm/up, and only such a one is tested on"
    if "is UP" not in (said := ask("scontrol", "ping")):
        return f"slurmctld does not answer; start it again with tests/slurm/up ({said.strip()})"
    return ""


def folder() -> Path:
    """Where all files of the cluster lie."""
    return Path(os.environ["SLURM_CONF"]).parent


def daemon(name: str) -> int:
    """The process number of a daemon."""
    return int((folder() / "run" / f"{name}.pid").read_text())


def end(name: str, how: signal.Signals) -> None:
    """End a daemon and wait until it is gone."""
    pid = daemon(name)
    os.kill(pid, how)
    wait_for(f"{name} to end", lambda: not alive(pid), 20)


def up() -> None:
    """Start what does not run."""
    environment = {**os.environ, "NPASBENCH_SLURM_DIR": str(folder())}
    done = subprocess.run(
        [SCRIPTS / "up"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


def restart(name: str) -> None:
    """End a daemon as an administrator would, and start it again."""
    end(name, signal.SIGTERM)
    up()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody collects does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def queue() -> dict[str, str]:
    """The state of every job that is not over: an array's tasks one by one, as ``123_4``."""
    done = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def clear() -> None:
    """End all jobs, and bring back what a test has stopped."""
    up()
    if queue():
        ask("scancel", "--full", *queue())
    wait_for("the queue to be empty", lambda: not queue(), 40)


def wait_for(what: str, happened: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: after ``seconds``, with the queue and what ``explain`` says.
    """
    end_of_patience = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end_of_patience:
            raise AssertionError(f"waited {seconds:g} s for {what}\n{ask('squeue', '-r')}\n{explain()}")
        time.sleep(0.2)
