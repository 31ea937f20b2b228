"""Column generation over choices of windows and replicas and array patterns.

A window and a number of replicas of a layer (a *choice*) demands tiles, and array patterns must
cover the tiles. Relaxed to fractions that is a linear program, the master problem, whose patterns are
priced out by a knapsack. If it needs more arrays than there are, no mapping of the family keeps the
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.knapsack import TOLERANCE, Knapsack, greedy_patterns
from memcompile.passes.search.lagrangian import survivors
from memcompile.passes.search.problem import Choice, MappingProblem
from memcompile.passes.solving.clock import running_clock


@dataclass(frozen=True)
class _Column:
    """Choice of a layer kind with the tiles it demands: shape number to count."""

    kind: int
    choice: Choice
    tiles: dict[int, int]


MOST_SHAPES = 2000
"""Most tile shapes of a linear program that is solved: the conflicts of its arrays grow with their square."""
ROUND_WORK = 0.005
"""Fixed work of a round of column generation."""
PIVOT_WORK = 1e-7
"""Work of a pivot of the linear program, for each of its rows and columns."""

Pattern = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Shapes in an array, ascending, and the number of tiles of each."""


@dataclass
class MasterProblem:
    """The linear program of one interval, restricted to the patterns found so far.

    A column stands for a range of replica numbers, with the fewest tiles and the fewest steps of
    the range, and patterns need not be arrangeable: so what it rules out is impossible.
    """

    problem: MappingProblem
    interval: int
    columns: list[_Column] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers: dict[tuple[int, int, int], int] = {}
        for kind, option, copies, windows in survivors(self.problem, self.interval):
            choice = Choice(self.problem.kinds[kind].options[option], copies)
            wanted = {
                (height, width, windows * turns): count * copies
                for (height, width, count), turns in zip(choice.option.sizes, choice.option.turns, strict=True)
            }
            tiles = {numbers.setdefault(key, len(numbers)): count for key, count in wanted.items()}
            self.columns.append(_Column(kind, choice, tiles))
        sizes = np.array(list(numbers), np.int64).reshape(-1, 3)
        self.shapes = len(sizes)
        self.kind = np.array([column.kind for column in self.columns], np.int64)
        asked = [
            (shape, number, count)
            for number, column in enumerate(self.columns)
            for shape, count in column.tiles.items()
        ]
        self.asked = np.array(asked, np.int64).reshape(-1, 3).T
        # Branching limits the number of layers that take each choice.
        self.fewest = np.zeros(len(self.columns))
        self.most = self.problem.layers[self.kind].astype(np.float64)
        if self.is_too_large:
            return
        self.knapsack = Knapsack.of(sizes, self.problem.lines, self.interval, self._most_asked())
        most = self.knapsack.most
        self.patterns = [(np.array([shape]), most[[shape]]) for shape in range(len(most))]

    @property
    def is_too_large(self) -> bool:
        """True if there are too many shapes to solve the linear program."""
        return self.shapes > MOST_SHAPES

    def _most_asked(self) -> NDArray[np.int64]:
        """Largest demand for tiles of each shape over all choices of all layers, [shapes]."""
        shapes, columns, counts = self.asked
        most = np.zeros(self.shapes, np.int64)
        for kind, layers in enumerate(self.problem.layers.tolist()):
            own = self.kind[columns] == kind
            largest = np.zeros(self.shapes, np.int64)
            np.maximum.at(largest, shapes[own], counts[own])
            most += layers * largest
        return most

    def _of_kinds(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the choices of each kind."""
        sums: NDArray[np.float64] = np.asarray(np.bincount(self.kind, amounts, len(self.problem.kinds)), np.float64)
        return sums

    @property
    def weight(self) -> float:
        """Relative cost of a round of column generation: about proportional to the number of tile shapes."""
        return max(1.0, self.shapes / 100)

    def possible(self, rounds: int) -> tuple[bool | None, int]:
        """Return True if the available arrays suffice (None if undecided), and the rounds spent.

        ``fewest`` and ``most``, float64 [columns], limit the number of layers that take a choice.
        If it is possible, ``amounts``, float64 [columns], are these numbers in the solution.
        """
        layers = self.problem.layers
        if (self._of_kinds(self.most) < layers).any() or (self._of_kinds(self.fewest) > layers).any():
            return False, 0
        if self.is_too_large:
            return None, 0
        for spent in range(rounds):
            solved = None if running_clock().is_over else self._solve()
            if solved is None:
                return None, spent
            value, prices = solved
            if value <= self.problem.arrays + TOLERANCE:
                return True, spent
            dearest, content = self.knapsack.dearest(prices)
            if self._asked(prices) / max(1.0, dearest) > self.problem.arrays + TOLERANCE:
                return False, spent
            added = [content] if float(prices @ content) > 1 + TOLERANCE else []
            added += greedy_patterns(self.knapsack, prices)
            if self._tighten(added):
                continue
            if not added:
                return None, spent
            self.patterns += [(held := np.flatnonzero(content), content[held]) for content in added]
        return None, rounds

    def _tighten(self, contents: Sequence[NDArray[np.int64]]) -> bool:
        """Add a limit that a content breaks; returns True if there was one, and removes patterns that break it."""
        for content in contents:
            tighter = self.knapsack.tightened(content)
            if tighter is not None:
                row, limit = tighter.matrix[-1], tighter.limits[-1]
                self.knapsack = tighter
                self.patterns = [(held, counts) for held, counts in self.patterns if int(row[held] @ counts) <= limit]
                return True
        return False

    def _asked(self, prices: NDArray[np.float64]) -> float:
        """Worth of the tiles of the cheapest choices; divided by that of the dearest array it is a lower bound."""
        shapes, columns, counts = self.asked
        cost = np.bincount(columns, prices[shapes] * counts, len(self.columns))
        total = float(cost @ self.fewest)
        for kind, layers in enumerate(self.problem.layers.tolist()):
            own = np.flatnonzero(self.kind == kind)
            left = layers - self.fewest[own].sum()
            for column in own[np.argsort(cost[own], kind="stable")].tolist():
                further = min(left, self.most[column] - self.fewest[column])
                total += further * float(cost[column])
                left -= further
        return total

    def _solve(self) -> tuple[float, NDArray[np.float64]] | None:
        """Solve: number of arrays, and dual price of each shape; ``amounts`` are the layers that take each choice.

        None if the time ran out.
        """
        # Imported here, because it takes time that other networks need not wait for.
        from scipy.optimize import linprog  # noqa: PLC0415
        from scipy.sparse import csr_matrix  # noqa: PLC0415

        asked, choice, demand = self.asked
        shapes, choices, patterns = self.shapes, len(self.columns), len(self.patterns)
        held = np.concatenate([held for held, _ in self.patterns])
        counts = np.concatenate([counts for _, counts in self.patterns])
        pattern = np.repeat(np.arange(patterns), [len(held) for held, _ in self.patterns])
        rows, columns = np.concatenate([asked, held]), np.concatenate([choice, choices + pattern])
        size = choices + patterns
        entries = (np.concatenate([demand, -counts]).astype(np.float64), (rows, columns))
        solution = linprog(
            np.concatenate([np.zeros(choices), np.ones(patterns)]),
            A_ub=csr_matrix(entries, (shapes, size)),
            b_ub=np.zeros(shapes),
            A_eq=csr_matrix((np.ones(choices), (self.kind, np.arange(choices))), (len(self.problem.kinds), size)),
            b_eq=self.problem.layers.astype(np.float64),
            bounds=np.stack(
                [
                    np.concatenate([self.fewest, np.zeros(patterns)]),
                    np.concatenate([self.most, np.full(patterns, np.inf)]),
                ],
                axis=1,
            ),
            method="highs",
            options={"time_limit": running_clock().seconds_left},
        )
        if solution.x is None:
            return None
        running_clock().spend(ROUND_WORK + PIVOT_WORK * solution.nit * (shapes + size))
        self.amounts = solution.x[:choices]
        return float(solution.fun), -solution.ineqlin.marginals
