"""A cache that never holds more than a number of bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class BoundedCache:
    """Keeps what still fits; the rest is made anew each time it is asked for.

    Nothing is ever evicted: requests go through layers in a fixed cycle, in which evicting the oldest value would evict
    exactly the one needed next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._free = limit_bytes
        self._values: dict[Hashable, object] = {}
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return the value of a key, made if it is not there; ``size`` gives its bytes.

        A thread that asks while another one makes something waits, so that nothing is made twice.
        """
        if key in self._values:
            return self._values[key]  # type: ignore[return-value]
        with self._lock:
            if key in self._values:
                return self._values[key]  # type: ignore[return-value]
            value = make()
            if size(value) <= self._free:
                self._free -= size(value)
                self._values[key] = value
        return value
