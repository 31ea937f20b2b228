"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memcompile.errors import OutputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes as a file, as :func:`make_atomically` does."""
    make_atomically(path, lambda stream: stream.write(data))


def make_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file through a temporary neighbour that is then renamed to it.

    A link is followed. What is no regular file, such as a pipe or ``/dev/null``, is written to as it is.

    Raises
    ------
    OutputError
        The file cannot be written; what stood at ``path`` before is untouched.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            whole = io.BytesIO()
            write(whole)
            target.write_bytes(whole.getvalue())
        else:
            _replace(target, write)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputError(f"{path} cannot be written: {reason or error}; choose another place with -o") from error


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = None
    try:
        with _uninterrupted():
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; give this one the permissions any new file would get.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    finally:
        # Also on Ctrl-C: nothing half-written stays behind.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back while a new file's name is in no variable yet, so that the file can be removed."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
