"""The charts' colours on light ground, as the style sheet has them: Okabe and Ito's, which colour-blind readers tell apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_STYLE = Path(__file__).parent / "static" / "site.css"


def _light() -> dict[str, str]:
    return dict(
        re.findall(r"^\s*(--[\w-]+): light-dark\((#[0-9a-f]{6}),", _STYLE.read_text(encoding="utf-8"), re.MULTILINE)
    )


LIGHT: Final = _light()
"""Custom property -> colour."""
