"""Caches that never hold more than a number of bytes, or of values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class BoundedCache:
    """Keeps what still fits; the rest is made anew each time it is asked for.

    Nothing is ever evicted: requests go through layers in a fixed cycle, in which evicting the oldest value would evict
    exactly the one needed next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._free = limit_bytes
        self._values: dict[Hashable, object] = {}
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self.full = False
        """True once something did not fit."""

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return the value of a key, made if it is not there; ``size`` gives its bytes.

        A thread that asks for what another one makes waits, so that nothing that is kept is made twice.
        """
        if key in self._values:
            return self._values[key]  # type: ignore[return-value]
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if key in self._values:
                return self._values[key]  # type: ignore[return-value]
            value = make()
            with self._lock:
                self._keep(key, value, size(value))
                self._making.pop(key, None)
        return value

    def _keep(self, key: Hashable, value: object, size: int) -> None:
        if size > self._free:
            self.full = True
            return
        self._free -= size
        self._values[key] = value


class RecentValues(Generic[T]):
    """Keeps the values that were used last, as many as fit and at least ``least``; the rest is made anew.

    Unlike :func:`functools.lru_cache` of a method it puts its owner into no cycle: a chip that nobody needs any more
    gives its memory back at once.

    Parameters
    ----------
    limit
        Sum of the sizes of what is kept.
    size
        Of a value; 1 for each when None.
    """

    def __init__(self, limit: int, size: Callable[[T], int] | None = None, least: int = 1) -> None:
        self._limit, self._size, self._least = limit, size or (lambda _value: 1), least
        self._kept = 0
        self._values: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made if it is not there."""
        with self._lock:
            if key in self._values:
                found = self._values[key] = self._values.pop(key)
                return found
        made = make()
        with self._lock:
            if key in self._values:  # another thread made it meanwhile
                self._kept -= self._size(self._values.pop(key))
            self._values[key] = made
            self._kept += self._size(made)
            while self._kept > self._limit and len(self._values) > self._least:
                self._kept -= self._size(self._values.pop(next(iter(self._values))))
        return made


class RecentArrays(RecentValues[NDArray[np.floating]]):
    """Keeps arrays by their bytes, and at least ``LEAST``."""

    LEAST = 4

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes, lambda array: array.nbytes, self.LEAST)
