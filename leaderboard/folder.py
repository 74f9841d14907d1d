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
        self._written: dict[str, str] = {}

    def keep(self, name: str, made_of: str) -> bool:
        """Whether a file is there that was made of the same: then it stays as it is."""
        same = made_of != "" and self._before.get(name) == made_of and (self.root / name).is_file()
        if same:
            self._written[name] = made_of
        return same

    def write(self, name: str, content: bytes | str, made_of: str = "") -> None:
        """Write one file, unless it is there with the same content; ``made_of`` is a digest for :meth:`keep`.

        Raises:
            RunError: if it cannot be written.
        """
        path = self.root / name
        data = content.encode() if isinstance(content, str) else content
        self._written[name] = made_of
        with writing(path):
            if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def finish(self) -> None:
        """Remove what the last rendering wrote and this one did not, and write down what there is."""
        for name in sorted(self._before.keys() - self._written.keys()):
            path = self.root / name
            if path.resolve().is_relative_to(self.root.resolve()):
                with writing(path):
                    path.unlink(missing_ok=True)
        files = dict(sorted(self._written.items()))
        self.write(MANIFEST, json.dumps({"made_by": "npasbench leaderboard", "files": files}, indent=0))


def _manifest(root: Path) -> dict[str, str]:
    """What the last rendering wrote, and what it was made of where that is known."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    try:
        content = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        files = content["files"]
        return {str(name): str(files[name]) if isinstance(files, dict) else "" for name in files}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"'{root}' holds something that is not a site of npasbench. Name another folder with --out, or empty this one."
        ) from None
