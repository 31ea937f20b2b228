"""When a search has to end by the clock, besides the limits that do not depend on the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A point in time after which searches return the best they have.

    ``end_s`` is in seconds of :func:`time.monotonic`; infinity leaves results as deterministic as
    the searches are.
    """

    end_s: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> Clock:
        """The clock that runs out after so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.end_s < math.inf and time.monotonic() >= self.end_s

    def limit(self, deterministic: float) -> float:
        """A solver's limit in its deterministic time (about seconds), cut to the time that is left."""
        if self.end_s == math.inf:
            return deterministic
        return max(0.0, min(deterministic, self.end_s - time.monotonic()))


FOREVER = Clock()
