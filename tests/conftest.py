"""Small real tasks: the digits, few epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import npasbench.tasks

CARDS = Path(next(iter(npasbench.tasks.__path__)))


@pytest.fixture
def small_card(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shipped card with fewer epochs and gives its path."""

    def write(epochs: int = 4, name: str = "digits15-wrn-10-1") -> Path:
        text = (CARDS / f"{name}.toml").read_text(encoding="utf-8").replace("epochs = 60", f"epochs = {epochs}")
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
