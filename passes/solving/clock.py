"""Limits of searches: counted work, the same on every machine, and the wall clock if a limit is set."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(eq=False)
class Clock:
    """Time and work that are left; once they are spent, searches return the best result so far.

    All searches of a mapping spend from one clock. Work is counted, not measured, in units of
    about a second of a processor: deterministic time of solvers, else numbers of operations.
    ``end_s`` is in seconds of :func:`time.monotonic`; where it is infinite, results do not depend
    on the machine.
    """

    end_s: float = math.inf
    work_left: float = math.inf
    whole: Clock | None = None
    """Clock that this one is a part of."""
    waiting_s: float = math.inf
    """Seconds of a clock that starts with the first search."""
    spent: float = 0.0
    """Work counted so far."""

    @classmethod
    def after(cls, seconds: float, work: float = math.inf) -> Clock:
        """Clock that runs out after these seconds from now or this work; part of the running one, if any."""
        whole = running_clock()
        whole.begin()
        if whole is FOREVER:
            return cls(time.monotonic() + seconds, work)
        return cls(min(whole.end_s, time.monotonic() + seconds), min(whole.work_left, work), whole)

    def begin(self) -> None:
        """Count the seconds from now, unless they are counted already."""
        self.end_s = min(self.end_s, time.monotonic() + self.waiting_s)
        self.waiting_s = math.inf

    def part(self, share: float) -> Clock:
        """A clock for one search that may take a share of what is left."""
        return Clock(self.end_s, share * self.work_left, self)

    def spend(self, work: float) -> None:
        """Count work."""
        self.work_left -= work
        self.spent += work
        if self.whole is not None:
            self.whole.spend(work)

    @property
    def is_over(self) -> bool:
        """True if no time or no work is left."""
        return self.work_left <= 0 or (self.end_s < math.inf and time.monotonic() >= self.end_s)

    def limit(self, deterministic: float) -> float:
        """A solver's limit in its deterministic time (about seconds), cut to the work that is left."""
        return max(0.0, min(deterministic, self.work_left))

    @property
    def seconds_left(self) -> float:
        """Seconds until the end; infinite without one."""
        return max(0.0, self.end_s - time.monotonic()) if self.end_s < math.inf else math.inf


FOREVER = Clock()

_RUNNING: ContextVar[Clock] = ContextVar("clock", default=FOREVER)


@contextmanager
def running(clock: Clock) -> Iterator[Clock]:
    """Make all solves in this block spend from a clock."""
    token = _RUNNING.set(clock)
    try:
        yield clock
    finally:
        _RUNNING.reset(token)


def running_clock() -> Clock:
    """Clock from which work is currently spent."""
    return _RUNNING.get()
