"""The clock that ends searches."""

from __future__ import annotations

import math

import pytest

from memcompile.passes import clock
from memcompile.passes.clock import FOREVER, Clock


def test_without_an_end_limits_stay_what_they_are() -> None:
    assert not FOREVER.is_over
    assert FOREVER.limit(4.0) == 4.0
    assert Clock.after(math.inf) == FOREVER


def test_limits_are_cut_to_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    running = Clock.after(10.0)
    assert (running.limit(4.0), running.limit(20.0), running.is_over) == (4.0, 10.0, False)
    now[0] = 108.0
    assert (running.limit(4.0), running.is_over) == (2.0, False)
    now[0] = 111.0
    assert (running.limit(4.0), running.is_over) == (0.0, True)
