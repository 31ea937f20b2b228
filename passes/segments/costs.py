"""Costs of a segment: the time to write its tiles, and the steps that a batch of images takes in it.

A segment holds the tiles of a stretch of the network: the end of one layer, whole layers, the
beginning of another one. Whole layers may get several replicas, where the arrays have room and
the shorter interval is worth the longer write time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.line_turns import ONE_STEP, LineTurns
from memcompile.passes.packing.first_fit import Packing, TileShape, first_fit, pack
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.solving.bisection import bisect
from memcompile.passes.solving.clock import running_clock

S = TypeVar("S", bound=np.generic)
Size = tuple[int, int]
"""Input lines and output lines of a tile."""
FEW_COPIES = 8
"""Largest number of replicas up to which each number is tried; beyond, in steps of a quarter."""
PRECISION = 64
"""Inverse of the relative tolerance of the interval search."""
ORDERS = (0, 3)
"""Orders of first fit: large tiles first, or tiles with many steps first."""
ROUNDS = 3
"""Rounds of coordinate descent over the numbers of replicas of the layers."""


@dataclass(frozen=True, eq=False)
class CutLayer:
    """One replica of a layer with its tiles in the order of writing.

    ``sizes`` are the different sizes of its tiles and ``size`` [tiles] the number of each tile's size;
    ``write_ns`` [tiles] is the time to write and erase a tile, in nanoseconds.
    """

    option: ReplicaOption
    sizes: tuple[Size, ...]
    size: NDArray[np.int64]
    write_ns: NDArray[np.float64]

    @property
    def tiles(self) -> int:
        """Tiles of the replica."""
        return len(self.size)

    @property
    def windows(self) -> int:
        """Windows of an image."""
        return self.option.windows


@dataclass(frozen=True)
class Stretch:
    """Tiles ``begin`` to ``end`` of a layer."""

    layer: int
    begin: int
    end: int


@dataclass(frozen=True)
class SegmentChoice:
    """Replicas of each stretch of a segment, its interval in steps, and its cost in nanoseconds."""

    copies: tuple[int, ...]
    interval: int
    cost_ns: float


@dataclass(frozen=True, eq=False)
class _Loads:
    """Loads of the stretches of a segment, each an array [stretches], and their tiles by size.

    ``windows`` are those of an image and ``longest`` the steps of a window in the tile that takes most, ``write_ns``
    and ``cells`` those of one replica, ``work`` the steps of an image, summed over tiles, and ``most_copies`` the most
    replicas that fit.
    """

    sizes: tuple[tuple[tuple[Size, int], ...], ...]
    windows: NDArray[np.int64]
    longest: NDArray[np.int64]
    cells: NDArray[np.int64]
    work: NDArray[np.int64]
    write_ns: NDArray[np.float64]
    most_copies: NDArray[np.int64]


class SegmentCosts:
    """Costs of all stretches of a network on some arrays.

    The cost of a segment is the time to write and erase its tiles plus ``batch`` times its interval.

    Parameters
    ----------
    lines
        Input lines and output lines of an array.
    interval_ns
        Cost of one step of the interval: images of a batch times the duration of a step, in nanoseconds.
    turns
        Turns of a tile's output lines.
    """

    def __init__(
        self,
        layers: Sequence[CutLayer],
        lines: Size,
        arrays: int,
        interval_ns: float,
        turns: LineTurns = ONE_STEP,
    ) -> None:
        self.layers, self.lines, self.arrays, self.interval_ns = layers, lines, arrays, interval_ns
        widths = sorted({width for layer in layers for _, width in layer.sizes})
        self._turns = dict(zip(widths, turns.steps(np.array(widths, np.int64)).tolist(), strict=True))
        self._counts = [running(np.eye(len(layer.sizes), dtype=np.int64)[layer.size]) for layer in layers]
        self._write_ns = [running(layer.write_ns) for layer in layers]
        self._intervals: dict[tuple[tuple[int, int, int, int], ...], int | None] = {}
        self.cells = arrays * lines[0] * lines[1]

    def write_ns(self, stretch: Stretch) -> float:
        """Time to write and erase one replica of a stretch."""
        total = self._write_ns[stretch.layer]
        return float(total[stretch.end] - total[stretch.begin])

    def cells_and_work(self, stretch: Stretch) -> tuple[int, int]:
        """Cells of one replica of a stretch, and its steps of an image, summed over tiles."""
        tiles = self._tiles(stretch)
        cells = sum(height * width * count for (height, width), count in tiles)
        steps = sum(count * self._turns[width] for (_, width), count in tiles)
        return cells, self.layers[stretch.layer].windows * steps

    def of(self, stretches: Sequence[Stretch]) -> SegmentChoice | None:
        """Best choice of replicas that the search finds; None if one replica does not fit the arrays."""
        loads = self._loads(stretches)
        best = self._choice(loads, np.ones(len(stretches), np.int64))
        if best is None or loads.most_copies.max() == 1 or running_clock().is_over:
            return best
        aims = np.array(_aims(best.interval), np.int64)[:, None]
        best = self._best(best, loads, np.minimum(loads.most_copies, -(-loads.windows * loads.longest // aims)))
        for _ in range(ROUNDS):
            before = best
            for place, most in enumerate(loads.most_copies.tolist()):
                numbers = np.array(_numbers(most), np.int64)
                copies = np.tile(np.array(best.copies, np.int64), (len(numbers), 1))
                copies[:, place] = numbers
                best = self._best(best, loads, copies)
            if best == before:
                break
        return best

    def _best(self, best: SegmentChoice, loads: _Loads, copies: NDArray[np.int64]) -> SegmentChoice:
        """Best of a given choice and of others, whose numbers of replicas are [choices, stretches]."""
        least_ns = self._least_costs(loads, copies)
        for number in np.argsort(least_ns, kind="stable").tolist():
            if least_ns[number] >= best.cost_ns or running_clock().is_over:
                break
            found = self._choice(loads, copies[number])
            if found is not None and found.cost_ns < best.cost_ns:
                best = found
        return best

    def _tiles(self, stretch: Stretch) -> tuple[tuple[Size, int], ...]:
        """Tiles of a stretch by size."""
        layer, counts = self.layers[stretch.layer], self._counts[stretch.layer]
        tiles = (counts[stretch.end] - counts[stretch.begin]).tolist()
        return tuple((size, count) for size, count in zip(layer.sizes, tiles, strict=True) if count)

    def _loads(self, stretches: Sequence[Stretch]) -> _Loads:
        cells, work = np.array([self.cells_and_work(stretch) for stretch in stretches], np.int64).T
        windows = np.array([self.layers[stretch.layer].windows for stretch in stretches], np.int64)
        whole = [stretch.end - stretch.begin == self.layers[stretch.layer].tiles for stretch in stretches]
        sizes = tuple(map(self._tiles, stretches))
        return _Loads(
            sizes,
            windows,
            np.array([max(self._turns[width] for (_, width), _ in tiles) for tiles in sizes], np.int64),
            cells,
            work,
            np.array([self.write_ns(stretch) for stretch in stretches]),
            np.where(whole, np.minimum(windows, self.cells // cells), 1),
        )

    def _least_costs(self, loads: _Loads, copies: NDArray[np.int64]) -> NDArray[np.float64]:
        """Lower bound for the cost of these replicas, [choices]; infinite where they have too many cells."""
        longest = (-(-loads.windows // copies) * loads.longest).max(axis=1)
        interval = np.maximum(longest, -(-loads.work.sum() // self.arrays))
        least_ns: NDArray[np.float64] = copies @ loads.write_ns + self.interval_ns * interval
        return np.where(copies @ loads.cells > self.cells, np.inf, least_ns)

    def _choice(self, loads: _Loads, copies: NDArray[np.int64]) -> SegmentChoice | None:
        numbers = tuple(copies.tolist())
        key = self._key(loads, numbers)
        if key not in self._intervals:
            packing = shortest_packing([TileShape(*item) for item in key], self.lines, self.arrays)
            self._intervals[key] = None if packing is None else packing.longest_load
        interval = self._intervals[key]
        if interval is None:
            return None
        return SegmentChoice(numbers, interval, float(copies @ loads.write_ns) + self.interval_ns * interval)

    def _key(self, loads: _Loads, copies: Sequence[int]) -> tuple[tuple[int, int, int, int], ...]:
        """Tiles by size and steps: (input lines, output lines, steps, number), in ascending order."""
        tiles: dict[tuple[int, int, int], int] = {}
        for sizes, windows, count in zip(loads.sizes, loads.windows.tolist(), copies, strict=True):
            least, longer = divmod(windows, count)
            for share, parts in ((least + 1, longer), (least, count - longer)):
                for size, number in sizes if parts else ():
                    key = (*size, share * self._turns[size[1]])
                    tiles[key] = tiles.get(key, 0) + number * parts
        return tuple((*tile, number) for tile, number in sorted(tiles.items()))


def running(values: NDArray[S]) -> NDArray[S]:
    """Prefix sums along the first axis, beginning with 0."""
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])


def _aims(longest: int) -> list[int]:
    """Target intervals, each a sixteenth below the one before."""
    aims = [longest]
    while aims[-1] > 1:
        aims.append(aims[-1] - max(1, aims[-1] // 16))
    return aims


def _numbers(most: int) -> list[int]:
    """Numbers of replicas to try, up to ``most``."""
    numbers = [1]
    while numbers[-1] < most:
        more = 1 if numbers[-1] < FEW_COPIES else numbers[-1] // 4
        numbers.append(min(most, numbers[-1] + more))
    return numbers


def shortest_packing(shapes: Sequence[TileShape], lines: Size, arrays: int) -> Packing | None:
    """A packing with a short interval; None if first fit finds none for ``arrays`` arrays.

    The bisection stops at a relative tolerance of 1 / ``PRECISION``: thousands of segments are evaluated.
    """
    best = pack(shapes, lines, None, arrays, enough=arrays)
    if best is None:
        return None
    work = sum(shape.load * shape.count for shape in shapes)

    def attempt(interval: int) -> int | None:
        nonlocal best
        fits = (first_fit(shapes, lines, interval, arrays, order) for order in ORDERS)
        found = next((packing for packing in fits if packing is not None), None)
        if found is None:
            return None
        best = found
        return found.longest_load

    low = max(-(-work // arrays), *(shape.load for shape in shapes))
    bisect(low, best.longest_load, attempt, lambda low, high: high - low > high // PRECISION)
    return best
