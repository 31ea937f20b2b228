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

from memcompile.passes.packing.filling import greedy_patterns, patterns_near_relaxed
from memcompile.passes.packing.knapsack import TOLERANCE, Content, Knapsack, Size, fitted
from memcompile.passes.search.lagrangian import survivors
from memcompile.passes.search.problem import Choice, MappingProblem
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.linear_program import LinearProgram


@dataclass(frozen=True)
class _Column:
    """Choice of a layer kind with the tiles it demands: shape number to count."""

    kind: int
    choice: Choice
    tiles: dict[int, int]


MOST_SHAPES = 2000
"""Most tile shapes of a linear program that is solved: the conflicts of its arrays grow with their square."""
CHEAP = 0.75
"""Work of an exact knapsack, as a share of that of greedy rules, at which it is solved in every round."""
MORE = 10
"""Rounds that look for choices with room to spare, once some fit."""
ROOM = 0.97
"""Share of the arrays at which they end."""

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
    known: Sequence[Content] = ()
    columns: list[_Column] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers: dict[Size, int] = {}
        for kind, option, copies, windows in survivors(self.problem, self.interval):
            choice = Choice(self.problem.kinds[kind].options[option], copies)
            wanted = {
                (height, width, windows * turns): count * copies
                for (height, width, count), turns in zip(choice.option.sizes, choice.option.turns, strict=True)
            }
            tiles = {numbers.setdefault(key, len(numbers)): count for key, count in wanted.items()}
            self.columns.append(_Column(kind, choice, tiles))
        self.sizes = np.array(list(numbers), np.int64).reshape(-1, 3)
        self.shapes = len(self.sizes)
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
        self._taken = np.zeros(0)
        # An exact knapsack may rule out the interval early, but is solved at first only where greedy rules end.
        self._exact_work, self._greedy_work = np.inf, 0.0
        if self.is_too_large:
            return
        self.knapsack = Knapsack.of(self.sizes, self.problem.lines, self.interval, self._most_asked())
        most = self.knapsack.most
        self.patterns = [(np.array([shape]), most[[shape]]) for shape in range(len(most))]
        self.patterns += [_held(fitted(content, self.sizes, most, self.interval)) for content in self.known]
        self._program = self._new_program()

    def contents(self) -> list[Content]:
        """Contents of arrays in the last solution."""
        used = np.flatnonzero(self._taken > TOLERANCE).tolist()
        sizes = [(height, width, steps) for height, width, steps in self.sizes.tolist()]
        return [
            {sizes[shape]: count for shape, count in zip(held.tolist(), counts.tolist(), strict=True)}
            for held, counts in (self.patterns[number] for number in used)
        ]

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
        fits = 0
        for spent in range(rounds):
            solved = None if running_clock().is_over else self._solve()
            if solved is None:
                return bool(fits) or None, spent
            value, prices = solved
            fits += value <= self.problem.arrays + TOLERANCE
            if fits > MORE or value <= ROOM * self.problem.arrays:
                return True, spent
            added = self._found_greedily(prices)
            if not fits and (not added or self._exact_work <= CHEAP * self._greedy_work):
                limit, dearest = self._found_exactly(prices)
                if self._asked(prices) / max(1.0, limit) > self.problem.arrays + TOLERANCE:
                    return False, spent
                added += dearest
            if not added:
                return bool(fits) or None, spent
            if not self._tighten(added):
                self._extend(added)
        return bool(fits) or None, rounds

    def _found_greedily(self, prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Contents worth more than an array, by rules that are mostly much faster than an exact knapsack."""
        before = running_clock().spent
        found = greedy_patterns(self.knapsack, prices) or patterns_near_relaxed(self.knapsack, prices)
        self._greedy_work = running_clock().spent - before
        return found

    def _found_exactly(self, prices: NDArray[np.float64]) -> tuple[float, list[NDArray[np.int64]]]:
        """Upper limit of the price of any content, and the dearest one found if it is worth more than an array."""
        before = running_clock().spent
        limit, content = self.knapsack.dearest(prices)
        self._exact_work = running_clock().spent - before
        return limit, [content] if float(prices @ content) > 1 + TOLERANCE else []

    def _extend(self, contents: Sequence[NDArray[np.int64]]) -> None:
        """Add patterns."""
        found = [_held(content) for content in contents]
        self.patterns += found
        for pattern in found:
            self._add_pattern(self._program, pattern)

    def _tighten(self, contents: Sequence[NDArray[np.int64]]) -> bool:
        """Add a limit that a content breaks; returns True if there was one, and removes patterns that break it."""
        for content in contents:
            tighter = self.knapsack.tightened(content)
            if tighter is not None:
                row, limit = tighter.matrix[-1], tighter.limits[-1]
                self.knapsack = tighter
                self.patterns = [(held, counts) for held, counts in self.patterns if int(row[held] @ counts) <= limit]
                self._program = self._new_program()
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
        self._program.limit(self.fewest.tolist(), self.most.tolist())
        solution = self._program.solve()
        if solution is None:
            return None
        self.amounts, self._taken = np.split(solution.amounts, [len(self.columns)])
        return solution.cost, -solution.prices[: self.shapes]

    def _new_program(self) -> LinearProgram:
        """The linear program: a row for the tiles of each shape and the layers of each kind; choices come first."""
        layers = self.problem.layers.astype(np.float64)
        program = LinearProgram(
            np.concatenate([np.full(self.shapes, -np.inf), layers]), np.concatenate([np.zeros(self.shapes), layers])
        )
        for column in self.columns:
            entries = np.zeros(self.shapes + len(layers))
            entries[self.shapes + column.kind] = 1.0
            entries[list(column.tiles)] = list(column.tiles.values())
            program.add(0.0, entries)
        for pattern in self.patterns:
            self._add_pattern(program, pattern)
        return program

    def _add_pattern(self, program: LinearProgram, pattern: Pattern) -> None:
        """Add an array's content as a column."""
        held, counts = pattern
        entries = np.zeros(self.shapes)
        entries[held] = -counts
        program.add(1.0, entries)


def _held(content: NDArray[np.int64]) -> Pattern:
    """Shapes that a content holds, and their numbers."""
    held = np.flatnonzero(content)
    return held, content[held]
