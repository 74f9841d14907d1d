"""Asking SLURM's programs: what they print, or a sentence that says why they did not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from npasbench.errors import NpasbenchError

TIMEOUT = 20.0
"""Seconds that one of them may take to answer."""


class SchedulerError(NpasbenchError):
    """One of SLURM's programs is missing, failed, did not answer, or answered with something else than was asked for."""


class ProgramFailed(SchedulerError):
    """A program that ended with an exit code; :attr:`said` is what it wrote to standard error."""

    def __init__(self, program: str, code: int, said: str) -> None:
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        super().__init__(f"{program} failed with exit code {code}: {last.rstrip('.')}.")
        self.said = said


def ask(program: str, *words: str) -> str:
    """What one of SLURM's programs prints.

    Raises:
        SchedulerError: if it is missing, cannot be started, fails, or takes longer than :data:`TIMEOUT`.
    """
    # SQUEUE_STATES and the like would filter what is shown, and a proxy that hangs must not outlive the time limit.
    surroundings = {
        k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_"))
    }
    try:
        process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=surroundings,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise SchedulerError(f"{program} is not on PATH here.") from None
    except OSError as error:
        raise SchedulerError(f"{program} cannot be started: {error.strerror}.") from None
    with process:
        try:
            said, complained = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise SchedulerError(f"{program} did not answer within {TIMEOUT:g} seconds.") from None
        except BaseException:
            _kill(process)
            raise
    if process.returncode:
        raise ProgramFailed(program, process.returncode, complained)
    return said


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a program and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
