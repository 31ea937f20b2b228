"""Conditions of a chip since its cells were written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memcompile.errors import UsageError


@dataclass(frozen=True)
class Conditions:
    """Conditions of a chip since its cells were written.

    Raises
    ------
    UsageError
        A number is negative or infinite.
    """

    time_s: float = 0.0
    """Time, in seconds."""
    reads: float = 0.0
    """Reads of each cell: a tile is read once a window and bit phase of each image."""
    writes: int = 0
    """Times that all cells were written again; time and reads count from the last one."""

    def __post_init__(self) -> None:
        if not 0 <= self.time_s < math.inf:
            raise UsageError(f"time_s {self.time_s} is out of range; give at least 0 seconds since programming")
        if not 0 <= self.reads < math.inf:
            raise UsageError(f"reads {self.reads} is out of range; give at least 0 reads since programming")
        if self.writes < 0:
            raise UsageError(f"writes {self.writes} is out of range; give at least 0 times of writing again")


NEW = Conditions()
"""Just written."""
