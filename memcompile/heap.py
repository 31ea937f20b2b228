"""Return of freed memory from the C library's heap to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

# Parameters of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 1 << 22
"""Blocks of this size are not kept for reuse."""
MOST_KEPT_BYTES = 1 << 25
"""Largest block that glibc keeps for reuse once it has seen it freed; the heap's end may hold twice as much."""
ADDRESS_SPACE, IN_USE = 0, 1
"""Columns of what Linux tells of a process's memory."""
WORTH_BYTES = 1 << 24
"""Growth of the process that is worth a look through the whole heap for freed memory."""


class _Process:
    """State of this process's heap."""

    def __init__(self) -> None:
        self.left_bytes = 0
        """Memory in use when freed memory was last given back."""


_process = _Process()


def give_back_grown_memory() -> None:
    """Return freed memory to the system if the process has grown since it last did so."""
    used = process_bytes(IN_USE)
    if used is not None and used - _process.left_bytes < WORTH_BYTES:
        _process.left_bytes = min(_process.left_bytes, used)
        return
    give_back_memory()
    _process.left_bytes = process_bytes(IN_USE) or 0


def process_bytes(what: int) -> int | None:
    """Bytes of this process, ``ADDRESS_SPACE`` or ``IN_USE``; None where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[what]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps pages between blocks in use until it is told.

    Takes milliseconds for a large model; does nothing where the C library has no such call.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


@contextlib.contextmanager
def large_blocks_go_back() -> Iterator[None]:
    """Return large blocks to the system as soon as they are freed, for work that meets arrays of many sizes.

    glibc does so at first, but keeps ever larger blocks once it has seen them freed; as time goes by arrays of other
    sizes do not fit into what it keeps. This is how it is left, for work that meets the same sizes again and again.
    """
    _set_thresholds(LARGE_BYTES, LARGE_BYTES)
    try:
        yield
    finally:
        _set_thresholds(MOST_KEPT_BYTES, 2 * MOST_KEPT_BYTES)


def _set_thresholds(mapped_bytes: int, kept_bytes: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, mapped_bytes)
        library.mallopt(_TRIM_THRESHOLD, kept_bytes)
