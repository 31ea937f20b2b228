"""Enumerates layouts of one replica of a layer: parallel windows of every rectangle, bundles of groups.

A *parallel window* of several output positions reads more inputs and uses more columns, but takes
fewer steps (SDK, Zhang et al. 2020; VW-SDK, Rhe et al. 2022). Rows are cut across channel
borders, so a window costs windows * ceil(rows / R) * ceil(columns / C) steps in tiles of R x C, times
the turns of a tile's output lines where these share converters.
Dominated options, with no fewer steps, work and crossings than another, are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.line_turns import ONE_STEP, LineTurns
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import Cut
from memcompile.passes.packing.tiling import full_cut, largest_bundle


@dataclass(frozen=True)
class ReplicaOption:
    """Layout of one replica.

    ``sizes`` are (input lines, output lines, number of tiles) and ``turns`` the steps of a tile of each size for one
    window; ``windows`` are those of one image.
    """

    unrolling: Unrolling
    cut: Cut
    sizes: tuple[tuple[int, int, int], ...]
    windows: int
    turns: tuple[int, ...]

    @classmethod
    def of(cls, unrolling: Unrolling, cut: Cut, column_lines: int, turns: LineTurns = ONE_STEP) -> ReplicaOption:
        """Sizes of an unrolling's tiles, given the output lines of a column of weights."""
        heights, height_counts = np.unique(np.diff(cut.rows), return_counts=True)
        widths, width_counts = np.unique(np.diff(cut.columns), return_counts=True)
        sizes = tuple(
            (int(height), int(width) * column_lines, int(a * b) * unrolling.matrices)
            for height, a in zip(heights, height_counts, strict=True)
            for width, b in zip(widths, width_counts, strict=True)
        )
        steps = turns.steps(np.array([width for _, width, _ in sizes])).tolist()
        return cls(unrolling, cut, sizes, unrolling.windows, tuple(steps))

    @property
    def tiles(self) -> int:
        """Tiles of one replica."""
        return sum(count for _, _, count in self.sizes)

    @property
    def crossings(self) -> int:
        """Crossings of lines that one replica takes."""
        return sum(height * width * count for height, width, count in self.sizes)

    @property
    def longest(self) -> int:
        """Steps of a window in the tile that takes most."""
        return max(self.turns)

    @property
    def tile_steps(self) -> int:
        """Steps of a window, summed over tiles."""
        return sum(turns * count for turns, (_, _, count) in zip(self.turns, self.sizes, strict=True))

    @property
    def work(self) -> int:
        """Steps of one image, summed over tiles; it does not depend on the number of replicas."""
        return self.windows * self.tile_steps


