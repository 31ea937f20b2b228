"""Multiple-choice knapsack: windows and replicas of all layers together, by their total demand.

One price between cells and steps gives every layer its cheapest choice and so misses most
combinations of choices. Here an integer program has a variable for each option of each layer
kind and a row for each way to count cells and steps (:class:`MappingProblem`). If it has no solution,
no mapping of the family keeps the interval; a solution is a proposal to pack. Cutting planes from dual
feasible functions (:mod:`memcompile.passes.packing.bounds`) are added where a solution violates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.pass_contract import Effort
from memcompile.passes.packing.bounds import transformed
from memcompile.passes.packing.cutting_stock import pack_mixed
from memcompile.passes.packing.knapsack import Content
from memcompile.passes.search.problem import (
    Bracket,
    Choice,
    Choices,
    MappingProblem,
    WindowPlan,
    in_time,
    shapes_of,
)
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.solver import Solver

COARSE = 1 / 32
"""Share of the interval left open by the first search, and searched by the second one."""
CUTS = 8
"""Most cutting planes that are added to a knapsack one after the other."""
SPREAD_UNIT = 1 << 16
"""Unit of the arrays taken up in practice, which only rank proposals."""


@dataclass(frozen=True)
class Limits:
    """Solver's deterministic time for a proposal and for packing it; shares of idle steps to try.

    ``failures`` are intervals tried in vain, one after the other, after which the second search ends.
    """

    proposal: float
    packing: float
    idle: tuple[float, ...]
    failures: float


LIMITS = {
    "normal": Limits(0.1, 0.5, (0.0, 0.005, 0.01, 0.02, 0.05, 0.1), 4),
    "best": Limits(2.0, 5.0, (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2), math.inf),
}


def coarse_knapsack(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bound by infeasible knapsacks; then pack solutions until the gap is small."""
    cuts, limit = Cuts(problem), LIMITS[effort].proposal
    bracket = bracket.raised(lambda interval: Knapsack(problem, interval, cuts).is_impossible(limit), in_time)
    return pack_solutions(problem, bracket, LIMITS[effort], COARSE)


