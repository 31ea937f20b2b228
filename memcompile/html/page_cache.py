"""Parts of all pages that take long to make, kept on disk beside the compiled modules of this package.

They are trusted as these are: whoever can write one can write the other. Where Python may not write there, or is told
to write no compiled modules, nothing is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from memcompile.atomic import write_atomically
from memcompile.errors import OutputError


@cache
def cache_folder() -> Path | None:
    """Folder of the compiled modules of this package; None where it cannot be written to."""
    if sys.dont_write_bytecode:
        return None
    folder = Path(cache_from_source(__file__)).parent
    return folder if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else None


def kept_text(name: str, key: str, make: Callable[[], str]) -> str:
    """ASCII text that was made for a key, as the file ``name`` keeps it; made, and kept, if it is of another key."""
    folder = cache_folder()
    if folder is None:
        return make()
    path, head = folder / name, key.encode("ascii") + b"\n"
    with suppress(OSError):
        found = path.read_bytes()
        if found.startswith(head):
            return found[len(head) :].decode("ascii")
    text = make()
    with suppress(OutputError):
        write_atomically(path, head + text.encode("ascii"))
    return text
