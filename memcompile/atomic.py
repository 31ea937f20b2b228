"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from memcompile.errors import OutputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary neighbour that then takes its name.

    Raises
    ------
    OutputError
        The file cannot be written; what stood at ``path`` before is untouched.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; give this one the permissions any new file would get.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: {reason}; choose another place with -o") from error
    finally:
        # Also on Ctrl-C: nothing half-written stays behind.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
