"""Knapsack of one array: its possible contents, the *patterns*, and the dearest one at given prices.

The content of an array is a *pattern*: the number of tiles of each shape it holds. The number of
arrays with each pattern solves a linear program by column generation (Gilmore and Gomory, Oper.
Res. 9, 849, 1961): its duals price the tile shapes, and a knapsack looks for a pattern worth more
than one array. At any prices, the worth of the demand over that of the dearest pattern is a lower
bound (Farley, Oper. Res. 38, 922, 1990).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.bounds import transformed
from memcompile.passes.packing.exact import arrange
from memcompile.passes.packing.first_fit import Fill, TileShape, fill_array
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.solver import Solver

PRICE_UNIT = 1 << 24
"""Prices are rounded up to integers in this unit, which keeps bounds valid."""
WHOLE = 1e-6
"""Integrality tolerance of the solution of a linear program."""
TOLERANCE = 1e-5
FUNCTIONS = 5
"""Dual feasible functions per direction that limit the content of an array."""
ARRANGE_LIMIT = 0.05
"""Deterministic time to arrange the tiles of one array where the heuristic fails."""
RELAXED_CONFLICTS = (2, 0.2)
"""Linearisation level that relaxes conflicts too, and deterministic time for one knapsack.

A gap left open by then only weakens the bound.
"""
KNAPSACK_LIMITS = ((1, 0.02), RELAXED_CONFLICTS)
"""Stages of a knapsack: most are easy and fastest without relaxed conflicts; hard ones take ten times as long."""

TERM_WORK = 2.5e-6
"""Work of a term of a knapsack's model."""


Size = tuple[int, int, int]
"""Input lines, output lines, and steps of a tile."""
Content = Mapping[Size, int]
"""Tiles of each size in an array."""


