"""Scripts and styles that a site carries with it: ours, and those that plotly and itables ship inside their packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from npasbench.errors import NpasbenchError

STATIC = Path(__file__).parent / "static"
_EXPORT = re.compile(r"export\s*\{(?P<names>[^{}]*)\};?")


def assets() -> Iterator[tuple[str, bytes]]:
    """Every file of the site's ``assets`` folder, by name."""
    for path in sorted(STATIC.iterdir()):
        if path.suffix in (".css", ".js"):
            yield path.name, path.read_bytes()
    bundle = _package("itables") / "html" / "dt_bundle.js"
    yield "datatables.js", plain_script(bundle.read_text(encoding="utf-8")).encode()
    yield "plotly.min.js", (_package("plotly") / "package_data" / "plotly.min.js").read_bytes()


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported: itables alone brings in pandas."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise NpasbenchError(f"The package {name} is not installed; run: pip install {name}")
    return Path(spec.submodule_search_locations[0])


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