@dataclass(frozen=True)
class WindowTable:
    """All windows of a layer as columns: int64 [options], and ``window`` int64 [options, rank]."""

    window: NDArray[np.int64]
    bundle: NDArray[np.int64]
    outputs: NDArray[np.int64]
    windows: NDArray[np.int64]
    tiles: NDArray[np.int64]
    entries: NDArray[np.int64]
    """Entries of the weight matrices, zeros included."""
    tile_steps: NDArray[np.int64]
    """Steps of a window, summed over tiles."""
    longest: NDArray[np.int64]
    """Steps of a window in the tile that takes most."""
    columns: NDArray[np.int64]
    """Most columns of a tile."""

    @property
    def work(self) -> NDArray[np.int64]:
        """Steps of one image, summed over tiles."""
        product: NDArray[np.int64] = self.windows * self.tile_steps
        return product

    @classmethod
    def joined(cls, tables: Iterable[WindowTable]) -> WindowTable:
        """The rows of several tables, one table after the other."""
        columns = zip(*([getattr(table, item.name) for item in fields(cls)] for table in tables), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def of_all(self, others: Sequence[Geometry]) -> WindowTable:
        """The windows that fit further layers of the same kernels too, with those of all layers counted."""
        if not others:
            return self
        sizes = np.array([geometry.output_size for geometry in others])
        fits = (self.window <= sizes.min(axis=0)).all(axis=1)
        found = WindowTable(*(getattr(self, item.name)[fits] for item in fields(self)))
        more = (-(-sizes[:, None] // found.window)).prod(axis=2).sum(axis=0)
        return replace(found, windows=found.windows + more)


def window_table(
    geometry: Geometry,
    rows: int,
    columns: int,
    most_weights: int,
    column_lines: int = 1,
    turns: LineTurns = ONE_STEP,
) -> WindowTable:
    """Tabulate every window and bundle of a layer.

    Parameters
    ----------
    rows, columns
        Largest tile, in rows and columns.
    most_weights
        Windows whose matrices have more entries than this are left out (im2col is not).
    column_lines
        Output lines of a column of weights.
    turns
        Turns of a tile's output lines.
    """
    parts = []
    for bundle in _bundles(geometry, rows, columns):
        matrices = -(-geometry.groups // bundle)
        per_output = bundle * geometry.group_columns
        per_input = bundle * (geometry.in_channels // geometry.groups)
        window = _windows(geometry, most_weights // max(1, matrices * per_input * per_output))
        inputs = np.ones(len(window), np.int64)
        for axis in range(geometry.rank):
            inputs *= _axis_inputs(geometry, axis, int(window[:, axis].max()))[window[:, axis] - 1]
        outputs = window.prod(axis=1)
        grid = -(-np.array(geometry.output_size) // window)
        row_tiles, (full, rest) = matrices * -(-per_input * inputs // rows), np.divmod(per_output * outputs, columns)
        tiles = row_tiles * (full + (rest > 0))
        entries = matrices * per_input * inputs * per_output * outputs
        of_full, of_rest = turns.steps(np.full(len(window), columns * column_lines)), turns.steps(rest * column_lines)
        steps, longest = row_tiles * (full * of_full + of_rest), np.where(full > 0, of_full, of_rest)
        facts = (outputs, grid.prod(axis=1), tiles, entries, steps, longest, np.full(len(window), columns))
        parts.append((window, np.full(len(window), bundle), *facts))
    return WindowTable.joined(WindowTable(*part) for part in parts)


def _bundles(geometry: Geometry, rows: int, columns: int) -> Sequence[int]:
    """Numbers of groups on one block diagonal: 1, powers of two, and the most that fits a tile."""
    most = largest_bundle(geometry, rows, columns)
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def _axis_inputs(geometry: Geometry, axis: int, most: int) -> NDArray[np.int64]:
    """Input positions along an axis that 1, 2, ..., ``most`` output positions read."""
    stride, dilation, kernel = geometry.strides[axis], geometry.dilations[axis], geometry.kernel[axis]
    seen: set[int] = set()
    counts = []
    for output in range(most):
        seen.update(stride * output + dilation * tap for tap in range(kernel))
        counts.append(len(seen))
    return np.array(counts, np.int64)


def _windows(geometry: Geometry, most: int) -> NDArray[np.int64]:
    """Windows whose outputs times inputs are at most ``most``; im2col always."""
    # Each output position reads at least one input position that is its own first tap, so n outputs
    # read n or more inputs, and windows with n^2 > most are out.
    reach = max(1, math.isqrt(max(1, most)))
    axes = [range(1, min(size, reach) + 1) for size in geometry.output_size]
    shapes = list(_products(axes, reach))
    return np.array(shapes or [(1,) * geometry.rank], np.int64).reshape(-1, geometry.rank)


def _products(axes: Sequence[range], most: int) -> Iterator[tuple[int, ...]]:
    """Shapes with at most ``most`` positions."""
    if not axes:
        yield ()
        return
    for count in axes[0]:
        if count > most:
            break
        for rest in _products(axes[1:], most // count):
            yield (count, *rest)


def explore_windows(
    geometry: Geometry,
    rows: int,
    columns: int,
    column_lines: int,
    most_crossings: int,
    turns: LineTurns = ONE_STEP,
    narrower: Sequence[int] = (),
    others: Sequence[Geometry] = (),
) -> tuple[ReplicaOption, ...]:
    """Undominated layouts of a replica in at most ``most_crossings`` crossings, fewest first.

    Parameters
    ----------
    rows, columns
        Largest tile, in rows and columns.
    column_lines
        Output lines of a column of weights.
    turns
        Turns of a tile's output lines.
    narrower
        Smaller numbers of columns at which each window may be cut as well.
    others
        Further layers of the same kernels that share the replicas; only the sizes of their inputs may differ.
    """
    table = WindowTable.joined(
        window_table(geometry, rows, limit, most_crossings // column_lines, column_lines, turns)
        for limit in dict.fromkeys((columns, *narrower))
    ).of_all(others)
    options = []
    for number in _undominated(table):
        if table.entries[number] * column_lines > most_crossings and table.outputs[number] > 1:
            continue
        options.append(option_of(table, number, geometry, rows, column_lines, turns))
    return tuple(options)


def _undominated(table: WindowTable) -> list[int]:
    """Options for which no other has at most their entries, their windows, their work and the turns of a window."""
    costs = np.stack([table.windows, table.work, table.longest])
    order = np.lexsort((table.tiles, table.longest, table.work, table.windows, table.entries))
    kept: list[int] = []
    for number in order.tolist():
        if not (costs[:, kept] <= costs[:, [number]]).all(axis=0).any():
            kept.append(number)
    return kept


def useful_windows(
    geometry: Geometry, rows: int, columns: int, column_lines: int = 1, turns: LineTurns = ONE_STEP
) -> WindowTable:
    """All windows except those so large that they take at least the work of im2col."""
    most = _useful_weights(geometry, rows, columns, column_lines, turns)
    return window_table(geometry, rows, columns, most, column_lines, turns)


def option_of(
    table: WindowTable,
    number: int,
    geometry: Geometry,
    rows: int,
    column_lines: int,
    turns: LineTurns,
) -> ReplicaOption:
    """One window of a table, cut into tiles of at most so many rows and of its columns."""
    unrolling = Unrolling(geometry, tuple(map(int, table.window[number])), int(table.bundle[number]))
    return ReplicaOption.of(unrolling, full_cut(unrolling, rows, int(table.columns[number])), column_lines, turns)


def option_steps(unrolling: Unrolling, rows: int, columns: int, column_lines: int, turns: LineTurns) -> int:
    """Steps of a window, summed over all tiles of an unrolling."""
    return ReplicaOption.of(unrolling, full_cut(unrolling, rows, columns), column_lines, turns).tile_steps


def _useful_weights(geometry: Geometry, rows: int, columns: int, column_lines: int, turns: LineTurns) -> int:
    """Most matrix entries with which a window can take fewer steps per position than im2col."""
    im2col = Unrolling.im2col(geometry)
    steps = option_steps(im2col, rows, columns, column_lines, turns)
    # steps >= entries / (rows * columns of a step), and entries >= channels * outputs^2 per group.
    of_step = min(columns, -(-turns.a_step // column_lines))
    per_position = geometry.in_channels // geometry.groups * geometry.out_channels
    most_outputs = -(-steps * rows * of_step // per_position)
    return per_position * most_outputs * most_outputs
