"""Chooses windows and replicas of all layers together by their demand, with an integer program.

One price between cells and steps gives every layer its cheapest choice and so misses most
combinations of choices. Here an integer program has a variable for each option of each layer
kind and a row for each way to count cells and steps (:class:`PriceTable`). If it has no solution,
no mapping of the family keeps the interval; a solution is a proposal to pack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.packing import Packing, TileShape, pack
from memcompile.passes.packing.pattern_packing import pack_around_full
from memcompile.passes.search.window_plan import Choice, PriceTable, WindowPlan, shapes_of
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import FOREVER, Clock
from memcompile.passes.solving.solver import Solver

EXACT_ARRAYS = 64
"""Most arrays into which tiles that share arrays are packed by patterns."""
EXACT_SHAPES = 40
"""Most shapes of such tiles."""
SPREAD_UNIT = 1 << 16
"""Unit of the arrays taken up in practice, which only rank proposals."""


@dataclass(frozen=True)
class MasterEffort:
    """Solver's deterministic time for a proposal and for packing it; shares of idle steps to try."""

    limit: float
    packing: float
    idle: tuple[float, ...]
    clock: Clock = FOREVER


EFFORTS = {
    "normal": MasterEffort(0.1, 0.5, (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)),
    "best": MasterEffort(2.0, 5.0, (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)),
}


def choose_together(
    table: PriceTable,
    arrays: int,
    bound: int,
    plan: WindowPlan,
    effort: MasterEffort,
    precision: float = 0.0,
    failures: float = math.inf,
) -> WindowPlan:
    """Return a plan at least as good, by bisection until the gap is small or ``failures`` intervals fail in a row."""
    low, failed = bound, 0
    while plan.interval - low > precision * plan.interval and failed < failures and not effort.clock.is_over:
        middle = (low + plan.interval) // 2
        found = _pack_proposals(table, arrays, middle, effort)
        if found is None:
            low, failed = middle + 1, failed + 1
        else:
            plan, failed = found, 0
    return plan


def raise_bound(table: PriceTable, arrays: int, low: int, high: int, effort: MasterEffort) -> int:
    """The first interval from ``low`` on that is not ruled out; at most ``high``."""
    while low < high and not effort.clock.is_over:
        middle = (low + high) // 2
        if ChoiceMaster(table, arrays, middle).is_impossible(effort.limit):
            low = middle + 1
        else:
            high = middle
    return low


def _pack_proposals(table: PriceTable, arrays: int, interval: int, effort: MasterEffort) -> WindowPlan | None:
    """The first proposal that packs: those that leave few steps idle come first."""
    tried: set[tuple[tuple[Choice, ...], ...]] = set()
    for idle in effort.idle:
        choices = ChoiceMaster(table, arrays, interval).propose(idle, effort.limit)
        if choices is None:
            break  # with more idle steps there is no proposal either
        if choices in tried:
            continue
        tried.add(choices)
        shapes = shapes_of(choices)
        if arrays_bound(shapes, table.lines, interval) > arrays:
            continue
        packing = pack_few(shapes, table.lines, arrays, interval, effort.packing)
        if packing is not None:
            return WindowPlan(tuple(table.kinds), choices, packing)
    return None


def pack_few(
    shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int, interval: int, effort: float
) -> Packing | None:
    """Pack by first fit, and by patterns where few kinds of tiles share few arrays."""
    packing = pack(shapes, lines, interval, arrays, enough=arrays)
    shared = [shape for shape in shapes if (shape.height, shape.width) != lines]
    full = sum(shape.count for shape in shapes) - sum(shape.count for shape in shared)
    if packing is not None or arrays - full > EXACT_ARRAYS or len(shared) > EXACT_SHAPES:
        return packing
    return pack_around_full(shapes, lines, arrays, interval, effort)


class ChoiceMaster:
    """The integer program of one interval.

    For each way to count, arrays taken as a whole plus arrays filled in part must not exceed the
    available arrays, nor must arrays taken as a whole plus the steps of the other tiles. Fewer
    replicas never take more, so each option has the fewest that keep the interval.
    """

    def __init__(self, table: PriceTable, arrays: int, interval: int) -> None:
        self.table, self.arrays, self.interval = table, arrays, interval
        self.model = cp_sat.CpModel()
        self.copies = [-(-windows // interval) for windows in table.windows]
        cells = table.lines[0] * table.lines[1]
        # Integers: cells for the first kind of row, steps for the second.
        self.area = [
            _whole(copies[:, None] * (use.whole + use.part) * cells)
            for copies, use in zip(self.copies, table.uses, strict=True)
        ]
        self.steps = [
            _whole(copies[:, None] * use.whole * interval + windows[:, None] * use.working)
            for copies, windows, use in zip(self.copies, table.windows, table.uses, strict=True)
        ]
        self.taken: list[dict[int, cp_sat.IntVar]] = []
        for kind, layers in enumerate(table.layers.tolist()):
            fits = (self.area[kind] <= arrays * cells).all(axis=1) & (self.steps[kind] <= arrays * interval).all(axis=1)
            taken = {option: self.model.new_int_var(0, layers, "") for option in np.flatnonzero(fits).tolist()}
            self.model.add(sum(taken.values()) == layers)
            self.taken.append(taken)
        self._limit(self.area, arrays * cells)

    def is_impossible(self, effort: float) -> bool:
        """Return True if no choice of the family keeps the interval; False if undecided."""
        self._limit(self.steps, self.arrays * self.interval)
        return Solver(effort).solve(self.model) == cp_sat.INFEASIBLE

    def propose(self, idle: float, effort: float) -> tuple[tuple[Choice, ...], ...] | None:
        """Choices of each kind's layers that take few arrays in practice; None if none was found.

        Parameters
        ----------
        idle
            Share of all steps that the choices must leave idle, as room for the packing.
        """
        self._limit(self.steps, int(self.arrays * self.interval * (1 - idle)))
        spread = [
            np.ceil(copies * spread * SPREAD_UNIT).astype(np.int64)
            for copies, spread in zip(self.copies, self.table.spread, strict=True)
        ]
        self.model.minimize(self._total(spread))
        solver = Solver(effort)
        if solver.solve(self.model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            return None
        return tuple(
            tuple(
                Choice(kind.options[option], int(self.copies[number][option]))
                for option, amount in self.taken[number].items()
                for _ in range(solver.value(amount))
            )
            for number, kind in enumerate(self.table.kinds)
        )

    def _limit(self, demand: Sequence[NDArray[np.int64]], limit: int) -> None:
        """Add the rows of all ways to count."""
        for way in range(demand[0].shape[1]):
            self.model.add(self._total([item[:, way] for item in demand]) <= limit)

    def _total(self, demand: Sequence[NDArray[np.int64]]) -> cp_sat.LinearExprT:
        amounts = [amount for taken in self.taken for amount in taken.values()]
        factors = [int(demand[kind][option]) for kind, taken in enumerate(self.taken) for option in taken]
        return cp_sat.LinearExpr.weighted_sum(amounts, factors)


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round products of counts and halves of lines, which are integers but for rounding."""
    return np.rint(values).astype(np.int64)
