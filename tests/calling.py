"""Commands called in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from npasbench.cli import npasbench
from npasbench.errors import NpasbenchError


def call(*words: str | Path) -> tuple[int, str]:
    """One command in this process: exit code and what it said on the standard output, or its error."""
    try:
        result = CliRunner().invoke(npasbench, list(map(str, words)), standalone_mode=False, catch_exceptions=False)
    except NpasbenchError as error:
        return error.exit_code, str(error)
    return result.exit_code, result.stdout
