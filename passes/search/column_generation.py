"""Column generation over choices of windows and replicas and array patterns: bounds and plans.

A window and a number of replicas of a layer (a *choice*) demands tiles, and array patterns must
cover the tiles. Relaxed to fractions that is a linear program, the master problem, whose columns are
priced out by a knapsack. If it needs more arrays than there are, no mapping of the family keeps the
interval. An integral solution is a plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.exact import arrange
from memcompile.passes.packing.first_fit import Fill, Packing, TileShape, fill_array
from memcompile.passes.packing.knapsack import (
    ARRANGE_LIMIT,
    TOLERANCE,
    Knapsack,
    arranged,
    greedy_patterns,
    pattern_counts,
    pattern_of,
)
from memcompile.passes.search.lagrangian import survivors
from memcompile.passes.search.problem import Bracket, Choice, Effort, MappingProblem, WindowPlan, shapes_of
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.solver import Solver


@dataclass(frozen=True)
class Limits:
    """Deterministic limits of the search.

    Work for bounds and for plans, all intervals together, in rounds of column generation times
    hundreds of tile shapes; and solver time to make one plan integral.
    """

    bound_work: float
    plan_work: float
    plan: float


LIMITS = {"normal": Limits(60.0, 25.0, 0.5), "best": Limits(6000.0, 2500.0, 20.0)}


def column_generation(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bound by bisection: the first interval that fractional choices and arrays can keep; integral plans from it on."""
    limits = LIMITS[effort]
    left = limits.bound_work

    def more(low: int, high: int) -> bool:
        return left > 0 and not running_clock().is_over

    def solved(interval: int, whole: bool) -> tuple[MasterProblem, bool | None]:
        nonlocal left
        master = MasterProblem(problem, interval, whole)
        possible, spent = master.possible(math.ceil(left / master.weight))
        left -= max(1, spent) * master.weight
        return master, possible

    def plan_for(interval: int) -> WindowPlan | None:
        master, possible = solved(interval, whole=True)
        return master.plan(limits.plan) if possible else None

    bracket = bracket.raised(lambda interval: solved(interval, whole=False)[1] is False, more)
    left = limits.plan_work
    return bracket.shortened(plan_for, more)


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

    ``whole`` is False for bounds: a column then stands for a range of replica numbers, with the fewest
    tiles and the fewest steps of the range, and patterns need not be arrangeable.
    """

    problem: MappingProblem
    interval: int
    whole: bool
    columns: list[_Column] = field(default_factory=list)
    shapes: list[TileShape] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers: dict[tuple[int, int, int], int] = {}
        for kind, option, copies, load in survivors(self.problem, self.interval):
            choice = Choice(self.problem.kinds[kind].options[option], copies)
            if self.whole:
                wanted = choice.tiles
            else:
                wanted = {(height, width, load): count * copies for height, width, count in choice.option.sizes}
            tiles = {numbers.setdefault(key, len(numbers)): count for key, count in wanted.items()}
            self.columns.append(_Column(kind, choice, tiles))
        self.shapes = [TileShape(*key, 0) for key in numbers]
        self.kind = np.array([column.kind for column in self.columns], np.int64)
        asked = [
            (shape, number, count)
            for number, column in enumerate(self.columns)
            for shape, count in column.tiles.items()
        ]
        self.asked = np.array(asked, np.int64).reshape(-1, 3).T
        self.unrestrict()
        if self.is_too_large:
            return
        sizes = np.array(list(numbers), np.int64).reshape(-1, 3)
        self.knapsacks = [
            Knapsack.of(sizes, self.problem.lines, self.interval, self._most_asked(), own_lines)
            for own_lines in (False, True)
        ]
        most = self.knapsacks[self.whole].most
        self.patterns = [(np.array([shape]), most[[shape]]) for shape in range(len(most))]

    @property
    def is_too_large(self) -> bool:
        """True if there are too many shapes to solve the linear program."""
        return len(self.shapes) > MOST_SHAPES

    def unrestrict(self) -> None:
        """Remove the branching limits on the number of layers that take each choice."""
        self.fewest = np.zeros(len(self.columns))
        self.most = self.problem.layers[self.kind].astype(np.float64)

    def _most_asked(self) -> NDArray[np.int64]:
        """Largest demand for tiles of each shape over all choices of all layers, [shapes]."""
        shapes, columns, counts = self.asked
        most = np.zeros(len(self.shapes), np.int64)
        for kind, layers in enumerate(self.problem.layers.tolist()):
            own = self.kind[columns] == kind
            largest = np.zeros(len(self.shapes), np.int64)
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
        return max(1.0, len(self.shapes) / 100)

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
            if self.whole:
                added = self._arrangeable(prices)
            else:
                dearest, content = self.knapsacks[0].dearest(prices)
                if self._asked(prices) / max(1.0, dearest) > self.problem.arrays + TOLERANCE:
                    return False, spent
                added = [content] if float(prices @ content) > 1 + TOLERANCE else []
                added += greedy_patterns(self.knapsacks[0], prices)
                if self._tighten(added):
                    continue
            if not added:
                return None, spent
            self.patterns += [(held := np.flatnonzero(content), content[held]) for content in added]
        return None, rounds

    def _tighten(self, contents: Sequence[NDArray[np.int64]]) -> bool:
        """Add a limit that a content breaks; returns True if there was one, and removes patterns that break it."""
        for content in contents:
            tighter = self.knapsacks[0].tightened(content)
            if tighter is not None:
                row, limit = tighter.matrix[-1], tighter.limits[-1]
                self.knapsacks[0] = tighter
                self.patterns = [(held, counts) for held, counts in self.patterns if int(row[held] @ counts) <= limit]
                return True
        return False

    def _arrangeable(self, prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Arrangeable contents of negative reduced cost."""
        added: list[NDArray[np.int64]] = []
        for knapsack in self.knapsacks:
            added += [
                content
                for content in greedy_patterns(knapsack, prices)
                if arranged(self.shapes, content, self.problem.lines) is not None
            ]
            if added:
                return added
        fill = pattern_of(self.shapes, self.knapsacks, prices, self.problem.lines)
        return [] if fill is None else [pattern_counts(fill, len(prices))]

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
        shapes, choices, patterns = len(self.shapes), len(self.columns), len(self.patterns)
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

    def plan(self, effort: float) -> WindowPlan | None:
        """Integral choices and arrays from the patterns found, by CP-SAT; None if there is no such plan."""
        model = cp_sat.CpModel()
        layers = self.problem.layers.tolist()
        taken = [model.new_int_var(0, layers[column.kind], "") for column in self.columns]
        used = [model.new_int_var(0, self.problem.arrays, "") for _ in self.patterns]
        for kind, number in enumerate(layers):
            model.add(
                sum(item for item, column in zip(taken, self.columns, strict=True) if column.kind == kind) == number
            )
        for terms in self._left_over(taken, used):
            model.add(sum(terms) >= 0)
        model.add(sum(used) <= self.problem.arrays)
        solver = Solver(effort, linearization_level=1)
        if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            return None
        choices = []
        for kind in range(len(layers)):
            for item, column in zip(taken, self.columns, strict=True):
                if column.kind == kind:
                    choices += [column.choice] * solver.value(item)
        return self._plan(choices, [solver.value(item) for item in used])

    def _left_over(
        self, taken: Sequence[cp_sat.IntVar], used: Sequence[cp_sat.IntVar]
    ) -> list[list[cp_sat.LinearExprT]]:
        """Terms, per shape, whose sum is the number of tiles in the arrays beyond the demand."""
        found: list[list[cp_sat.LinearExprT]] = [[] for _ in self.shapes]
        for (held, counts), item in zip(self.patterns, used, strict=True):
            for shape, count in zip(held.tolist(), counts.tolist(), strict=True):
                found[shape].append(count * item)
        for column, item in zip(self.columns, taken, strict=True):
            for shape, count in column.tiles.items():
                found[shape].append(-count * item)
        return found

    def _plan(self, choices: Sequence[Choice], used: Sequence[int]) -> WindowPlan | None:
        """Assign the chosen tiles to the chosen arrays."""
        kinds, lines = self.problem.kinds, self.problem.lines
        given = iter(choices)
        by_layer = [tuple(next(given) for _ in kind.members) for kind in kinds]
        shapes = shapes_of(by_layer)
        index = {(shape.height, shape.width, shape.load): number for number, shape in enumerate(shapes)}
        left = [shape.count for shape in shapes]
        fills: list[tuple[Fill, int]] = []
        for pattern, number in zip(self.patterns, used, strict=True):
            content = [
                (index[key], count)
                for shape, count in zip(*(part.tolist() for part in pattern), strict=True)
                if (key := (self.shapes[shape].height, self.shapes[shape].width, self.shapes[shape].load)) in index
            ]
            content.sort(key=lambda entry: (-shapes[entry[0]].height, -shapes[entry[0]].width))
            for _ in range(number):
                here = [(shape, min(count, left[shape])) for shape, count in content if left[shape]]
                fill = fill_array(shapes, here, lines)
                if fill is None:
                    counts = dict(here)
                    fill = arrange(shapes, [counts.get(n, 0) for n in range(len(shapes))], lines, ARRANGE_LIMIT)
                if fill is None:
                    return None
                for shape, count in here:
                    left[shape] -= count
                if fill.tiles:
                    fills.append((fill, 1))
        return WindowPlan(tuple(kinds), tuple(by_layer), Packing(tuple(fills)))
