"""The script that draws charts: plotly.js, read from the installed Python package and never fetched."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from memcompile.html.page_cache import kept_text

COMPRESSION = 4
"""Level of gzip: 6 takes half as long again and saves a twentieth."""


@cache
def chart_library() -> str | None:
    """The minified plotly.js, gzip in base64; None where the package or its script is not there."""
    # Importing the package would take longer than everything else on a page; only its file is needed.
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return None
    script = Path(found.origin).parent / "package_data" / "plotly.min.js"
    try:
        facts = script.stat()
        key = f"{facts.st_size} {facts.st_mtime_ns} {COMPRESSION}"
        return kept_text(f"{script.name}.gz64", key, lambda: packed_bytes(script.read_bytes()))
    except OSError:
        return None


def packed_bytes(data: bytes) -> str:
    """Bytes as gzip in base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, COMPRESSION, mtime=0)).decode("ascii")
