"""The clock that ends searches."""

from __future__ import annotations

import math

import pytest

from memcompile.passes.packing.first_fit import TileShape, first_fit, pack
from memcompile.passes.solving import clock, cp_sat
from memcompile.passes.solving.clock import FOREVER, Clock, running, running_clock
from memcompile.passes.solving.solver import Solver


def test_without_an_end_limits_stay_what_they_are() -> None:
    assert not FOREVER.is_over
    assert FOREVER.limit(4.0) == 4.0
    assert FOREVER.seconds_left == math.inf
    FOREVER.spend(1e9)
    assert not FOREVER.is_over


def test_searches_spend_from_one_clock() -> None:
    whole = Clock(work_left=10.0)
    with running(whole):
        half = whole.part(0.5)
        with running(half):
            running_clock().spend(4.0)
            assert (half.limit(3.0), whole.limit(8.0)) == (1.0, 6.0)
            running_clock().spend(2.0)
        assert half.is_over
        assert (whole.work_left, whole.is_over) == (4.0, False)
        inner = Clock.after(math.inf, 100.0)  # no more than is left of the whole
        assert inner.limit(50.0) == 4.0
        inner.spend(4.0)
        assert whole.is_over
    assert running_clock() is FOREVER


def test_solvers_stop_when_the_work_is_spent() -> None:
    model = cp_sat.new_model()
    queens = [model.new_int_var(0, 39, "") for _ in range(40)]
    model.add_all_different(queens)
    model.add_all_different(queen + row for row, queen in enumerate(queens))
    model.add_all_different(queen - row for row, queen in enumerate(queens))
    with running(Clock(work_left=1e-4)) as clock:
        assert Solver(100.0).solve(model) == cp_sat.UNKNOWN
    assert clock.is_over
    with running(Clock(work_left=100.0)) as clock:
        assert Solver(100.0).solve(model) in (cp_sat.OPTIMAL, cp_sat.FEASIBLE)
    assert not clock.is_over


def test_seconds_are_cut_to_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    limited = Clock.after(10.0)
    assert (limited.limit(20.0), limited.seconds_left, limited.is_over) == (20.0, 10.0, False)
    with running(limited):
        assert Clock.after(100.0).seconds_left == 10.0
    now[0] = 108.0
    assert (limited.seconds_left, limited.is_over) == (2.0, False)
    now[0] = 111.0
    assert (limited.seconds_left, limited.is_over) == (0.0, True)


def test_a_waiting_clock_begins_with_the_first_search(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    with running(Clock(waiting_s=10.0)):
        now[0] = 500.0
        assert Clock.after(math.inf).seconds_left == 10.0
        now[0] = 507.0
        assert [Clock.after(seconds).seconds_left for seconds in (math.inf, 1.0)] == [3.0, 1.0]
        assert Clock.after(math.inf, 2.0).limit(5.0) == 2.0


def test_first_fit_tries_one_order_once_the_time_is_up() -> None:
    shapes = [TileShape(4, 4, 1, 1), TileShape(8, 2, 1, 2), TileShape(2, 3, 1, 3)]
    with running(Clock(end_s=0.0)):
        late = pack(shapes, (8, 8), None, None)
    assert late == first_fit(shapes, (8, 8), 6, None)
