"""Return of freed memory from the C library's heap to the system."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps pages between blocks in use until it is told.

    Takes milliseconds for a large model; does nothing where the C library has no such call.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    trim(ctypes.c_size_t(0))