def fine_knapsack(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Pack solutions for intervals shortly below the plan's."""
    low, limits = math.floor((1 - COARSE) * bracket.interval), LIMITS[effort]
    return pack_solutions(problem, bracket, limits, low=low, failures=limits.failures)


def pack_solutions(
    problem: MappingProblem,
    bracket: Bracket,
    limits: Limits,
    precision: float = 0.0,
    low: int = 0,
    failures: float = math.inf,
) -> Bracket:
    """Bisect until the gap is within ``precision``, or ``failures`` intervals fail in a row."""
    failed, cuts = 0, Cuts(problem)

    def plan_for(interval: int) -> WindowPlan | None:
        nonlocal failed
        plan = _plan_for(problem, interval, limits, cuts)
        failed = 0 if plan else failed + 1
        return plan

    def more(low: int, high: int) -> bool:
        return high - low > precision * high and failed < failures and not running_clock().is_over

    return bracket.shortened(plan_for, more, low=low)


def _plan_for(problem: MappingProblem, interval: int, limits: Limits, cuts: Cuts) -> WindowPlan | None:
    """The first proposal that packs: those that leave few steps idle come first."""
    tried: set[Choices] = set()
    for idle in limits.idle:
        choices = Knapsack(problem, interval, cuts).propose(idle, limits.proposal)
        if choices is None:
            break  # with more idle steps there is no proposal either
        if choices in tried:
            continue
        tried.add(choices)
        plan = pack_choices(problem, interval, choices, limits.packing)
        if plan is not None:
            return plan
    return None


def pack_choices(
    problem: MappingProblem, interval: int, choices: Choices, work: float, known: Sequence[Content] = ()
) -> WindowPlan | None:
    """The plan with these choices, if they pack for the interval, perhaps with ``known`` contents of arrays."""
    return problem.plan(choices, pack_mixed(shapes_of(choices), problem.lines, problem.arrays, interval, work, known))


class Cuts:
    """Cutting planes: pairs of dual feasible functions, of heights and of widths, that no array can exceed.

    They hold at any interval, so all knapsacks of a problem share those found.
    """

    def __init__(self, problem: MappingProblem) -> None:
        self.limit = problem.arrays * problem.lines[0] * problem.lines[1]
        sizes = [size for kind in problem.kinds for option in kind.options for size in option.sizes]
        heights, widths = (sorted({size[axis] for size in sizes}) for axis in (0, 1))
        self._functions = transformed(heights, problem.lines[0]), transformed(widths, problem.lines[1])
        # Tiles of each option by height and width, per kind [options, heights, widths].
        self._tiles = []
        for kind in problem.kinds:
            tiles = np.zeros((len(kind.options), len(heights), len(widths)), np.int64)
            for number, option in enumerate(kind.options):
                for height, width, count in option.sizes:
                    tiles[number, heights.index(height), widths.index(width)] += count
            self._tiles.append(tiles)
        self.found: list[tuple[int, int]] = []

    def demand(self, pair: tuple[int, int]) -> list[NDArray[np.int64]]:
        """Cells of a replica under a pair of functions, per kind [options]."""
        high, broad = (functions[number] for functions, number in zip(self._functions, pair, strict=True))
        return [tiles @ broad @ high for tiles in self._tiles]

    def violated_by(self, replicas: Sequence[NDArray[np.int64]]) -> tuple[int, int] | None:
        """Find the pair that replicas, per kind [options], exceed most; None if they exceed none."""
        tiles = sum(np.einsum("o,ohw->hw", number, of) for number, of in zip(replicas, self._tiles, strict=True))
        cells = self._functions[0] @ tiles @ self._functions[1].T
        high, broad = np.unravel_index(int(np.argmax(cells)), cells.shape)
        return (int(high), int(broad)) if cells[high, broad] > self.limit else None


@dataclass(frozen=True, eq=False)
class FurtherRow:
    """A limit on the sum of weights over the options that layers take, per kind [options]."""

    weights: Sequence[NDArray[np.int64]]
    limit: int


class Knapsack:
    """The integer program of one interval, with a further row if there is one.

    For each way to count, arrays taken as a whole plus arrays filled in part must not exceed the
    available arrays, nor must arrays taken as a whole plus the steps of the other tiles. Fewer
    replicas never take more, so each option has the fewest that keep the interval.
    """

    def __init__(self, problem: MappingProblem, interval: int, cuts: Cuts, row: FurtherRow | None = None) -> None:
        self.problem, self.interval, self.cuts = problem, interval, cuts
        self.model = cp_sat.new_model()
        self.copies = problem.copies(interval)
        arrays, cells = problem.arrays, problem.lines[0] * problem.lines[1]
        # Integers: cells for the first kind of row, steps for the second.
        self.area = [
            _whole(copies[:, None] * (demand.whole + demand.part) * cells)
            for copies, demand in zip(self.copies, problem.demand, strict=True)
        ]
        self.steps = [
            _whole(copies[:, None] * demand.whole * interval + windows[:, None] * demand.working)
            for copies, windows, demand in zip(self.copies, problem.windows, problem.demand, strict=True)
        ]
        self.taken: list[dict[int, cp_sat.IntVar]] = []
        for kind, layers in enumerate(problem.layers.tolist()):
            fits = (self.area[kind] <= arrays * cells).all(axis=1) & (self.steps[kind] <= arrays * interval).all(axis=1)
            fits &= self.copies[kind] > 0
            taken = {option: self.model.new_int_var(0, layers, "") for option in np.flatnonzero(fits).tolist()}
            self.model.add(sum(taken.values()) == layers)
            self.taken.append(taken)
        self._limit(self.area, arrays * cells)
        if row is not None:
            self.model.add(self._total(row.weights) <= row.limit)
        for pair in cuts.found:
            self._cut(pair)

    def is_impossible(self, limit: float) -> bool:
        """Return True if no choice of the family keeps the interval; False if undecided."""
        self._limit(self.steps, self.problem.arrays * self.interval)
        return self._solved(limit)[0] == cp_sat.INFEASIBLE

    def propose(self, idle: float, limit: float) -> Choices | None:
        """Choices of each kind's layers that take few arrays in practice; None if none was found.

        Parameters
        ----------
        idle
            Share of all steps that the choices must leave idle, as room for the packing.
        """
        self._limit(self.steps, int(self.problem.arrays * self.interval * (1 - idle)))
        spread = [
            np.ceil(copies * spread * SPREAD_UNIT).astype(np.int64)
            for copies, spread in zip(self.copies, self.problem.spread, strict=True)
        ]
        self.model.minimize(self._total(spread))
        status, layers = self._solved(limit)
        if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            return None
        return tuple(
            tuple(
                Choice(kind.options[option], int(self.copies[number][option]))
                for option, count in enumerate(layers[number].tolist())
                for _ in range(count)
            )
            for number, kind in enumerate(self.problem.kinds)
        )

    def _solved(self, limit: float) -> tuple[cp_sat.CpSolverStatus, list[NDArray[np.int64]]]:
        """Solve and cut: status, and the layers that take each option, per kind [options]."""
        for _ in range(CUTS):
            solver = Solver(limit)
            status = solver.solve(self.model)
            if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
                return status, []
            layers = [np.zeros(len(copies), np.int64) for copies in self.copies]
            for amounts, taken in zip(layers, self.taken, strict=True):
                amounts[list(taken)] = [solver.value(amount) for amount in taken.values()]
            pair = self.cuts.violated_by([number * item for number, item in zip(layers, self.copies, strict=True)])
            if pair is None:
                break
            self.cuts.found.append(pair)
            self._cut(pair)
        return status, layers

    def _cut(self, pair: tuple[int, int]) -> None:
        """Add a cutting plane."""
        demand = [copies * item for copies, item in zip(self.copies, self.cuts.demand(pair), strict=True)]
        self.model.add(self._total(demand) <= self.cuts.limit)

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
