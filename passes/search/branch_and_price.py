"""Branch and price: intervals ruled out by integral choices, and choices worth packing.

The linear program over choices and array patterns (:class:`MasterProblem`) lets a layer take half
of one window and half of another, and so allows intervals that no mapping keeps. Where it does,
the search branches on the number of layers of a kind that take one of the choices, rounded up or
down, and solves again, until every branch is ruled out or all choices of one are integral. Those
are worth packing: the resulting mapping is often near the bound. Each interval begins with the contents of arrays that
the last one ended with, and so do packings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.pass_contract import Effort
from memcompile.passes.packing.knapsack import WHOLE, Content
from memcompile.passes.search.column_generation import MasterProblem
from memcompile.passes.search.multiple_choice_knapsack import pack_choices
from memcompile.passes.search.problem import Bracket, Choice, Choices, MappingProblem, WindowPlan
from memcompile.passes.solving.bisection import first_true
from memcompile.passes.solving.clock import running, running_clock

PLAN_SHARE = 0.8
"""Share of the work for plans; the rest is for the bound."""
INTERVAL_SHARE = 0.35
"""Share of the remaining work that one interval may take."""
UNDECIDED = 2
"""Intervals in a row that may remain undecided."""
OTHERS = 4
"""Proposals for shorter intervals that are packed at the end."""


@dataclass(frozen=True)
class Limits:
    """Deterministic limits of the search.

    Accepted gap, as a share of the interval; rounds of column generation for an interval; counted work for a packing.
    """

    gap: float
    rounds: int
    packing: float


LIMITS = {"normal": Limits(0.005, 500, 1.0), "best": Limits(0.0, 5000, 10.0)}


@dataclass(frozen=True)
class Verdict:
    """Result of the search: ``impossible`` is None if it was cut short.

    ``choices`` of each kind's layers are integral, and not ruled out by the bound: worth packing.
    """

    impossible: bool | None
    choices: Choices | None
    rounds: int


def branch_and_price(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bisect for the plan, packing integral choices that are not ruled out; then for the bound, which brings others."""
    search = _Search(problem, LIMITS[effort], bracket.bound)
    with running(running_clock().part(PLAN_SHARE)):
        plan = bracket.shortened(search.plan_for, search.may_shorten).plan
    bracket = Bracket(plan, search.raised(plan.interval))
    return bracket.shortened(search.plan_of_another, search.may_shorten)


class _Search:
    """Knowledge of the intervals of a problem, as a search gathers it.

    Those below ``bound`` are impossible, and integral choices may keep those from ``possible`` on; ``proposals`` are
    such choices, each with the interval it was made for. ``known`` are the contents of arrays in the solution of the
    last linear program, with which the next one and packings begin; ``undecided`` counts intervals in a row.
    """

    def __init__(self, problem: MappingProblem, limits: Limits, bound: int) -> None:
        self.problem, self.limits, self.bound = problem, limits, bound
        self.known: Sequence[Content] = ()
        self.possible: float = math.inf
        self.proposals: list[tuple[int, Choices]] = []
        self.undecided = 0
        self.has_decided = False
        self.clock = running_clock()

    def may_shorten(self, low: int, high: int) -> bool:
        """Return True while the plan is not near the bound, and time is left."""
        near = high - self.bound <= self.limits.gap * high or high - low <= self.limits.gap / 4 * high
        return not (near and self._is_half_spent) and not self._is_stuck

    def plan_for(self, interval: int) -> WindowPlan | None:
        """Pack what was proposed last, if it was for a shorter interval; else choices of its own."""
        with running(running_clock().part(INTERVAL_SHARE)):
            last = self.proposals[-1][1] if self.proposals and self.proposals[-1][0] < interval else None
            plan = None if last is None else self._packed(interval, last)
            if plan is not None:
                return plan
            choices = self._decided(interval).choices
            return None if choices is None or choices == last else self._packed(interval, choices)

    def plan_of_another(self, interval: int) -> WindowPlan | None:
        """Pack what was proposed for this interval or for shorter ones, the nearest first."""
        able = sorted((item for item in self.proposals if item[0] <= interval), key=lambda item: -item[0])
        packed = (self._packed(interval, choices) for _, choices in able[:OTHERS])
        return next((plan for plan in packed if plan is not None), None)

    def raised(self, interval: int) -> int:
        """The bound for a plan of this interval: the first one that is not ruled out."""

        def is_open(probe: int) -> bool:
            with running(running_clock().part(INTERVAL_SHARE)):
                return not self._decided(probe).impossible

        def more(low: int, high: int) -> bool:
            near = high - low <= self.limits.gap / 4 * high
            return not (near and self._is_half_spent) and not self._is_stuck

        if self.has_decided:
            self.undecided = 0
        return first_true(self.bound, int(min(interval, self.possible)), is_open, more)

    @property
    def _is_half_spent(self) -> bool:
        """True if half of the work is spent, and the last steps are not worth the other."""
        return self.clock.spent > self.clock.work_left

    @property
    def _is_stuck(self) -> bool:
        """True if no time is left, or further intervals would take as much of it without a result."""
        return self.undecided >= UNDECIDED or running_clock().is_over

    def _packed(self, interval: int, choices: Choices) -> WindowPlan | None:
        """The plan with these choices, if they pack."""
        return pack_choices(self.problem, interval, choices, self.limits.packing, self.known)

    def _decided(self, interval: int) -> Verdict:
        """Decide if integral choices keep an interval, and remember what that says of others."""
        master = MasterProblem(self.problem, interval, self.known)
        verdict = branch(master, self.limits.rounds)
        unclear = verdict.choices is None and verdict.impossible is None
        self.undecided = self.undecided + 1 if unclear else 0
        self.has_decided |= not unclear
        self.known = master.contents()
        if verdict.impossible:
            self.bound = max(self.bound, interval + 1)
        if verdict.choices is not None:
            self.possible = min(self.possible, interval)
            self.proposals.append((interval, verdict.choices))
        return verdict


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
