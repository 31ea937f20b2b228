"""Patterns worth more than an array, by greedy rules, which are much faster than an exact knapsack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.knapsack import TOLERANCE, WHOLE, Knapsack
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.linear_program import LinearProgram

SEEDS = 40
"""Most patterns of the first rule for each round of prices."""
RELAXED_SEEDS = 24
"""Most patterns of the second rule with a further tile."""
FILL_WORK = 4e-5
"""Work of testing how many tiles of a shape an array has room for."""

Start = Sequence[tuple[int, int]]
"""Shapes an array holds at first, and the most tiles of each."""


class Filling:
    """The content of one array while tiles are added to it."""

    def __init__(self, knapsack: Knapsack) -> None:
        self.counts = np.zeros(len(knapsack.most), np.int64)
        self._knapsack = knapsack
        self._left = np.array(knapsack.limits, np.int64)
        # Room that each conflict leaves, and True if the array holds its shape.
        self._apart = knapsack.conflicts.limits.copy()
        self._held = np.zeros(len(self._apart), bool)

    def room(self, shape: int) -> int:
        """Number of further tiles of a shape that the array may hold."""
        knapsack, conflicts = self._knapsack, self._knapsack.conflicts
        number = int(knapsack.most[shape] - self.counts[shape])
        if number <= 0:
            return 0
        rows, uses = knapsack.uses[shape]
        if len(rows):
            number = min(number, int((self._left[rows] // uses).min()))
        if number <= 0 or not len(self._apart):
            return max(number, 0)
        if (self._apart[conflicts.own[shape]] < 0).any():
            return 0
        binding = self._held & (conflicts.sizes[:, shape] > 0)
        if not binding.any():
            return number
        return max(0, min(number, int((self._apart[binding] // conflicts.sizes[binding, shape]).min())))

    def may_hold(self, shapes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for each shape if cells and steps leave room for a tile; False stays False as tiles are added."""
        fits = self._knapsack.matrix[:, shapes] <= self._left[:, None]
        wanted: NDArray[np.bool_] = self.counts[shapes] < self._knapsack.most[shapes]
        return np.logical_and(wanted, np.logical_and.reduce(fits, axis=0))

    def add(self, shape: int, number: int) -> None:
        """Add tiles of a shape."""
        conflicts = self._knapsack.conflicts
        self.counts[shape] += number
        self._left -= number * self._knapsack.matrix[:, shape]
        self._apart -= number * conflicts.sizes[:, shape]
        self._held[conflicts.own[shape]] = True


def greedy_patterns(knapsack: Knapsack, prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Contents worth more than an array, each started with another shape and filled by price per use of all limits."""
    worth, use = _worth(knapsack, prices)
    ranked = _ranked(worth, prices, use.max(axis=0) + use.mean(axis=0))
    starts = ([(seed, int(knapsack.most[seed]))] for seed in ranked[:SEEDS].tolist())
    return _filled(knapsack, prices, ranked, starts)


def patterns_near_relaxed(knapsack: Knapsack, prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Contents worth more than an array, near the one that the relaxed knapsack divides.

    Its duals weigh the limits; contents start with its integral part: as it is, with a further tile, or with fewer
    of a shape.
    """
    worth, use = _worth(knapsack, prices)
    if not len(worth):
        return []
    program = LinearProgram(np.full(len(use), -np.inf), np.ones(len(use)))
    for shape, shares in zip(worth.tolist(), use.T, strict=True):
        program.add(-float(prices[shape]), shares, most=float(knapsack.most[shape]))
    solution = program.solve()
    if solution is None:
        return []
    ranked = _ranked(worth, prices, -solution.prices @ use)
    whole = dict(zip(worth.tolist(), np.floor(solution.amounts + WHOLE).astype(np.int64).tolist(), strict=True))
    held = [(shape, whole[shape]) for shape in ranked.tolist() if whole[shape]]
    more = [[(seed, 1), *held] for seed in ranked[:RELAXED_SEEDS].tolist()]
    less = [
        [*held[:place], (shape, fewer), *held[place + 1 :]]
        for place, (shape, number) in enumerate(held)
        for fewer in dict.fromkeys((number - 1, 0))
    ]
    return _filled(knapsack, prices, ranked, [held, *more, *less])


def _worth(knapsack: Knapsack, prices: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Shapes with a price that fit, int64 [worth], and the share of each limit that a tile uses, [limits, worth]."""
    worth = np.flatnonzero((prices > TOLERANCE) & (knapsack.most > 0))
    return worth, knapsack.matrix[:, worth] / np.maximum(np.array(knapsack.limits, np.float64), 1)[:, None]


def _ranked(worth: NDArray[np.int64], prices: NDArray[np.float64], use: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shapes, the highest price per ``use``, [worth], first."""
    return worth[np.argsort(-prices[worth] / np.maximum(use, TOLERANCE), kind="stable")]


def _filled(
    knapsack: Knapsack, prices: NDArray[np.float64], ranked: NDArray[np.int64], starts: Iterable[Start]
) -> list[NDArray[np.int64]]:
    """Contents worth more than an array, those of each start filled with ``ranked`` shapes, without repetition."""
    found: dict[bytes, NDArray[np.int64]] = {}
    for start in starts:
        counts = _content(knapsack, ranked, start)
        if float(prices @ counts) > 1 + TOLERANCE:
            found.setdefault(counts.tobytes(), counts)
    return list(found.values())


def _content(knapsack: Knapsack, ranked: NDArray[np.int64], start: Start) -> NDArray[np.int64]:
    """Tiles of each shape that an array holds, int64 [shapes]."""
    filling = Filling(knapsack)
    for shape, most in start:
        number = min(most, filling.room(shape))
        if number:
            filling.add(shape, number)
    left = ranked[filling.may_hold(ranked)]
    tested = 0
    while len(left):
        tested += 1
        number = filling.room(int(left[0]))
        if number:
            filling.add(int(left[0]), number)
        left = left[1:]
        if number:
            left = left[filling.may_hold(left)]
    running_clock().spend(FILL_WORK * (len(start) + tested))
    return filling.counts
