"""Finds the compiled kernels and runs them on several threads.

Numba is optional (``pip install memcompile[fast]``); ``MEMCOMPILE_NUMBA=0`` switches it off. The
results are the same without it, bit for bit, and so they are for any number of threads.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from types import ModuleType


def kernels() -> ModuleType | None:
    """The compiled kernels of table look-ups; None when Numba is absent or switched off."""
    return None if os.environ.get("MEMCOMPILE_NUMBA") == "0" else _load("kernels")


def product_kernels() -> ModuleType | None:
    """The compiled kernels of integer products; None when Numba is absent or switched off."""
    return None if os.environ.get("MEMCOMPILE_NUMBA") == "0" else _load("product_kernels")


@cache
def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"memcompile.runtime.{name}")
    except ImportError:
        return None


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Splits ranges of independent items over threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def each_range(self, items: int, work: Callable[[int, int], None], least: int = 2) -> None:
        """Call ``work(begin, end)`` on ranges that together cover all items, and wait.

        Below ``least`` items a second thread would cost more than it brings.
        """
        if self._pool is None or items < least:
            work(0, items)
            return
        edges = [items * part // self.threads for part in range(self.threads + 1)]
        others = [self._pool.submit(work, *part) for part in pairwise(edges[1:])]
        work(0, edges[1])  # this thread would only wait
        for other in others:
            other.result()
