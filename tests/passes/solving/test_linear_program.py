"""Linear programs with generated columns against SciPy's solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from memcompile.passes.solving.clock import Clock, running
from memcompile.passes.solving.linear_program import LinearProgram


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8), st.integers(0, 5))
def test_costs_and_prices_are_those_of_another_solver(seed: int, rows: int, columns: int, added: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 5, (rows, columns + added)).astype(float)
    matrix[:, 0] = 1.0  # covers every row
    needed, costs = rng.integers(0, 10, rows).astype(float), rng.integers(1, 9, columns + added).astype(float)
    program = LinearProgram(needed, np.full(rows, math.inf))
    for number in range(columns):
        program.add(costs[number], matrix[:, number])
    for count in (columns, columns + added):
        for number in range(columns, count):
            program.add(costs[number], matrix[:, number])
        found = program.solve()
        other = linprog(costs[:count], A_ub=-matrix[:, :count], b_ub=-needed, method="highs")
        assert found is not None
        assert found.cost == pytest.approx(other.fun, abs=1e-6)
        assert costs[:count] @ found.amounts == pytest.approx(other.fun, abs=1e-6)
        # Strong duality: prices are worth as much, and no column costs less than it is worth.
        assert found.prices @ needed == pytest.approx(other.fun, abs=1e-6)
        assert (found.prices @ matrix[:, :count] <= costs[:count] + 1e-6).all()


def test_amounts_are_limited_anew() -> None:
    program = LinearProgram([4.0], [4.0])
    program.add(1.0, np.array([1.0]))
    program.add(3.0, np.array([1.0]))
    first = program.solve()
    assert first is not None
    assert first.amounts.tolist() == [4.0, 0.0]
    program.limit([0.0, 0.0], [1.5, math.inf])
    second = program.solve()
    assert second is not None
    assert (second.cost, second.amounts.tolist()) == (9.0, [1.5, 2.5])
    program.limit([0.0, 0.0], [1.0, 1.0])
    assert program.solve() is None


def test_solves_are_counted_as_work() -> None:
    program = LinearProgram([1.0], [math.inf])
    program.add(1.0, np.array([1.0]))
    with running(Clock.after(math.inf, 10.0)) as clock:
        assert program.solve() is not None
        assert 0 < clock.spent < 0.1
        assert clock.work_left == pytest.approx(10.0 - clock.spent)


def test_a_clock_with_an_end_limits_the_solver() -> None:
    program = LinearProgram([1.0], [math.inf])
    program.add(1.0, np.array([1.0]))
    with running(Clock.after(100.0)):
        assert program.solve() is not None
