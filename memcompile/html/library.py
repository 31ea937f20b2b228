"""The script that draws charts: plotly.js, read from the installed Python package and never fetched."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

COMPRESSION = 4
"""Level of gzip: 6 takes half as long again and saves a twentieth."""


@cache
def chart_library() -> str | None:
    """The minified plotly.js, gzip in base64; None where the package or its script is not there."""
    # Importing the package would take longer than everything else on a page; only its file is needed.
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return None
    try:
        script = (Path(found.origin).parent / "package_data" / "plotly.min.js").read_bytes()
    except OSError:
        return None
    return packed_bytes(script)


def packed_bytes(data: bytes) -> str:
    """Bytes as gzip in base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, COMPRESSION, mtime=0)).decode("ascii")
