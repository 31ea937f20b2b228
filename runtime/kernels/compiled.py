"""Finds the compiled kernels and runs them on several threads.

Without Numba everything runs on NumPy; ``MEMCOMPILE_NUMBA=0`` switches it off. The results are the same without it, bit
for bit, and so they are for any number of threads.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
CACHE_LINE_BYTES = 64
BLOCK_CELLS = 64
"""Cells that compiled kernels draw and program together: four words of each of sixteen counters."""
PHASES = 8
"""Phases of packed inputs; those beyond the bits of an input are not used."""


def kernels() -> ModuleType | None:
    """The compiled kernels of table look-ups; None when Numba is absent or switched off."""
    return _kernels("conversion_kernels")


def product_kernels() -> ModuleType | None:
    """The compiled kernels of integer products; None when Numba is absent or switched off."""
    return _kernels("product_kernels")


def cell_kernels() -> ModuleType | None:
    """The compiled kernels that draw and program cells; None when Numba is absent or switched off."""
    return _kernels("cell_kernels")


def _kernels(name: str) -> ModuleType | None:
    loading = _spared.get() and f"memcompile.runtime.kernels.{name}" not in sys.modules
    return None if loading or os.environ.get("MEMCOMPILE_NUMBA") == "0" else _load(name)


@contextmanager
def only_loaded_kernels() -> Iterator[None]:
    """Go without kernels that are not there yet: loading them takes a second, more than NumPy for few cells."""
    token = _spared.set(True)
    try:
        yield
    finally:
        _spared.reset(token)


_spared = ContextVar("spared", default=False)
"""True where no kernels are loaded."""


@cache
def _load(name: str) -> ModuleType | None:
    try:
        loaded = importlib.import_module(f"memcompile.runtime.kernels.{name}")
    except ImportError:
        return None
    _listen()
    return loaded


_tell: list[Callable[[], None]] = []


@contextmanager
def when_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Have ``tell`` called whenever a kernel is compiled meanwhile; one that lies in the cache on disk is not."""
    _tell.append(tell)
    try:
        yield
    finally:
        _tell.remove(tell)


@cache
def _listen() -> None:
    """Have Numba say when it compiles."""
    event = importlib.import_module("numba.core.event")

    class Listener(event.Listener):  # type: ignore[name-defined, misc]
        def on_start(self, _event: object) -> None:
            for tell in tuple(_tell):
                tell()

        def on_end(self, _event: object) -> None:
            pass

    event.register("numba:compile", Listener())


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(threads: int, work: Literal["tasks", "ranges"]) -> ThreadPoolExecutor:
    """Idle threads that all emulators of a process share: to start and end threads costs more than most ranges do."""
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay with the parent


class Workers:
    """Shares independent tasks, or the items of one, among threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._here = threading.local()

    def room(self, values: int) -> NDArray[np.float32]:
        """Memory of this thread for so many values, uninitialised: they hold what its last use left.

        It begins with a line of the processor's cache: a vector that straddles two takes twice as long to load.
        """
        room = getattr(self._here, "room", None)
        if room is None or len(room) < values:
            whole = np.empty(values + CACHE_LINE_BYTES // 4, np.float32)
            room = self._here.room = whole[-whole.ctypes.data % CACHE_LINE_BYTES // 4 :]
        return room[:values]

    def in_order(self, tasks: Sequence[Callable[[], T]]) -> Iterator[T]:
        """Results of tasks, in their order; each task stays on one thread, with all its ranges.

        An exception of a task is raised in its turn, and tasks that have not begun are dropped then.
        """
        if self.threads == 1 or len(tasks) == 1:
            for task in tasks:
                yield task()
            return
        yield from _pool(self.threads, "tasks").map(self._alone, tasks)

    def _alone(self, task: Callable[[], T]) -> T:
        self._here.alone = True
        return task()

    def each_range(self, items: int, work: Callable[[int, int], None], least: int = 2) -> None:
        """Call ``work(begin, end)`` on ranges that together cover all items, and wait.

        Below ``least`` items a second thread would cost more than it brings.
        """
        if self.threads == 1 or items < least or getattr(self._here, "alone", False):
            work(0, items)
            return
        edges = [items * part // self.threads for part in range(self.threads + 1)]
        pool = _pool(self.threads - 1, "ranges")
        others = [pool.submit(work, *part) for part in pairwise(edges[1:])]
        work(0, edges[1])  # this thread would only wait
        for other in others:
            other.result()
