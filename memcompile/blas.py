"""Matrix products of one thread, whose rounding does not depend on the cores of a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give NumPy's products one thread: several share the sums out by their number, and round otherwise.

    Most products here are small, and faster so.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
