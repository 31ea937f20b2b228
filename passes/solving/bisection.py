"""Bisection over integers, mostly intervals: the one loop behind all bounds and plans."""

from __future__ import annotations

from collections.abc import Callable


def halfway(low: int, high: int) -> int:
    """Mean of both ends, rounded down."""
    return (low + high) // 2


def bisect(
    low: int,
    high: int,
    attempt: Callable[[int], int | None],
    more: Callable[[int, int], bool] = lambda low, high: True,
    middle: Callable[[int, int], int] = halfway,
) -> tuple[int, int]:
    """Narrow a range until its ends meet.

    Parameters
    ----------
    attempt
        Function of a value between the ends: the value reached, which becomes the upper end, or None if
        nothing is reached, and the lower end moves above the value.
    more
        Function of both ends; False ends the bisection early.
    """
    while low < high and more(low, high):
        probe = middle(low, high)
        reached = attempt(probe)
        if reached is None:
            low = probe + 1
        else:
            high = reached
    return low, high


def first_true(
    low: int, high: int, test: Callable[[int], bool], more: Callable[[int, int], bool] = lambda low, high: True
) -> int:
    """Return the first value from ``low`` on that passes a test which all greater ones pass; at most ``high``."""
    return bisect(low, high, lambda value: value if test(value) else None, more)[0]
