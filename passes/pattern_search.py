"""Closes the gap between bound and interval with patterns, for networks of any but the largest size."""

from __future__ import annotations

from dataclasses import dataclass

from memcompile.passes.choice_patterns import ChoiceProgram
from memcompile.passes.window_plan import PriceTable, WindowPlan


@dataclass(frozen=True)
class PatternEffort:
    """Deterministic limits of the search.

    Rounds of pattern generation for bounds and for plans, all intervals together, and solver time
    for making one plan whole.
    """

    bound_rounds: int
    plan_rounds: int
    plan: float


EFFORTS = {"normal": PatternEffort(40, 25, 0.5), "best": PatternEffort(1500, 600, 20.0)}


def close_gap(
    table: PriceTable, arrays: int, bound: int, plan: WindowPlan, effort: PatternEffort
) -> tuple[WindowPlan, int]:
    """A plan at least as good, and a bound at least as high, by bisection.

    The bound is the first interval that choices and arrays taken in parts can keep. Plans of whole
    ones are then sought between it and the plan at hand.
    """
    bound = _raise_bound(table, arrays, bound, plan.interval, effort.bound_rounds)
    low, left = bound, effort.plan_rounds
    while low < plan.interval and left > 0:
        middle = (low + plan.interval) // 2
        program = ChoiceProgram(table, middle, arrays, whole=True)
        possible, spent = program.possible(left)
        found = program.plan(effort.plan) if possible else None
        left -= max(1, spent)
        if found is None:
            low = middle + 1
        else:
            plan = found
    return plan, bound


def _raise_bound(table: PriceTable, arrays: int, low: int, high: int, rounds: int) -> int:
    """The first interval from ``low`` on that is not ruled out; at most ``high``."""
    while low < high and rounds > 0:
        middle = (low + high) // 2
        possible, spent = ChoiceProgram(table, middle, arrays, whole=False).possible(rounds)
        rounds -= max(1, spent)
        if possible is False:
            low = middle + 1
        else:
            high = middle
    return low
