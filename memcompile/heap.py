"""Return of freed memory from the C library's heap to the system."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# Parameters of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 1 << 22
"""Blocks of this size are not kept for reuse."""
MOST_KEPT_BYTES = 1 << 25
"""Largest block that glibc keeps for reuse once it has seen it freed; the heap's end may hold twice as much."""


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
