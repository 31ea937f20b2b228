"""The cells of all arrays, as programmed.

Errors are drawn per physical array from (seed, array number), so they depend neither on the order
of work nor on which tiles an array holds. Cells that no tile uses sit at g_min.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memcompile.geometry import Unrolling
from memcompile.program import Program
from memcompile.runtime.converter import Converter
from memcompile.runtime.effects import Effects
from memcompile.runtime.random_numbers import Purpose, gaussians, stream, uniforms

CACHE_CELLS = 1 << 26
"""Cells kept in memory; further arrays are programmed anew, with the same errors, when used."""


class Devices:
    """Programmed conductances, in converter units (see :mod:`memcompile.runtime.converter`)."""

    def __init__(self, program: Program, seed: int, effects: Effects, converter: Converter) -> None:
        self.program = program
        self.seed = seed
        self.effects = effects
        self.converter = converter
        tiles = program.placement.tiles
        self._order = np.argsort(tiles.array, kind="stable")
        self._sorted = tiles.array[self._order]
        self._cache: dict[int, NDArray[np.floating]] = {}
        self._expand = lru_cache(maxsize=4)(self._expand_layer)

    def tile(self, row: int) -> NDArray[np.floating]:
        """Conductances of the cells of one tile, [rows, output lines], in converter units."""
        tiles = self.program.placement.tiles
        layer = int(tiles.layer[row])
        top, left = int(tiles.input_line[row]), int(tiles.output_line[row])
        height = int(tiles.row_end[row] - tiles.row_begin[row])
        width = int(tiles.column_end[row] - tiles.column_begin[row]) * 2 * int(self.program.slices[layer])
        return self.array(int(tiles.array[row]))[top : top + height, left : left + width]

    def array(self, number: int) -> NDArray[np.floating]:
        """Conductances of one array, [input lines, output lines], in converter units."""
        cells = self._cache.get(number)
        if cells is None:
            cells = self._program_array(number)
            if (len(self._cache) + 1) * cells.size <= CACHE_CELLS:
                self._cache[number] = cells
        return cells

    def levels(self, number: int) -> NDArray[np.uint8]:
        """Levels that programming aims at, [input lines, output lines]."""
        shape = self.program.target.array
        levels = np.zeros((shape.input_lines, shape.output_lines), np.uint8)
        begin, end = np.searchsorted(self._sorted, [number, number + 1])
        for row in self._order[begin:end]:
            self._write_tile(levels, int(row))
        return levels

    def _write_tile(self, levels: NDArray[np.uint8], row: int) -> None:
        tiles = self.program.placement.tiles
        number = int(tiles.layer[row])
        unrolling = self.program.layers[number].replicas[int(tiles.replica[row])].unrolling
        block = self._expand(number, unrolling)[
            :,
            :,
            tiles.matrix[row],
            tiles.row_begin[row] : tiles.row_end[row],
            tiles.column_begin[row] : tiles.column_end[row],
        ]
        lines = block.transpose(2, 3, 1, 0).reshape(block.shape[2], -1)  # rows, (column, slice, polarity)
        top, left = tiles.input_line[row], tiles.output_line[row]
        levels[top : top + lines.shape[0], left : left + lines.shape[1]] = lines

    def _expand_layer(self, number: int, unrolling: Unrolling) -> NDArray[np.uint8]:
        return unrolling.expand(self.program.layers[number].cells)

    def _program_array(self, number: int) -> NDArray[np.floating]:
        target, effects = self.program.target, self.effects
        levels = self.levels(number)
        if self.program.chip is not None and effects.programming_error:
            return self._in_units(levels, self.program.chip.conductances_us[number].astype(np.float64))
        stuck = np.zeros(levels.shape, bool)
        if effects.stuck_cells:
            stuck = self._stick(levels, number)
        nominal_us = target.cell.g_min_us + levels * target.cell.level_step_us
        actual_us = nominal_us
        if effects.programming_error:
            actual_us = np.where(stuck, nominal_us, self._programmed_us(nominal_us, number))
        return self._in_units(levels, actual_us)

    def _in_units(self, levels: NDArray[np.uint8], actual_us: NDArray[np.float64]) -> NDArray[np.floating]:
        """Conductances in converter units, on its grid."""
        target = self.program.target
        nominal_us = target.cell.g_min_us + levels * target.cell.level_step_us
        # What no effect has moved differs by exactly zero and stays exactly nominal.
        deviation = self.converter.to_grid((actual_us - nominal_us) / self.converter.unit_us)
        cells = self.converter.nominal(levels, target) + deviation
        return np.maximum(cells, 0.0).astype(self.converter.dtype)

    def _programmed_us(self, nominal_us: NDArray[np.float64], number: int) -> NDArray[np.float64]:
        """State-independent error of closed-loop programming: g + N(0, sigma), never below 0 uS."""
        noise = gaussians(nominal_us.size, number, 0, stream(Purpose.PROGRAMMING, 0), self.seed)
        return np.maximum(nominal_us + self.program.target.programming.sigma_us * noise.reshape(nominal_us.shape), 0.0)

    def _stick(self, levels: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
        """Set stuck cells to the lowest or highest level in place; returns where."""
        faults = self.program.target.faults
        draw = uniforms(levels.size, number, 0, stream(Purpose.STUCK, 0), self.seed).reshape(levels.shape)
        low, high = draw < faults.stuck_low_share, draw >= 1 - faults.stuck_high_share
        levels[low] = 0
        levels[high] = self.program.target.signed_levels
        stuck: NDArray[np.bool_] = low | high
        return stuck
