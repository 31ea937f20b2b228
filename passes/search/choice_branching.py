"""Branch and price over integral choices: rules out intervals, and proposes choices to pack.

The linear program over choices and array patterns (:class:`ChoiceProgram`) lets a layer take half
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

from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.patterns import WHOLE
from memcompile.passes.search.choice_master import pack_few
from memcompile.passes.search.choice_patterns import ChoiceProgram
from memcompile.passes.search.window_plan import Choice, PriceTable, WindowPlan, shapes_of
from memcompile.passes.solving.clock import FOREVER, Clock, running

Choices = tuple[tuple[Choice, ...], ...]
"""The choice of each layer, kind by kind."""
INTERVAL_SHARE = 0.7
"""Share of the remaining work that one interval may take."""
BISECTION_SHARE = 0.8
"""Share of the remaining work that the bound may take; the rest is for packing."""
NEAR_SHARE = 0.2
"""Share of the work that is kept for other searches once the plan is near the bound."""


@dataclass(frozen=True)
class BranchEffort:
    """Deterministic limits of the search.

    Accepted gap, as a share of the interval; rounds of column generation times hundreds of tile
    shapes, all intervals together; packings tried, and solver time for each.
    """

    gap: float
    work: float
    packings: int
    packing: float
    clock: Clock = FOREVER


EFFORTS = {"normal": BranchEffort(0.015, 400.0, 16, 1.0), "best": BranchEffort(0.0, 5000.0, 100, 10.0)}


@dataclass(frozen=True)
class Verdict:
    """Result of the search: ``impossible`` is None if it was cut short.

    ``choices`` of each kind's layers are integral, and not ruled out by the bound: worth packing.
    """

    impossible: bool | None
    choices: Choices | None
    rounds: int


def close_by_branching(
    table: PriceTable, arrays: int, bound: int, plan: WindowPlan, effort: BranchEffort
) -> tuple[WindowPlan, int]:
    """Return a plan at least as good, and a bound at least as high, by two bisections.

    The bound is the first interval that integral choices may keep; near it, only half of the work goes
    into the last steps, and part of it is kept once the plan is near, too. Choices that were not
    ruled out are then packed for intervals between the bound and the plan's.
    """
    proposals = []
    low, high, left = bound, plan.interval, effort.work
    bisection = effort.clock.part(BISECTION_SHARE)
    granted = bisection.work_left
    while low < high and left > 0 and (high - low > effort.gap / 4 * high or 2 * left > effort.work):
        near = plan.interval - low <= effort.gap * plan.interval
        if bisection.is_over or (near and bisection.work_left < NEAR_SHARE * granted):
            break
        middle = (low + high) // 2
        with running(bisection.part(INTERVAL_SHARE)) as clock:
            program = ChoiceProgram(table, middle, arrays, whole=False, clock=clock)
            verdict = branch(program, math.ceil(left / program.weight))
        left -= verdict.rounds * program.weight
        if verdict.impossible is None:
            break  # intervals near it would take as long without a result
        if verdict.impossible:
            low = middle + 1
            continue
        high = middle
        assert verdict.choices is not None, "an interval is not ruled out by choices"
        proposals.append((middle, verdict.choices))
        with running(bisection):
            plan = _packed(table, arrays, middle, verdict.choices, effort) or plan
    bound = min(low, plan.interval)
    return _pack_shortest(table, arrays, bound, plan, sorted(proposals, key=lambda item: item[0]), effort), bound


def _pack_shortest(
    table: PriceTable,
    arrays: int,
    bound: int,
    plan: WindowPlan,
    proposals: Sequence[tuple[int, Choices]],
    effort: BranchEffort,
) -> WindowPlan:
    """Plan of the shortest interval for which one of the proposals packs, each made for its own interval."""
    low, left = bound, effort.packings
    while low < plan.interval and left > 0 and plan.interval - bound > effort.gap * plan.interval:
        if effort.clock.is_over:
            return plan
        middle = (low + plan.interval) // 2
        able = [choices for wanted, choices in proposals if wanted <= middle][:left]
        left -= max(1, len(able))
        packed = (_packed(table, arrays, middle, choices, effort) for choices in able)
        found = next((item for item in packed if item is not None), None)
        if found is None:
            low = middle + 1
        else:
            plan = found
    return plan


def _packed(table: PriceTable, arrays: int, interval: int, choices: Choices, effort: BranchEffort) -> WindowPlan | None:
    """The plan with these choices, if they pack for the interval."""
    shapes = shapes_of(choices)
    if arrays_bound(shapes, table.lines, interval) > arrays:
        return None
    packing = pack_few(shapes, table.lines, arrays, interval, effort.packing)
    return None if packing is None else WindowPlan(tuple(table.kinds), choices, packing)


def _choices(program: ChoiceProgram, amounts: NDArray[np.float64]) -> Choices:
    """The choices of each kind's layers."""
    taken: list[list[Choice]] = [[] for _ in program.table.kinds]
    for column, amount in zip(program.columns, amounts.tolist(), strict=True):
        taken[column.kind] += [column.choice] * int(amount)
    return tuple(tuple(choices) for choices in taken)


def branch(program: ChoiceProgram, rounds: int) -> Verdict:
    """Decide if integral choices keep the interval of a linear program, within the relaxation of patterns."""
    spent = 0
    branches = [(program.fewest.copy(), program.most.copy())]
    while branches:
        program.fewest, program.most = branches.pop()
        possible, used = program.possible(rounds - spent)
        spent += max(used, 1)
        if possible is False:
            continue
        if possible is None or spent >= rounds:
            return Verdict(None, None, spent)
        amounts = program.amounts
        column = _most_divided(amounts)
        if column is None:
            return Verdict(False, _choices(program, np.rint(amounts)), spent)
        below = (program.fewest, np.where(np.arange(len(amounts)) == column, math.floor(amounts[column]), program.most))
        above = (np.where(np.arange(len(amounts)) == column, math.ceil(amounts[column]), program.fewest), program.most)
        branches += [below, above]  # above comes first: it leads to integral choices in few steps
    return Verdict(True, None, spent)


def _most_divided(amounts: NDArray[np.float64]) -> int | None:
    """Choice with the most fractional number of layers, the first of equals; None if all are integral."""
    distance = np.abs(amounts - np.rint(amounts))
    column = int(np.argmax(np.round(distance, 6)))
    return column if distance[column] > WHOLE else None
