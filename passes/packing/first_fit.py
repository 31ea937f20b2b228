"""First fit of rectangular tiles into arrays: a fast heuristic for any number of tiles.

A tile is a rectangle of input lines x output lines with a *load*, the steps it is active per
image. An array holds tiles side by side or stacked, without overlap, and the sum of their loads
must not exceed a limit (the initiation interval). Tiles of equal size and load are
interchangeable and few sizes have many tiles, so the packer works on *shapes with counts* and on
*groups of equally filled arrays*; its time depends on the number of different shapes, not of
tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.solving.clock import running_clock

Rectangle = tuple[int, int, int, int]
"""First input line, first output line, input lines, output lines."""


@dataclass(frozen=True)
class TileShape:
    """Tiles that are interchangeable: input lines, output lines, steps per image, number."""

    height: int
    width: int
    load: int
    count: int


@dataclass(frozen=True)
class Fill:
    """Content of one array.

    ``tiles`` are (shape number, first input line, first output line); ``free`` are the maximal
    free rectangles; ``load`` is the sum of the loads of the tiles.
    """

    tiles: tuple[tuple[int, int, int], ...]
    free: tuple[Rectangle, ...]
    load: int


@dataclass(frozen=True)
class Packing:
    """Groups of equally filled arrays: each fill with its number of arrays, in order of opening."""

    fills: tuple[tuple[Fill, int], ...]

    @property
    def arrays(self) -> int:
        """Arrays that hold at least one tile."""
        return sum(count for _, count in self.fills)

    @property
    def longest_load(self) -> int:
        """Steps of the array that works longest on an image."""
        return max((fill.load for fill, _ in self.fills), default=0)

    def expand(self, members: Sequence[NDArray[np.int64]], tiles: int) -> NDArray[np.int64]:
        """Give each tile its place.

        Parameters
        ----------
        members
            Tile numbers of each shape.
        tiles
            Number of tiles.

        Returns
        -------
        [tiles, 3]: array, first input line, first output line.
        """
        places = np.full((tiles, 3), -1, np.int64)
        taken = [0] * len(members)
        first = 0
        for fill, count in self.fills:
            per_shape: dict[int, list[tuple[int, int]]] = {}
            for shape, line, output in fill.tiles:
                per_shape.setdefault(shape, []).append((line, output))
            for shape, corners in per_shape.items():
                size = len(corners) * count
                chosen = members[shape][taken[shape] : taken[shape] + size]
                taken[shape] += size
                places[chosen, 0] = first + np.repeat(np.arange(count), len(corners))
                places[chosen, 1:] = np.tile(np.array(corners), (count, 1))
            first += count
        return places


def group_tiles(
    heights: NDArray[Any], widths: NDArray[Any], loads: NDArray[Any]
) -> tuple[list[TileShape], list[NDArray[np.int64]]]:
    """Collect interchangeable tiles: shapes, and the tile numbers of each in ascending order."""
    if not len(heights):
        return [], []
    keys = np.stack([heights, widths, loads], axis=1).astype(np.int64)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    counts = np.bincount(inverse.ravel(), minlength=len(distinct))
    members = np.split(order, np.cumsum(counts)[:-1])
    shapes = [
        TileShape(int(key[0]), int(key[1]), int(key[2]), int(count))
        for key, count in zip(distinct, counts, strict=True)
    ]
    return shapes, members


def pack(
    shapes: Sequence[TileShape],
    lines: tuple[int, int],
    interval: int | None,
    arrays: int | None,
    enough: int = 0,
) -> Packing | None:
    """Pack by first fit, in several orders of the shapes; the fewest arrays win.

    Parameters
    ----------
    shapes
        Tiles to pack; every shape fits an empty array.
    lines
        Input lines and output lines of an array.
    interval
        Largest sum of loads in an array; None for no limit.
    arrays
        Most arrays allowed; None for no limit.
    enough
        Number of arrays known to be optimal: the search stops there.

    Returns
    -------
    The best packing found, or None if none keeps within ``arrays``; once the time is up, only the
    first order is tried.
    """
    limit = interval if interval is not None else sum(shape.load * shape.count for shape in shapes)
    best: Packing | None = None
    for order in range(len(_ORDERS)):
        if order and not running_clock().seconds_left:
            break
        allowed = arrays if best is None else best.arrays - 1
        found = first_fit(shapes, lines, limit, allowed, order=order)
        if found is not None:
            best = found
            if best.arrays <= enough:
                break
    return best


def first_fit(
    shapes: Sequence[TileShape],
    lines: tuple[int, int],
    interval: int,
    arrays: int | None,
    order: int = 0,
) -> Packing | None:
    """First fit in one order of the shapes.

    Returns
    -------
    The packing, or None if it takes more than ``arrays`` arrays or a tile exceeds the interval.
    """
    if any(shape.load > interval for shape in shapes if shape.count):
        return None
    key = _ORDERS[order]
    numbers = sorted(range(len(shapes)), key=lambda number: (key(shapes[number], lines, max(1, interval)), number))
    return _first_fit(shapes, numbers, lines, interval, arrays)


def fill_array(shapes: Sequence[TileShape], content: Sequence[tuple[int, int]], lines: tuple[int, int]) -> Fill | None:
    """Arrange given numbers of tiles, (shape number, count), in one array; None if they do not fit."""
    fill = Fill((), ((0, 0, *lines),), 0)
    for number, count in content:
        for _ in range(count):
            added = _insert(fill, number, shapes[number], fill.load + shapes[number].load)
            if added is None:
                return None
            fill = added
    return fill


_Order = Callable[[TileShape, tuple[int, int], int], tuple[float, ...]]


def _share(tile: TileShape, lines: tuple[int, int]) -> float:
    return tile.height * tile.width / (lines[0] * lines[1])


_ORDERS: tuple[_Order, ...] = (
    lambda tile, lines, interval: (-_share(tile, lines), -tile.load),
    lambda tile, lines, interval: (-max(_share(tile, lines), tile.load / interval),),
    lambda tile, lines, interval: (-tile.height, -tile.width, -tile.load),
    lambda tile, lines, interval: (-tile.load, -_share(tile, lines)),
    lambda tile, lines, interval: (-tile.width, -tile.height, -tile.load),
)
"""Sort keys of first fit: large tiles first, by several measures of size."""


def _first_fit(
    shapes: Sequence[TileShape],
    order: Sequence[int],
    lines: tuple[int, int],
    limit: int,
    arrays: int | None,
) -> Packing | None:
    """First fit over groups of equally filled arrays."""
    empty = Fill((), ((0, 0, *lines),), 0)
    groups: list[tuple[Fill, int]] = []
    opened = 0
    for number in order:
        left = shapes[number].count
        position = 0
        while left and position < len(groups):
            fill, count = groups[position]
            pieces, left = _pour(fill, count, number, shapes[number], left, limit)
            groups[position : position + 1] = pieces
            position += len(pieces)
        if left:
            capacity = len(_stack(empty, number, shapes[number], limit, left)) - 1
            needed = -(-left // capacity)
            opened += needed
            if arrays is not None and opened > arrays:
                return None
            pieces, _ = _pour(empty, needed, number, shapes[number], left, limit)
            groups += pieces
    return Packing(tuple(groups))


def _pour(
    fill: Fill, count: int, number: int, shape: TileShape, left: int, limit: int
) -> tuple[list[tuple[Fill, int]], int]:
    """Fill a group of equal arrays with tiles of one shape; returns the groups it splits into, and the tiles left."""
    stages = _stack(fill, number, shape, limit, left)
    capacity = len(stages) - 1
    if capacity == 0:
        return [(fill, count)], left
    full = min(count, left // capacity)
    rest = left - full * capacity
    pieces = [(stages[capacity], full)] if full else []
    if full < count and rest:
        pieces.append((stages[rest], 1))
        full, rest = full + 1, 0
    if full < count:
        pieces.append((fill, count - full))
    return pieces, rest


def _stack(fill: Fill, number: int, shape: TileShape, limit: int, most: int) -> list[Fill]:
    """The array with 0, 1, 2, ... tiles of a shape added, as far as they fit."""
    stages = [fill]
    while len(stages) <= most:
        added = _insert(stages[-1], number, shape, limit)
        if added is None:
            break
        stages.append(added)
    return stages


def _insert(fill: Fill, number: int, shape: TileShape, limit: int) -> Fill | None:
    """Put one tile where it leaves the shortest side over (maximal rectangles, Jylanki 2010)."""
    if fill.load + shape.load > limit:
        return None
    height, width = shape.height, shape.width
    fitting = [
        (min(rectangle[2] - height, rectangle[3] - width), rectangle)
        for rectangle in fill.free
        if rectangle[2] >= height and rectangle[3] >= width
    ]
    if not fitting:
        return None
    _, (line, output, _, _) = min(fitting)
    free = _without(fill.free, (line, output, height, width))
    return Fill((*fill.tiles, (number, line, output)), free, fill.load + shape.load)


def _without(free: tuple[Rectangle, ...], taken: Rectangle) -> tuple[Rectangle, ...]:
    """Maximal free rectangles after one more rectangle is taken.

    A free rectangle that does not meet it stays maximal: new pieces lie within others that were free, and none of
    those contained it.
    """
    line, output, height, width = taken
    kept: list[Rectangle] = []
    pieces: set[Rectangle] = set()
    for rectangle in free:
        y, x, h, w = rectangle
        if line >= y + h or y >= line + height or output >= x + w or x >= output + width:
            kept.append(rectangle)
            continue
        if y < line:
            pieces.add((y, x, line - y, w))
        if line + height < y + h:
            pieces.add((line + height, x, y + h - line - height, w))
        if x < output:
            pieces.add((y, x, h, output - x))
        if output + width < x + w:
            pieces.add((y, output + width, h, x + w - output - width))
    others = [*kept, *pieces]
    return tuple(sorted([*kept, *(piece for piece in pieces if not _is_inside_another(piece, others))]))


def _is_inside_another(inner: Rectangle, rectangles: Sequence[Rectangle]) -> bool:
    line, output = inner[0], inner[1]
    line_end, output_end = line + inner[2], output + inner[3]
    for outer in rectangles:
        y, x, h, w = outer
        if y <= line and x <= output and y + h >= line_end and x + w >= output_end and outer != inner:
            return True
    return False
