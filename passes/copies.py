"""Chooses how many copies each layer gets, so that the interval between images is short.

A layer of W windows needs ceil(W / T) copies for an interval of T steps; the copies share the
windows evenly. The shortest T whose copies pack into the arrays at hand is found by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memcompile.geometry import Unrolling
from memcompile.ir import Cut
from memcompile.passes.packing import Packing, TileShape, pack
from memcompile.passes.packing_bounds import arrays_bound


@dataclass(frozen=True)
class CopyDemand:
    """What one copy of a layer asks for.

    ``sizes`` are (input lines, output lines, number of tiles); ``windows`` are the steps of one
    image that a single copy takes in each of its tiles.
    """

    sizes: tuple[tuple[int, int, int], ...]
    windows: int

    @classmethod
    def of(cls, unrolling: Unrolling, cut: Cut, slices: int) -> CopyDemand:
        """Demand of an unrolling and its cut; a column takes 2 * slices output lines."""
        heights, height_counts = np.unique(np.diff(cut.rows), return_counts=True)
        widths, width_counts = np.unique(np.diff(cut.columns), return_counts=True)
        return cls(
            sizes=tuple(
                (int(height), int(width) * 2 * slices, int(a * b) * unrolling.matrices)
                for height, a in zip(heights, height_counts, strict=True)
                for width, b in zip(widths, width_counts, strict=True)
            ),
            windows=unrolling.windows,
        )

    @property
    def tiles(self) -> int:
        """Tiles of one copy."""
        return sum(count for _, _, count in self.sizes)

    @property
    def cells(self) -> int:
        """Cells of one copy."""
        return sum(height * width * count for height, width, count in self.sizes)


@dataclass(frozen=True)
class CopyPlan:
    """Copies per layer with the interval and the number of arrays they were seen to fit."""

    copies: tuple[int, ...]
    interval: int
    interval_bound: int
    arrays: int


def shapes_of(demands: Sequence[CopyDemand], copies: Sequence[int]) -> list[TileShape]:
    """All tiles of all copies, collected by size and load."""
    counts: dict[tuple[int, int, int], int] = {}
    for demand, number in zip(demands, copies, strict=True):
        least, longer = divmod(demand.windows, number)
        for load, how_many in ((least + 1, longer), (least, number - longer)):
            for height, width, count in demand.sizes if how_many else ():
                key = (height, width, load)
                counts[key] = counts.get(key, 0) + count * how_many
    return [TileShape(*key, count) for key, count in sorted(counts.items())]


def copies_for(demands: Sequence[CopyDemand], interval: int) -> tuple[int, ...]:
    """Fewest copies of each layer that keep its windows within the interval."""
    return tuple(max(1, -(-demand.windows // interval)) for demand in demands)


def interval_bound(demands: Sequence[CopyDemand], lines: tuple[int, int], arrays: int) -> int:
    """Shortest interval that any number of whole copies can reach on ``arrays`` arrays.

    Every window takes one step in each tile of its copy whatever the number of copies, an array
    works on one tile a step, and ceil(windows / interval) copies have to fit.
    """
    steps = sum(demand.windows * demand.tiles for demand in demands)
    low = max(1, -(-steps // arrays))
    high = max([low, *(demand.windows for demand in demands)])
    while low < high:
        middle = (low + high) // 2
        # Loads are left out: they depend on how copies share the windows, which is still free.
        if arrays_bound(shapes_of(demands, copies_for(demands, middle)), lines, None) <= arrays:
            high = middle
        else:
            low = middle + 1
    return low


def shortest_interval(
    demands: Sequence[CopyDemand], lines: tuple[int, int], arrays: int, single: Packing
) -> CopyPlan:
    """Bisect for the shortest interval whose copies pack into ``arrays`` arrays.

    ``single`` is a packing of one copy of each layer; it is what remains if no interval below its
    own is reached.
    """
    bound = interval_bound(demands, lines, arrays)
    high = max(fill.load for fill, _ in single.fills)
    best = CopyPlan((1,) * len(demands), high, bound, single.arrays)
    low = bound
    while low < best.interval:
        middle = (low + best.interval) // 2
        copies = copies_for(demands, middle)
        packing = pack(shapes_of(demands, copies), lines, middle, arrays, enough=arrays)
        if packing is None:
            low = middle + 1
        else:
            reached = max(fill.load for fill, _ in packing.fills)
            best = CopyPlan(copies, reached, bound, packing.arrays)
    return best
