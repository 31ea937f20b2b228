"""Branch and price: intervals ruled out by integral choices, and choices worth packing.

The linear program over choices and array patterns (:class:`MasterProblem`) lets a layer take half
of one window and half of another, and so allows intervals that no mapping keeps. Where it does,
the search branches on the number of layers of a kind that take one of the choices, rounded up or
down, and solves again, until every branch is ruled out or all choices of one are integral. Those
are worth packing: the resulting mapping is often near the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.pass_contract import Effort
from memcompile.passes.packing.knapsack import WHOLE
from memcompile.passes.search.column_generation import MasterProblem
from memcompile.passes.search.multiple_choice_knapsack import pack_choices
from memcompile.passes.search.problem import Bracket, Choice, Choices, MappingProblem, WindowPlan
from memcompile.passes.solving.bisection import bisect
from memcompile.passes.solving.clock import running, running_clock

INTERVAL_SHARE = 0.7
"""Share of the remaining work that one interval may take."""
BISECTION_SHARE = 0.8
"""Share of the remaining work that the bound may take; the rest is for packing."""
NEAR_SHARE = 0.2
"""Share of the work that is kept for other searches once the plan is near the bound."""


@dataclass(frozen=True)
class Limits:
    """Deterministic limits of the search.

    Accepted gap, as a share of the interval; rounds of column generation times hundreds of tile
    shapes, all intervals together; packings tried, and counted work for each.
    """

    gap: float
    work: float
    packings: int
    packing: float


LIMITS = {"normal": Limits(0.015, 400.0, 16, 1.0), "best": Limits(0.0, 5000.0, 100, 10.0)}


@dataclass(frozen=True)
class Verdict:
    """Result of the search: ``impossible`` is None if it was cut short.

    ``choices`` of each kind's layers are integral, and not ruled out by the bound: worth packing.
    """

    impossible: bool | None
    choices: Choices | None
    rounds: int


def branch_and_price(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bound by bisection: the first interval that integral choices may keep; then pack what was not ruled out.

    Near the bound, only half of the work goes into the last steps, and part of it is kept once the plan is near, too.
    """
    limits, left, plan = LIMITS[effort], LIMITS[effort].work, bracket.plan
    proposals: list[tuple[int, Choices]] = []
    clock = running_clock().part(BISECTION_SHARE)
    granted = clock.work_left

    def more(low: int, high: int) -> bool:
        if left <= 0 or (high - low <= limits.gap / 4 * high and 2 * left <= limits.work):
            return False
        near = plan.interval - low <= limits.gap * plan.interval
        return not (clock.is_over or (near and clock.work_left < NEAR_SHARE * granted))

    def attempt(interval: int) -> int | None:
        nonlocal left, plan
        with running(clock.part(INTERVAL_SHARE)):
            master = MasterProblem(problem, interval)
            verdict = branch(master, math.ceil(left / master.weight))
        left -= verdict.rounds * master.weight
        if verdict.choices is not None:
            proposals.append((interval, verdict.choices))
            with running(clock):
                plan = pack_choices(problem, interval, verdict.choices, limits.packing) or plan
        elif verdict.impossible is None:
            left = 0.0  # intervals near it would take as long without a result
        return None if verdict.impossible else interval

    low, _ = bisect(bracket.bound, bracket.interval, attempt, more)
    return _pack_shortest(problem, Bracket(plan, low), sorted(proposals, key=lambda item: item[0]), limits)


def _pack_shortest(
    problem: MappingProblem, bracket: Bracket, proposals: Sequence[tuple[int, Choices]], limits: Limits
) -> Bracket:
    """Plan of the shortest interval for which one of the proposals packs, each made for its own interval."""
    left = limits.packings

    def more(low: int, high: int) -> bool:
        return left > 0 and high - bracket.bound > limits.gap * high and not running_clock().is_over

    def plan_for(interval: int) -> WindowPlan | None:
        nonlocal left
        able = [choices for wanted, choices in proposals if wanted <= interval][:left]
        left -= max(1, len(able))
        packed = (pack_choices(problem, interval, choices, limits.packing) for choices in able)
        return next((plan for plan in packed if plan is not None), None)

    return bracket.shortened(plan_for, more)


def _choices(master: MasterProblem, amounts: NDArray[np.float64]) -> Choices:
    """The choices of each kind's layers."""
    taken: list[list[Choice]] = [[] for _ in master.problem.kinds]
    for column, amount in zip(master.columns, amounts.tolist(), strict=True):
        taken[column.kind] += [column.choice] * int(amount)
    return tuple(tuple(choices) for choices in taken)


def branch(master: MasterProblem, rounds: int) -> Verdict:
    """Decide if integral choices keep the interval of a master problem, within the relaxation of patterns."""
    spent = 0
    branches = [(master.fewest.copy(), master.most.copy())]
    while branches:
        master.fewest, master.most = branches.pop()
        possible, used = master.possible(rounds - spent)
        spent += max(used, 1)
        if possible is False:
            continue
        if possible is None or spent >= rounds:
            return Verdict(None, None, spent)
        amounts = master.amounts
        column = _most_divided(amounts)
        if column is None:
            return Verdict(False, _choices(master, np.rint(amounts)), spent)
        below = (master.fewest, np.where(np.arange(len(amounts)) == column, math.floor(amounts[column]), master.most))
        above = (np.where(np.arange(len(amounts)) == column, math.ceil(amounts[column]), master.fewest), master.most)
        branches += [below, above]  # above comes first: it leads to integral choices in few steps
    return Verdict(True, None, spent)


def _most_divided(amounts: NDArray[np.float64]) -> int | None:
    """Choice with the most fractional number of layers, the first of equals; None if all are integral."""
    distance = np.abs(amounts - np.rint(amounts))
    column = int(np.argmax(np.round(distance, 6)))
    return column if distance[column] > WHOLE else None
