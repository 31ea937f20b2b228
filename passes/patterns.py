"""Bounds and packings by patterns: linear programming over the possible contents of one array.

The content of an array is a *pattern*: how many tiles of each shape it holds. Choosing how many
arrays get each pattern is a linear programme whose columns are generated as needed (Gilmore and
Gomory, Oper. Res. 9, 849, 1961): its dual prices of the tile shapes are handed to a knapsack that
looks for a pattern worth more than one array. Rounded down, with first fit for the rest, it is a
packing; whatever the prices, demand over the dearest pattern is a bound (Farley, Oper. Res. 38,
922, 1990).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model
from scipy.optimize import linprog

from memcompile.passes.packing import Fill, Packing, TileShape, fill_array, first_fit
from memcompile.passes.packing_bounds import transformed
from memcompile.passes.packing_exact import arrange

PRICE_UNIT = 1 << 24
"""Prices are rounded up to integers in this unit, which keeps bounds valid."""
TOLERANCE = 1e-5
FUNCTIONS = 5
"""Dual feasible functions per direction that limit the content of an array."""
ARRANGE_LIMIT = 0.05
"""Deterministic time to arrange the tiles of one array where the heuristic does not manage."""
KNAPSACK_LIMIT = 0.2
"""Deterministic time for one knapsack; what is not closed by then weakens the bound only."""


@dataclass(frozen=True)
class Knapsack:
    """The limits of one array: ``matrix @ counts <= limits``, int64, and ``counts <= most``."""

    matrix: NDArray[np.int64]
    limits: tuple[int, ...]
    most: NDArray[np.int64]

    @classmethod
    def of(
        cls, sizes: NDArray[np.int64], lines: tuple[int, int], interval: int, own_lines: bool = False
    ) -> Knapsack:
        """Steps, and cells counted under several pairs of dual feasible functions.

        Parameters
        ----------
        sizes
            [shapes, 3]: input lines, output lines, steps.
        own_lines
            Every tile gets output lines of its own: stricter, but then the tiles fit for certain.
        """
        height, width, load = sizes.T
        heights = _few_transforms(height, lines[0])
        widths = _few_transforms(width, lines[1])
        rows = [load, *(high * broad for high in heights for broad in widths)]
        limits = [interval, *[lines[0] * lines[1]] * (len(rows) - 1)]
        if own_lines:
            rows, limits = [load, width], [interval, lines[1]]
        fit = (lines[0] // height) * (lines[1] // width)
        steps = np.where(load > 0, interval // np.maximum(load, 1), fit)
        return cls(np.stack(rows), tuple(limits), np.minimum(fit, steps))

    def dearest(self, prices: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]]:
        """An upper limit of the price of any content, and the content found."""
        counts = np.zeros(len(prices), np.int64)
        units = np.ceil(np.maximum(prices, 0) * PRICE_UNIT).astype(np.int64)
        worth = np.flatnonzero((units > 0) & (self.most > 0))
        if not len(worth):
            return 0.0, counts
        model = cp_model.CpModel()
        amounts = [model.new_int_var(0, int(self.most[shape]), "") for shape in worth]
        for row, limit in zip(self.matrix[:, worth].tolist(), self.limits, strict=True):
            model.add(cp_model.LinearExpr.weighted_sum(amounts, row) <= limit)
        model.maximize(cp_model.LinearExpr.weighted_sum(amounts, units[worth].tolist()))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_deterministic_time = KNAPSACK_LIMIT
        solver.parameters.cp_model_probing_level = 0
        if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return math.inf, counts
        counts[worth] = [solver.value(amount) for amount in amounts]
        return solver.best_objective_bound / PRICE_UNIT, counts


def _few_transforms(sizes: NDArray[np.int64], capacity: int) -> list[NDArray[np.int64]]:
    """The sizes, and what a few dual feasible functions make of them, most different first."""
    every = transformed(sizes.tolist(), capacity)
    distinct = {row.tobytes(): row for row in every[:1]}
    half = np.where(2 * sizes > capacity, capacity, np.where(2 * sizes == capacity, sizes, 0))
    distinct.setdefault(half.tobytes(), half)
    for row in every[1:]:
        if len(distinct) < FUNCTIONS:
            distinct.setdefault(row.tobytes(), row)
    return list(distinct.values())


def pack_by_patterns(
    shapes: Sequence[TileShape], lines: tuple[int, int], interval: int, arrays: int, rounds: int
) -> Packing | None:
    """Pack into at most ``arrays`` arrays by rounding the linear programme; None if that fails."""
    if any(shape.load > interval for shape in shapes):
        return None
    sizes = np.array([(shape.height, shape.width, shape.load) for shape in shapes], np.int64)
    demand = np.array([shape.count for shape in shapes], np.float64)
    knapsacks = (Knapsack.of(sizes, lines, interval), Knapsack.of(sizes, lines, interval, own_lines=True))
    columns = _uniform_patterns(shapes, knapsacks[1], lines)
    for _ in range(rounds):
        counts = np.stack([pattern_counts(fill, len(shapes)) for fill in columns], axis=1)
        solution = linprog(np.ones(len(columns)), A_ub=-counts, b_ub=-demand, method="highs")
        if solution.x is None:
            return None
        if solution.fun <= arrays + TOLERANCE:
            packing = _rounded(shapes, columns, solution.x, lines, interval, arrays)
            if packing is not None:
                return packing
        fill = pattern_of(shapes, knapsacks, -solution.ineqlin.marginals, lines)
        if fill is None:
            return None
        columns.append(fill)
    return None


def _uniform_patterns(shapes: Sequence[TileShape], knapsack: Knapsack, lines: tuple[int, int]) -> list[Fill]:
    """Arrays full of one shape each."""
    fills = [fill_array(shapes, [(number, int(most))], lines) for number, most in enumerate(knapsack.most)]
    single = [fill_array(shapes, [(number, 1)], lines) for number in range(len(shapes))]
    return [fill for fill in (*fills, *single) if fill is not None]


def pattern_of(
    shapes: Sequence[TileShape],
    knapsacks: Sequence[Knapsack],
    prices: NDArray[np.float64],
    lines: tuple[int, int],
) -> Fill | None:
    """A content worth more than an array that can be arranged, from the loosest limits that give one."""
    for knapsack in knapsacks:
        _, content = knapsack.dearest(prices)
        if float(prices @ content) <= 1 + TOLERANCE:
            return None
        order = sorted(np.flatnonzero(content).tolist(), key=lambda n: (-shapes[n].height, -shapes[n].width))
        fill = fill_array(shapes, [(number, int(content[number])) for number in order], lines)
        if fill is None:
            fill = arrange(shapes, content.tolist(), lines, ARRANGE_LIMIT)
        if fill is not None:
            return fill
    return None


def pattern_counts(fill: Fill, shapes: int) -> NDArray[np.int64]:
    """Tiles of each shape in an array, int64 [shapes]."""
    return np.bincount([number for number, _, _ in fill.tiles], minlength=shapes)


def _rounded(
    shapes: Sequence[TileShape],
    columns: Sequence[Fill],
    amounts: NDArray[np.float64],
    lines: tuple[int, int],
    interval: int,
    arrays: int,
) -> Packing | None:
    """Whole arrays of each pattern, then first fit for the tiles that remain."""
    left = np.array([shape.count for shape in shapes], np.int64)
    kept: list[tuple[Fill, int]] = []
    for column in sorted(range(len(columns)), key=lambda n: (-amounts[n], n)):
        counts = pattern_counts(columns[column], len(shapes))
        held = counts > 0
        number = min(math.floor(amounts[column] + 0.5), int((left[held] // counts[held]).min()))
        if number > 0:
            kept.append((columns[column], number))
            left -= number * counts
    used = sum(number for _, number in kept)
    rest = [
        TileShape(shape.height, shape.width, shape.load, int(count))
        for shape, count in zip(shapes, left, strict=True)
    ]
    for order in range(5) if used <= arrays else ():
        packing = first_fit(rest, lines, interval, arrays, order=order, started=kept)
        if packing is not None:
            return packing
    return None
