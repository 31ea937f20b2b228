"""Matrix products of one thread, whose rounding does not depend on the cores of a machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import lru_cache

from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give NumPy's products one thread: several share the sums out by their number, and round otherwise.

    Most products here are small, and faster so.
    """
    with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The libraries that are loaded: it takes milliseconds to find them, and only an import brings more."""
    return ThreadpoolController()
