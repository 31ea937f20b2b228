"""Closes the gap between bound and interval with patterns, for networks of any but the largest size."""

from __future__ import annotations

from dataclasses import dataclass

from memcompile.passes.choice_patterns import ChoiceProgram
from memcompile.passes.window_plan import PriceTable, WindowPlan


@dataclass(frozen=True)
class PatternEffort:
    """Deterministic limits: columns generated per linear programme, solver time per plan."""

    rounds: int
    plan: float


EFFORTS = {"normal": PatternEffort(40, 1.0), "best": PatternEffort(300, 20.0)}


def close_gap(
    table: PriceTable, arrays: int, bound: int, plan: WindowPlan, effort: PatternEffort
) -> tuple[WindowPlan, int]:
    """A plan at least as good, and a bound at least as high, by bisection.

    An interval is ruled out if even choices and arrays taken in parts do not keep it. Where that
    is possible a plan of whole ones is sought; if none is found the search goes on above it, and
    the bound stays below.
    """
    low, proven = bound, True
    while low < plan.interval:
        middle = (low + plan.interval) // 2
        if ChoiceProgram(table, middle, arrays, whole=False).possible(effort.rounds) is False:
            low = middle + 1
            bound = low if proven else max(bound, low)
            continue
        found = _plan(table, middle, arrays, effort)
        if found is None:
            low, proven = middle + 1, False
        else:
            plan = found
    return plan, min(bound, plan.interval)


def _plan(table: PriceTable, interval: int, arrays: int, effort: PatternEffort) -> WindowPlan | None:
    program = ChoiceProgram(table, interval, arrays, whole=True)
    return program.plan(effort.plan) if program.possible(effort.rounds) else None
