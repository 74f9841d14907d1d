"""Scripts and styles that a site carries with it: ours, and those that plotly and itables ship inside their packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from npasbench.errors import NpasbenchError

STATIC = Path(__file__).parent / "static"
_EXPORT = re.compile(r"export\s*\{(?P<names>[^{}]*)\};?")


def assets() -> Iterator[tuple[str, bytes]]:
    """Every file of the site's ``assets`` folder, by name."""
    for path in sorted(STATIC.iterdir()):
        if path.suffix in (".css", ".js"):
            yield path.name, path.read_bytes()
    bundle = resources.files("itables") / "html"
    yield "datatables.js", plain_script((bundle / "dt_bundle.js").read_text(encoding="utf-8")).encode()
    yield "plotly.min.js", (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def plain_script(module: str) -> str:
    """The DataTables bundle as a plain script that sets ``window.DataTable``.

    A browser loads no ES module from disk, so the closing export becomes an assignment and the rest its own scope.

    Raises:
        NpasbenchError: if the bundle has another shape than this was written for.
    """
    exports = list(_EXPORT.finditer(module))
    names = dict(_renamed(part) for part in exports[0]["names"].split(",")) if len(exports) == 1 else {}
    if "jQuery" not in names:
        raise NpasbenchError("This version of itables bundles DataTables in an unknown way; install itables 2.9.")
    start, end = exports[0].span()
    return f'(() => {{"use strict";{module[:start]}window.DataTable={names["jQuery"]}.fn.dataTable;{module[end:]}\n}})();\n'


def _renamed(part: str) -> tuple[str, str]:
    """``a as b`` -> (b, a)."""
    inner, _, outer = part.strip().partition(" as ")
    return (outer or inner).strip(), inner.strip()
