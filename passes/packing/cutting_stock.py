"""Packs few kinds of tiles into a given number of arrays as a cutting-stock problem: column generation and diving.

Arrays are interchangeable, so a search with variables for the content of each array meets every
solution many times over. Here the variables are the numbers of arrays with each *pattern*
(:mod:`memcompile.passes.packing.knapsack`). Relaxed to fractions that is a linear program. Its
integral part is fixed, else one array with the pattern of the largest fraction, and it is solved
again for the tiles and arrays that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.filling import greedy_patterns
from memcompile.passes.packing.first_fit import Fill, Packing, TileShape, pack
from memcompile.passes.packing.knapsack import (
    TOLERANCE,
    WHOLE,
    Content,
    Knapsack,
    arranged,
    fitted,
    pattern_counts,
    pattern_of,
)
from memcompile.passes.solving.clock import Clock, running, running_clock
from memcompile.passes.solving.linear_program import LinearProgram

ARRANGE_WORK = 2e-5
"""Work of arranging a tile of a pattern."""
SLACK = 0.95
"""Share of the available arrays below which the linear program stops looking for better patterns."""

STEPS = 512
"""Steps of the second dive, each of which fixes as many arrays."""
MOST_ARRAYS = 4096
"""Most arrays into which tiles that share arrays are packed by patterns."""
MOST_SHAPES = 64
"""Most shapes of such tiles."""


def pack_mixed(
    shapes: Sequence[TileShape],
    lines: tuple[int, int],
    arrays: int,
    interval: int,
    work: float,
    known: Sequence[Content] = (),
) -> Packing | None:
    """Pack by first fit, and by patterns where few kinds of tiles share arrays; ``known`` ones are tried at once."""
    if arrays_bound(shapes, lines, interval) > arrays:
        return None
    packing = pack(shapes, lines, interval, arrays, enough=arrays)
    shared = [shape for shape in shapes if (shape.height, shape.width) != lines]
    full = sum(shape.count for shape in shapes) - sum(shape.count for shape in shared)
    if packing is not None or arrays - full > MOST_ARRAYS or len(shared) > MOST_SHAPES:
        return packing
    return pack_around_full(shapes, lines, arrays, interval, work, known)


def pack_around_full(
    shapes: Sequence[TileShape],
    lines: tuple[int, int],
    arrays: int,
    interval: int,
    effort: float,
    known: Sequence[Content] = (),
) -> Packing | None:
    """Give tiles that fill an array one each, and pack the others by patterns; None if no packing was found.

    Parameters
    ----------
    interval
        Most steps of an array.
    effort
        Limit in counted work, about seconds of a processor.
    known
        Contents of arrays that may serve.
    """
    if any(shape.load > interval for shape in shapes):
        return None
    full = [number for number, shape in enumerate(shapes) if (shape.height, shape.width) == lines]
    others = [number for number in range(len(shapes)) if number not in full]
    fills = [(Fill(((number, 0, 0),), (), shapes[number].load), shapes[number].count) for number in full]
    left = arrays - sum(count for _, count in fills)
    if left < bool(others):
        return None
    if not others:
        return Packing(tuple(fills))
    packed = _packed([shapes[number] for number in others], lines, left, interval, effort, known)
    if packed is None:
        return None
    own = (replace(fill, tiles=tuple((others[n], line, output) for n, line, output in fill.tiles)) for fill in packed)
    return Packing((*fills, *((fill, 1) for fill in own)))


def _packed(
    shapes: Sequence[TileShape],
    lines: tuple[int, int],
    arrays: int,
    interval: int,
    effort: float,
    known: Sequence[Content],
) -> list[Fill] | None:
    """Return the content of each array, at most ``arrays`` of them; None if no packing was found."""
    with running(Clock.after(math.inf, effort)) as clock:
        root = _Dive(shapes, lines, arrays, interval, known)
        amounts = root.solve(clock)
        if amounts is None:
            return None
        for most_at_once in (arrays, max(1, arrays // STEPS)):
            fills = copy(root).fill(amounts, most_at_once, clock)
            if fills is not None:
                return fills
    return None


class _Dive:
    """Diving heuristic: arrays that are fixed, and the linear program of what is left.

    ``left``, int64 [shapes], are the tiles to be packed. ``patterns``, int64 [patterns, shapes], hold
    no more than that, and ``drawings`` say where their tiles lie.
    """

    def __init__(
        self,
        shapes: Sequence[TileShape],
        lines: tuple[int, int],
        arrays: int,
        interval: int,
        known: Sequence[Content],
    ) -> None:
        self.shapes, self.lines, self.arrays = shapes, lines, arrays
        self.left = np.array([shape.count for shape in shapes], np.int64)
        self.fills: list[Fill] = []
        sizes = np.array([(shape.height, shape.width, shape.load) for shape in shapes], np.int64).reshape(-1, 3)
        self._knapsacks = [Knapsack.of(sizes, lines, interval, self.left, own_lines) for own_lines in (False, True)]
        self._patterns = np.zeros((0, len(shapes)), np.int64)
        self._drawings: list[Fill] = []
        self._add([np.where(np.arange(len(shapes)) == n, self._knapsacks[1].most, 0) for n in range(len(shapes))])
        self._add([fitted(content, sizes, self._knapsacks[0].most, interval) for content in known])

    def fill(self, amounts: NDArray[np.float64], most_at_once: int, clock: Clock) -> list[Fill] | None:
        """Fix ``most_at_once`` arrays at a time; returns the content of each, None if the arrays do not suffice."""
        while self.left.any():
            self._keep(amounts, most_at_once)
            if not self.left.any():
                break
            solved = self.solve(clock)
            if solved is None:
                return None
            amounts = solved
        return self.fills

    def solve(self, clock: Clock) -> NDArray[np.float64] | None:
        """Fractional arrays of each pattern that hold the tiles left; None if there are too few arrays."""
        found = None
        while not clock.is_over:
            solved = self._solve()
            if solved is None:
                return found
            value, prices, amounts = solved
            if value <= self.arrays + TOLERANCE:
                found = amounts
                if value <= SLACK * self.arrays or not self._generate_greedily(prices):
                    return found
            elif not self._generate_greedily(prices) and not self._generate_dearest(prices):
                return None
        return found

    def _keep(self, amounts: NDArray[np.float64], most_at_once: int) -> None:
        """Fix arrays: the integral part of each pattern's amount, else one array of the largest fraction."""
        whole = np.floor(amounts + WHOLE).astype(np.int64)
        if not whole.any():
            whole[np.argmax(np.round(amounts, 6))] = 1
        chosen = np.repeat(np.arange(len(whole)), whole)[np.argsort(-np.repeat(amounts, whole), kind="stable")]
        for number in chosen[:most_at_once].tolist():
            self._fill(number)
        self._knapsacks = [replace(item, most=np.minimum(item.most, self.left)) for item in self._knapsacks]
        patterns, drawings = np.minimum(self._patterns, self.left), self._drawings
        _, first = np.unique(patterns, axis=0, return_index=True)
        kept = [number for number in sorted(first.tolist()) if patterns[number].any()]
        self._patterns, self._drawings = patterns[kept], [drawings[number] for number in kept]

    def _fill(self, number: int) -> None:
        """Fill one array with the tiles of a pattern that are still to be packed."""
        wanted = np.minimum(self._patterns[number], self.left)
        if not wanted.any():
            return
        self.left = self.left - wanted  # not in place: a copied dive shares the array
        self.arrays -= 1
        tiles = []
        for tile in self._drawings[number].tiles:
            if wanted[tile[0]]:
                wanted[tile[0]] -= 1
                tiles.append(tile)
        fill = Fill(tuple(tiles), (), sum(self.shapes[tile[0]].load for tile in tiles))
        self.fills = [*self.fills, fill]

    def _solve(self) -> tuple[float, NDArray[np.float64], NDArray[np.float64]] | None:
        """Solve the linear program: total arrays, the dual price of each shape, and the arrays of each pattern."""
        program = LinearProgram(self.left, np.full(len(self.left), np.inf))
        for pattern in self._patterns:
            program.add(1.0, pattern)
        solution = program.solve()
        return None if solution is None else (solution.cost, solution.prices, solution.amounts)

    def _generate_greedily(self, prices: NDArray[np.float64]) -> bool:
        """Add patterns of negative reduced cost from a greedy rule; False if it finds none."""
        return any(self._add(greedy_patterns(knapsack, prices)) for knapsack in self._knapsacks)

    def _generate_dearest(self, prices: NDArray[np.float64]) -> bool:
        """Add the dearest pattern; False if its reduced cost is not negative, or there are provably too few arrays."""
        wanted = float(prices @ self.left) / (self.arrays + TOLERANCE)
        fill = pattern_of(self.shapes, self._knapsacks, prices, self.lines, wanted)
        if fill is None:
            return False
        self._append([pattern_counts(fill, len(prices))], [fill])
        return True

    def _add(self, contents: Sequence[NDArray[np.int64]]) -> bool:
        """Add the contents that can be arranged; False if there are none."""
        running_clock().spend(ARRANGE_WORK * sum(int(content.sum()) for content in contents))
        drawings = [arranged(self.shapes, content, self.lines) for content in contents]
        found = [(content, fill) for content, fill in zip(contents, drawings, strict=True) if fill is not None]
        self._append([content for content, _ in found], [fill for _, fill in found])
        return bool(found)

    def _append(self, contents: Sequence[NDArray[np.int64]], drawings: Sequence[Fill]) -> None:
        self._patterns = np.concatenate([self._patterns, np.array(contents, np.int64).reshape(-1, len(self.shapes))])
        self._drawings = [*self._drawings, *drawings]
