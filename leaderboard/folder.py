"""The folder of a site: only a folder that we made, or an empty one, is written to, and what is stale goes."""

from __future__ import annotations

import json
from pathlib import Path

from npasbench.errors import UsageError
from npasbench.running.files import writing

MANIFEST = "site.json"


class SiteFolder:
    """Writes a site's files and remembers them, so that the next rendering can remove what is no longer there.

    Raises:
        UsageError: if the folder holds something that is not a site of ours.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._before = _manifest(root)
        self._written: list[str] = []

    def write(self, name: str, content: bytes | str) -> None:
        """Write one file, unless it is there with the same content.

        Raises:
            RunError: if it cannot be written.
        """
        path = self.root / name
        data = content.encode() if isinstance(content, str) else content
        self._written.append(name)
        with writing(path):
            if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def finish(self) -> None:
        """Remove what the last rendering wrote and this one did not, and write down what there is."""
        for name in sorted(self._before - set(self._written)):
            path = self.root / name
            if path.resolve().is_relative_to(self.root.resolve()):
                with writing(path):
                    path.unlink(missing_ok=True)
        self.write(MANIFEST, json.dumps({"made_by": "npasbench leaderboard", "files": sorted(self._written)}, indent=0))


def _manifest(root: Path) -> set[str]:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return set()
    try:
        content = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        return {str(name) for name in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"'{root}' holds something that is not a site of npasbench. Name another folder with --out, or empty this one."
        ) from None