@dataclass(frozen=True)
class Conflicts:
    """Tiles that share neither columns (or rows) with a shape nor with each other.

    If an array holds a tile of ``shapes[c]``, int64 [conflicts], then the ``sizes[c]``, int64
    [conflicts, shapes] and 0 for tiles that do not conflict, sum to at most ``limits[c]``.
    """

    shapes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    limits: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: NDArray[np.int64], lines: tuple[int, int]) -> Conflicts:
        """Conflicts of each low and wide shape: tiles too high to stand above it, or above each other.

        Together with one tile of the shape they need columns of their own; and the same with rows
        for narrow and high ones. Shapes of few columns are left out: their conflicts hardly tighten the limits.
        """
        parts = [np.zeros((0, 2 + len(sizes)), np.int64)]
        for across, along in ((0, 1), (1, 0)):
            height, width = sizes[:, across], sizes[:, along]
            for shape in np.flatnonzero((2 * height <= lines[across]) & (4 * width >= lines[along])).tolist():
                high = (2 * height > lines[across]) & (height + height[shape] > lines[across])
                if high.any():
                    parts.append(np.array([[shape, lines[along] - width[shape], *np.where(high, width, 0)]]))
        table = np.concatenate(parts)
        return cls(table[:, 0], table[:, 2:], table[:, 1])

    @cached_property
    def own(self) -> list[NDArray[np.int64]]:
        """Numbers of the conflicts of each shape."""
        return [np.flatnonzero(self.shapes == shape) for shape in range(self.sizes.shape[1])]

    @classmethod
    def none(cls, shapes: int) -> Conflicts:
        """No conflicts between some number of shapes."""
        return cls(np.zeros(0, np.int64), np.zeros((0, shapes), np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Knapsack:
    """The limits of one array: ``matrix @ counts <= limits``, int64, ``counts <= most``, and conflicts.

    ``heights`` and ``widths``, int64 [functions, shapes], are the lines under all dual feasible
    functions. Each pair of them gives a row of the matrix; most are left out until they bind.
    """

    matrix: NDArray[np.int64]
    limits: tuple[int, ...]
    most: NDArray[np.int64]
    conflicts: Conflicts
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        sizes: NDArray[np.int64],
        lines: tuple[int, int],
        interval: int,
        asked: NDArray[np.int64],
        own_lines: bool = False,
    ) -> Knapsack:
        """Limits on steps, and on cells under several pairs of dual feasible functions.

        Parameters
        ----------
        sizes
            [shapes, 3]: input lines, output lines, steps.
        asked
            [shapes]: largest demand for tiles of each shape; an array holds no more.
        own_lines
            Every tile gets its own output lines: stricter, but sufficient for the tiles to fit.
        """
        height, width, load = sizes.T
        fit = (lines[0] // height) * (lines[1] // width)
        steps = np.where(load > 0, interval // np.maximum(load, 1), fit)
        most = np.minimum(np.minimum(fit, steps), asked)
        if own_lines:
            none = np.zeros((0, len(sizes)), np.int64)
            return cls(np.stack([load, width]), (interval, lines[1]), most, Conflicts.none(len(sizes)), none, none)
        heights = transformed(height.tolist(), lines[0])
        widths = transformed(width.tolist(), lines[1])
        few = itertools.product(_few_transforms(height, lines[0], heights), _few_transforms(width, lines[1], widths))
        rows = [load, *(high * broad for high, broad in few)]
        limits = (interval, *[lines[0] * lines[1]] * (len(rows) - 1))
        return cls(np.stack(rows), limits, most, Conflicts.of(sizes, lines), heights, widths)

    @cached_property
    def uses(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows of the matrix with a nonzero coefficient, and these coefficients, for each shape."""
        found = [np.flatnonzero(column > 0) for column in self.matrix.T]
        return [(rows, self.matrix[rows, shape]) for shape, rows in enumerate(found)]

    def tightened(self, content: NDArray[np.int64]) -> Knapsack | None:
        """Knapsack with the pair of functions that a content violates most; None if it violates none."""
        held = np.flatnonzero(content)
        area = (self.heights[:, held] * content[held]) @ self.widths[:, held].T
        high, broad = np.unravel_index(int(np.argmax(area)), area.shape) if area.size else (0, 0)
        if not area.size or area[high, broad] <= self.limits[-1]:
            return None
        row = self.heights[high] * self.widths[broad]
        return replace(self, matrix=np.concatenate([self.matrix, row[None]]), limits=(*self.limits, self.limits[-1]))

    def dearest(
        self, prices: NDArray[np.float64], limits: Sequence[tuple[int, float]] = KNAPSACK_LIMITS
    ) -> tuple[float, NDArray[np.int64]]:
        """An upper limit of the price of any content, and the content found.

        Parameters
        ----------
        limits
            Linearisation levels of the solver with their deterministic time, until one closes the gap.
        """
        counts = np.zeros(len(prices), np.int64)
        units = np.ceil(np.maximum(prices, 0) * PRICE_UNIT).astype(np.int64)
        worth = np.flatnonzero((units > 0) & (self.most > 0))
        if not len(worth):
            return 0.0, counts
        model = cp_sat.new_model()
        amounts = {int(shape): model.new_int_var(0, int(self.most[shape]), "") for shape in worth}
        listed = list(amounts.values())
        for row, limit in zip(self.matrix[:, worth].tolist(), self.limits, strict=True):
            model.add(cp_sat.LinearExpr.weighted_sum(listed, row) <= limit)
        conflicts = self._conflicts_among(worth)
        for shape, others, limit in zip(*conflicts, strict=True):
            held = model.new_bool_var("")
            model.add(amounts[shape] == 0).only_enforce_if(~held)
            model.add(cp_sat.LinearExpr.weighted_sum(listed, others) <= limit).only_enforce_if(held)
        model.maximize(cp_sat.LinearExpr.weighted_sum(listed, units[worth].tolist()))
        running_clock().spend(TERM_WORK * len(worth) * (len(self.limits) + len(conflicts[0])))
        dearest = math.inf
        for level, effort in limits:
            solver = Solver(effort, level)
            solver.parameters.cp_model_presolve = False  # takes longer than it saves
            status = solver.solve(model)
            if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
                continue
            dearest = min(dearest, solver.best_objective_bound / PRICE_UNIT)
            found = np.zeros(len(prices), np.int64)
            found[worth] = [solver.value(amount) for amount in listed]
            if prices @ found > prices @ counts:
                counts = found
            if status == cp_sat.OPTIMAL:
                break
        return dearest, counts

    def _conflicts_among(self, worth: NDArray[np.int64]) -> tuple[list[int], list[list[int]], list[int]]:
        """Shape, sizes and limit of each conflict between some shapes."""
        sizes = self.conflicts.sizes[:, worth]
        active = np.isin(self.conflicts.shapes, worth) & sizes.any(axis=1)
        return self.conflicts.shapes[active].tolist(), sizes[active].tolist(), self.conflicts.limits[active].tolist()


def fitted(content: Content, sizes: NDArray[np.int64], most: NDArray[np.int64], interval: int) -> NDArray[np.int64]:
    """Tiles of each shape of a content found for others: no more than ``most`` of each and than keep the interval.

    Parameters
    ----------
    sizes
        [shapes, 3]: input lines, output lines, steps.
    """
    counts = np.array([content.get(tuple(size), 0) for size in sizes.tolist()], np.int64)
    counts = np.minimum(counts, most)
    for shape in np.flatnonzero(counts).tolist():
        others = interval - int(counts[:shape] @ sizes[:shape, 2])
        counts[shape] = min(int(counts[shape]), others // max(1, int(sizes[shape, 2])))
    return counts


def _few_transforms(sizes: NDArray[np.int64], capacity: int, every: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The sizes, halves of the capacity, and the sizes under the first dual feasible functions."""
    distinct = {row.tobytes(): row for row in every[:1]}
    half = np.where(2 * sizes > capacity, capacity, np.where(2 * sizes == capacity, sizes, 0))
    distinct.setdefault(half.tobytes(), half)
    for row in every[1:]:
        if len(distinct) < FUNCTIONS:
            distinct.setdefault(row.tobytes(), row)
    return list(distinct.values())


def pattern_of(
    shapes: Sequence[TileShape],
    knapsacks: Sequence[Knapsack],
    prices: NDArray[np.float64],
    lines: tuple[int, int],
    wanted: float = 0.0,
) -> Fill | None:
    """A content worth more than an array that can be arranged, from the loosest limits that give one.

    None also if no content is worth ``wanted``.
    """
    for knapsack in knapsacks:
        dearest, content = knapsack.dearest(prices, (RELAXED_CONFLICTS,))
        if float(prices @ content) <= 1 + TOLERANCE or dearest < wanted:
            return None
        fill = arranged(shapes, content, lines)
        if fill is None:
            fill = arrange(shapes, content.tolist(), lines, ARRANGE_LIMIT)
        if fill is not None:
            return fill
    return None


def arranged(shapes: Sequence[TileShape], content: NDArray[np.int64], lines: tuple[int, int]) -> Fill | None:
    """Arrange the tiles of one array by the packing heuristic, the highest and widest first."""
    order = sorted(np.flatnonzero(content).tolist(), key=lambda n: (-shapes[n].height, -shapes[n].width))
    return fill_array(shapes, [(number, int(content[number])) for number in order], lines)


def pattern_counts(fill: Fill, shapes: int) -> NDArray[np.int64]:
    """Tiles of each shape in an array, int64 [shapes]."""
    return np.bincount([number for number, _, _ in fill.tiles], minlength=shapes)
