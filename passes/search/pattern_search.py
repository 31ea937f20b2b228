"""Narrows the gap between bound and interval by column generation over patterns, except for the largest networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memcompile.passes.search.choice_patterns import ChoiceProgram
from memcompile.passes.search.window_plan import PriceTable, WindowPlan
from memcompile.passes.solving.clock import FOREVER, Clock


@dataclass(frozen=True)
class PatternEffort:
    """Deterministic limits of the search.

    Work for bounds and for plans, all intervals together, in rounds of column generation times
    hundreds of tile shapes; and solver time to make one plan integral.
    """

    bound_work: float
    plan_work: float
    plan: float
    clock: Clock = FOREVER


EFFORTS = {"normal": PatternEffort(60.0, 25.0, 0.5), "best": PatternEffort(6000.0, 2500.0, 20.0)}


def close_gap(
    table: PriceTable, arrays: int, bound: int, plan: WindowPlan, effort: PatternEffort
) -> tuple[WindowPlan, int]:
    """Return a plan at least as good, and a bound at least as high, by bisection.

    The bound is the first interval that fractional choices and arrays can keep. Integral plans are
    then searched between it and the given plan.
    """
    bound = _raise_bound(table, arrays, bound, plan.interval, effort)
    low, left = bound, effort.plan_work
    while low < plan.interval and left > 0 and not effort.clock.is_over:
        middle = (low + plan.interval) // 2
        program = ChoiceProgram(table, middle, arrays, whole=True, clock=effort.clock)
        possible, spent = program.possible(math.ceil(left / program.weight))
        found = program.plan(effort.plan) if possible else None
        left -= max(1, spent) * program.weight
        if found is None:
            low = middle + 1
        else:
            plan = found
    return plan, bound


def _raise_bound(table: PriceTable, arrays: int, low: int, high: int, effort: PatternEffort) -> int:
    """The first interval from ``low`` on that is not ruled out; at most ``high``."""
    left = effort.bound_work
    while low < high and left > 0 and not effort.clock.is_over:
        middle = (low + high) // 2
        program = ChoiceProgram(table, middle, arrays, whole=False, clock=effort.clock)
        possible, spent = program.possible(math.ceil(left / program.weight))
        left -= max(1, spent) * program.weight
        if possible is False:
            low = middle + 1
        else:
            high = middle
    return low
