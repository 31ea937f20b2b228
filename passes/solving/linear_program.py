"""Linear programs whose columns are generated: GLOP of OR-Tools, which begins with the last solution's basis."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memcompile.passes.solving.clock import running_clock

SOLVE_WORK = 0.002
"""Fixed work of a solve."""
COLUMN_WORK = 1e-6
"""Work of reading a column of the solution, or a row."""
PIVOT_WORK = 3e-8
"""Work of a pivot, for each row and column."""


@dataclass(frozen=True)
class Optimum:
    """Least cost; amount of each column, float64 [columns]; and dual price of each row, float64 [rows].

    A price is what the cost rises by when the limits of its row rise by one.
    """

    cost: float
    amounts: NDArray[np.float64]
    prices: NDArray[np.float64]


class LinearProgram:
    """The amounts of columns with the least cost: the sum over columns in each row is between two limits.

    The result is the same on every machine, unless the running clock has an end.

    Parameters
    ----------
    least, most
        [rows], infinite where there is no limit.
    """

    def __init__(self, least: ArrayLike, most: ArrayLike) -> None:
        # Imported here, because it takes time that networks without linear programs need not wait for.
        glop: Any = importlib.import_module("ortools.linear_solver.pywraplp")
        self._solver = glop.Solver("", glop.Solver.GLOP_LINEAR_PROGRAMMING)
        self._optimal = glop.Solver.OPTIMAL
        limits = zip(np.asarray(least, float).tolist(), np.asarray(most, float).tolist(), strict=True)
        self._rows = [self._solver.Constraint(*pair) for pair in limits]
        self._columns: list[Any] = []
        self._cost = self._solver.Objective()
        self._cost.SetMinimization()

    def add(self, cost: float, entries: NDArray[Any], least: float = 0.0, most: float = math.inf) -> None:
        """Add a column: its cost, its coefficient in each row, [rows], and the limits of its amount."""
        column = self._solver.NumVar(least, most, "")
        self._columns.append(column)
        self._cost.SetCoefficient(column, cost)
        for row in np.flatnonzero(entries).tolist():
            self._rows[row].SetCoefficient(column, float(entries[row]))

    def limit(self, least: Sequence[float], most: Sequence[float]) -> None:
        """Limit the amounts of the first columns anew."""
        for column, low, high in zip(self._columns, least, most, strict=False):
            column.SetBounds(low, high)

    def solve(self) -> Optimum | None:
        """Solve, and spend from the running clock; None without a solution, or if the time ran out."""
        clock = running_clock()
        if clock.seconds_left < math.inf:
            self._solver.SetTimeLimit(max(1, int(1000 * clock.seconds_left)))
        status = self._solver.Solve()
        size = len(self._rows) + len(self._columns)
        clock.spend(SOLVE_WORK + (COLUMN_WORK + PIVOT_WORK * self._solver.iterations()) * size)
        if status != self._optimal:
            return None
        return Optimum(
            self._cost.Value(),
            np.array([column.solution_value() for column in self._columns]),
            np.array([row.dual_value() for row in self._rows]),
        )
