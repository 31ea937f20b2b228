"""Contents of the cells of arrays: levels, blanks and slices, from the tiles that lie on each array."""

from __future__ import annotations

import itertools
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.program.program import Program
from memcompile.runtime.cells.cache import RecentValues
from memcompile.runtime.cells.slice_goals import ArraySlices
from memcompile.runtime.kernels.compiled import cell_kernels

RECENT = 4
"""Replicas whose matrices are kept: arrays hold tiles of few."""


class ArrayContents:
    """Contents of the arrays of a program, by array and segment. Cells that no tile uses are at the lowest level."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._map = program.cell_map
        self._levels, self._ones = RecentValues[NDArray[Any]](RECENT), RecentValues[NDArray[Any]](RECENT)

    def levels(self, number: int, segment: int = 0) -> NDArray[Any]:
        """Levels that programming aims at, [input lines, columns of cells]; shares of the window if continuous."""
        shape = self.program.target.array
        kind = np.float32 if self.program.target.cell.continuous else np.uint8
        levels = np.zeros((shape.input_lines, shape.cell_columns), kind)
        for row in self._rows_in(number, segment):
            laid_out = self._laid_out(row)
            expanded = self._levels.get(laid_out, partial(self._expand_layer, *laid_out))
            self._lay(levels, row, expanded)
        return levels

    def holds_weight(self, number: int, segment: int) -> NDArray[np.bool_]:
        """Mask of the cells of an array that belong to the pair of some weight, [input lines, columns of cells]."""
        shape = self.program.target.array
        holds = np.zeros((shape.input_lines, shape.cell_columns), bool)
        for row in self._rows_in(number, segment):
            laid_out = self._laid_out(row)
            self._lay(holds, row, self._ones.get(laid_out, partial(self._expand_weights, *laid_out)))
        return holds

    def slices(self, levels: NDArray[Any], number: int, segment: int) -> ArraySlices:
        """Signed levels of the pairs of an array, and the slice of a weight that each one holds."""
        signed = levels[:, 0::2].astype(np.float64) - levels[:, 1::2]
        place, base = np.zeros(signed.shape, np.int8), np.ones(signed.shape, np.int64)
        tiles = self.program.placement.tiles
        for row in self._rows_in(number, segment):
            layer, columns = self.program.layers[int(tiles.layer[row])], self._map.cell_columns_of(row)
            where = self._map.input_lines_of(row), slice(columns.start // 2, columns.stop // 2)
            base[where] = layer.base
            place[where] = np.arange(columns.stop // 2 - columns.start // 2) % layer.slices
        kept = self.program.target.programming.blank_share * base < 1
        if place.any() and kept.any():
            place[kept & ~self.holds_weight(number, segment)[:, 0::2]] = 0
        return ArraySlices(signed, place, base)

    def mended(self, slices: ArraySlices, number: int, segment: int) -> NDArray[np.bool_]:
        """Pairs of tiles that are read back after writing, [input lines, pairs]; blank ones as far as they are written.

        Outside of tiles the base is 1.
        """
        written = self.program.target.programming.blank_share * slices.base >= 1
        return (slices.base > 1) & (written | self.holds_weight(number, segment)[:, 0::2])

    def _laid_out(self, row: int) -> tuple[int, Unrolling]:
        """Layer of a tile, and the unrolling of its replica."""
        tiles = self.program.placement.tiles
        layer = int(tiles.layer[row])
        return layer, self.program.layers[layer].replicas[int(tiles.replica[row])].unrolling

    def _rows_in(self, number: int, segment: int) -> list[int]:
        """Tiles of an array."""
        return self._tiles_of_arrays.get((number, segment), [])

    @cached_property
    def _tiles_of_arrays(self) -> dict[tuple[int, int], list[int]]:
        """Tiles of each array in each segment, in the order of the table."""
        tiles = self.program.placement.tiles
        found: dict[tuple[int, int], list[int]] = {}
        for row, place in enumerate(zip(tiles.array.tolist(), tiles.segment.tolist(), strict=True)):
            found.setdefault(place, []).append(row)
        return found

    def _lay(self, cells: NDArray[Any], row: int, expanded: NDArray[Any]) -> None:
        """Write the contents of a tile's cells at their places in the array.

        ``expanded`` are the weight matrices of its replica, [polarities, slices, matrices, rows, columns].
        """
        tiles = self.program.placement.tiles
        block = expanded[
            :,
            :,
            tiles.matrix[row],
            tiles.row_begin[row] : tiles.row_end[row],
            tiles.column_begin[row] : tiles.column_end[row],
        ]
        lines, columns = self._map.input_lines_of(row), self._map.cell_columns_of(row)
        polarities, slices = block.shape[:2]
        compiled = cell_kernels()
        if compiled is not None and polarities * slices == 2 and block.itemsize == 1:
            first, second = block[:, 0].view(np.uint8)
            compiled.lay_pairs(first, second, cells[lines, columns].view(np.uint8))
            return
        for place, (digit, polarity) in enumerate(itertools.product(range(slices), range(polarities))):
            of_pairs = slice(columns.start + place, columns.stop, slices * polarities)
            cells[lines, of_pairs] = block[polarity, digit]

    def _expand_layer(self, number: int, unrolling: Unrolling) -> NDArray[Any]:
        return unrolling.expand(self.program.layers[number].cells)

    def _expand_weights(self, number: int, unrolling: Unrolling) -> NDArray[Any]:
        return unrolling.expand(np.ones(self.program.layers[number].cells.shape, bool))
