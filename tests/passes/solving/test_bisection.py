"""Bisection: the first value that passes, whatever ends it early, and ends that never cross wrongly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memcompile.passes.solving.bisection import bisect, first_true


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_the_first_value_that_passes_is_found(low: int, more: int, first: int) -> None:
    tried = []

    def passes(value: int) -> bool:
        tried.append(value)
        return value >= first

    found = first_true(low, low + more, passes)
    assert found == min(max(low, first), low + more)
    assert len(tried) <= 11
    assert all(low <= value < low + more for value in tried)


@given(st.integers(1, 1000), st.integers(0, 40))
def test_what_is_reached_below_the_value_tried_ends_the_bisection_sooner(first: int, gain: int) -> None:
    """The upper end is what was reached, even below the lower end, where an attempt failed by bad luck."""
    reached = []

    def attempt(value: int) -> int | None:
        if value < first:
            return None
        reached.append(max(first - 3, value - gain))
        return reached[-1]

    low, high = bisect(0, 1000, attempt)
    assert low >= high
    assert high == min([1000, *reached])


def test_a_bisection_that_ends_early_keeps_what_is_proven() -> None:
    assert bisect(0, 100, lambda value: None, lambda low, high: low < 76) == (76, 100)
    assert bisect(0, 100, lambda value: value, lambda low, high: high - low > 30) == (0, 25)
    assert bisect(5, 5, lambda value: 1 // 0) == (5, 5)


def test_another_middle_is_tried_where_one_is_given() -> None:
    tried: list[int] = []

    def attempt(value: int) -> int:
        tried.append(value)
        return value

    assert bisect(0, 100, attempt, middle=lambda low, high: low) == (0, 0)
    assert tried == [0]
