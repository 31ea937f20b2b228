"""The address book of a program: which cell of which array holds which part of which weight.

Everything that asks where a weight sits asks here: transfer, look-up, export, cost, devices and reports.

A *cell number* counts all cells of all writes, flat over [segments * arrays, input lines, columns of cells]. The
cells of a weight are neighbours on one input line: slices in order of significance, the least significant first, and of
each slice the cell that adds before the one that is subtracted. Where both sit at one crossing of lines, two columns of
cells share an output line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.ir.graph import MappedLayer, Placement
from memcompile.ir.sharing import first_layers, own_tiles
from memcompile.timing.timetable import column_lines


@dataclass(frozen=True, eq=False)
class Pairs:
    """Differential pairs of cells with what they hold, flat over pairs.

    ``plus`` and ``minus`` are cell numbers; ``layer``, ``slice`` and ``weight`` (flat in the layer's [groups,
    group_rows, group_columns], -1 for a structural zero) say what a pair holds, ``digit`` its signed level.
    """

    plus: NDArray[np.int64]
    minus: NDArray[np.int64]
    layer: NDArray[np.int32]
    slice: NDArray[np.int8]
    weight: NDArray[np.int64]
    digit: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Addresses:
    """Places of cells, flat over cells; ``array`` counts through all chips, ``crossing`` the cells of a crossing."""

    segment: NDArray[np.int64]
    array: NDArray[np.int64]
    input_line: NDArray[np.int64]
    output_line: NDArray[np.int64]
    crossing: NDArray[np.int64]


class CellMap:
    """Addresses of all cells of a mapping; ``tile`` is a row of its tile table."""

    def __init__(self, layers: Sequence[MappedLayer], placement: Placement, target: Target) -> None:
        self._layers = layers
        self._target = target
        self.tiles = placement.tiles
        self.column_lines = column_lines(layers, target)
        """Output lines of a column of weights in each layer, int32 [layers]."""

    # --- tiles ------------------------------------------------------------------------------------

    @cached_property
    def arrays(self) -> int:
        """Arrays from the first to the last that holds a tile."""
        return int(self.tiles.array.max(initial=-1)) + 1

    @cached_property
    def widths(self) -> NDArray[np.int32]:
        """Output lines of each tile, int32 [tiles]."""
        return self.tiles.widths(self.column_lines)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Cells of each tile, those of no weight included, int64 [tiles]."""
        counts: NDArray[np.int64] = self.tiles.heights.astype(np.int64) * self.widths * self._per_crossing
        return counts

    @cached_property
    def own(self) -> NDArray[np.bool_]:
        """True for each tile that does not use the cells of one before it, [tiles]."""
        return own_tiles(self._layers, self.tiles)

    def input_lines_of(self, tile: int) -> slice:
        """Input lines of a tile in its array."""
        top = int(self.tiles.input_line[tile])
        return slice(top, top + int(self.tiles.row_end[tile] - self.tiles.row_begin[tile]))

    def output_lines_of(self, tile: int) -> slice:
        """Output lines of a tile in its array."""
        left = int(self.tiles.output_line[tile])
        return slice(left, left + int(self.widths[tile]))

    def cell_columns_of(self, tile: int) -> slice:
        """Columns of cells of a tile in its array: one or two an output line."""
        lines = self.output_lines_of(tile)
        return slice(lines.start * self._per_crossing, lines.stop * self._per_crossing)

    # --- weights ----------------------------------------------------------------------------------

    def blocks(self, tiles: Iterable[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each of some tiles with the flat number of the weight at each of its places, int64 [rows, columns].

        Structural zeros are -1. A replica is expanded once for all its tiles that follow each other.
        """
        table, key, expanded = self.tiles, None, np.zeros((0, 0, 0), np.int64)
        for tile in tiles:
            own = (int(table.layer[tile]), int(table.replica[tile]))
            if own != key:
                key, expanded = own, self._expanded(*own)
            rows = slice(table.row_begin[tile], table.row_end[tile])
            columns = slice(table.column_begin[tile], table.column_end[tile])
            yield tile, expanded[table.matrix[tile], rows, columns]

    def _expanded(self, number: int, replica: int) -> NDArray[np.int64]:
        """Weight numbers of the matrices of a replica, [matrices, rows, columns]."""
        layer = self._layers[number]
        geometry = layer.geometry
        shape = (geometry.groups, geometry.group_rows, geometry.group_columns)
        numbers = np.arange(1, geometry.weights + 1).reshape(shape)
        return layer.replicas[replica].unrolling.expand(numbers) - 1

    def first_cells(self, tile: int, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the first cell of the weights at some places of a tile; the others follow."""
        tiles, array = self.tiles, self._target.array
        write = int(tiles.segment[tile]) * self.arrays + int(tiles.array[tile])
        line = write * array.input_lines + int(tiles.input_line[tile]) + row
        each = 2 * self._layers[int(tiles.layer[tile])].slices
        first: NDArray[np.int64] = line * array.cell_columns + self.cell_columns_of(tile).start + each * column
        return first

    def pairs(self, *, blanks: bool = False) -> Pairs:
        """All pairs that hold a weight, or with ``blanks`` those of the structural zeros of parallel windows.

        Each is there once: pairs that several layers share belong to the first of these.
        """
        parts: list[tuple[NDArray[np.generic], ...]] = []
        signed_of = lru_cache(maxsize=1)(self._signed_levels)
        owners = first_layers(self._layers)
        for tile, weights in self.blocks(np.flatnonzero(self.own).tolist()):
            number = int(owners[self.tiles.layer[tile]])
            row, column = np.nonzero((weights < 0) == blanks)
            weight, first = weights[row, column], self.first_cells(tile, row, column)
            for place, signed in enumerate(signed_of(number)):
                digit = np.where(weight < 0, 0, signed[weight])
                same, plus = np.ones(len(weight), np.int32), first + 2 * place
                parts.append((plus, plus + 1, same * number, (same * place).astype(np.int8), weight, digit))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, int)] * 6
        return Pairs(*columns)

    def _signed_levels(self, number: int) -> NDArray[Any]:
        """Signed levels of the pairs of a layer, [slices, weights]."""
        layer = self._layers[number]
        cells = layer.cells if self._target.cell.continuous else layer.cells.astype(np.int8)
        signed: NDArray[Any] = (cells[0] - cells[1]).reshape(layer.slices, -1)
        return signed

    def addresses(self, cells: NDArray[np.int64]) -> Addresses:
        """Places of some cells."""
        array = self._target.array
        line, column = np.divmod(cells, array.cell_columns)
        write, input_line = np.divmod(line, array.input_lines)
        segment, number = np.divmod(write, max(1, self.arrays))
        output_line, crossing = np.divmod(column, self._per_crossing)
        return Addresses(segment, number, input_line, output_line, crossing)

    @property
    def _per_crossing(self) -> int:
        return self._target.array.cells_per_crossing
