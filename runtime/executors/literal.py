"""The literal executor: every tile, step and phase, exactly as placed. Slow, obvious, the oracle.

Whole programs go through it in the steps of their schedule: `schedule_walk.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.line_turns import LineTurns
from memcompile.ir.graph import MappedLayer, Replica
from memcompile.runtime.executors.machine import Machine
from memcompile.runtime.random_numbers import Purpose, gaussians, stream
from memcompile.timing.timetable import tile_turns


class LiteralExecutor:
    """Walks arrays, steps and phases; takes every fact from the tile table and the placed arrays.

    A tile is alone in its array while it works: the transistors of all other cells are off.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._line_turns = LineTurns.of(machine.target)
        self._turns = tile_turns(machine.program.layers, machine.tiles, machine.target)

    def sums(self, layer: int, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """See :class:`memcompile.runtime.executors.machine.Executor`."""
        stage = self.machine.program.layers[layer]
        y = np.zeros((len(x), stage.geometry.out_channels, stage.geometry.positions))
        for copy, replica in enumerate(stage.replicas):
            tiles = self.machine.tiles_of(layer, copy)
            totals = self._walk(stage, replica, tiles, x, images)
            replica.unrolling.scatter(self.machine.devices.converters[layer].to_levels(totals), replica.windows, y)
        return y

    def _walk(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        x: NDArray[Any],
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Work through the windows of one replica; returns sums [batch, windows, matrices, columns]."""
        table, unrolling = self.machine.tiles, replica.unrolling
        vectors = unrolling.patches(x, replica.windows)
        totals = np.zeros((len(x), len(replica.windows), unrolling.matrices, unrolling.columns))
        for row in tiles.tolist():
            rows = slice(table.row_begin[row], table.row_end[row])
            columns = slice(table.column_begin[row], table.column_end[row])
            for place, window in enumerate(replica.windows.tolist()):
                vector = vectors[:, place, table.matrix[row], rows]
                for turn in range(int(self._turns[row])):
                    codes = self.step(stage, row, vector, window, images, turn)
                    totals[:, place, table.matrix[row], columns] += codes
        return totals

    def step(
        self, stage: MappedLayer, row: int, vector: NDArray[Any], window: int, images: NDArray[np.int64], turn: int
    ) -> NDArray[np.float64]:
        """One step of a matrix-vector product in one array, [batch, columns of the tile], in codes.

        Lines that are not converted in this ``turn`` count nothing; the sum over all turns is the product.
        """
        devices = self.machine.devices
        converter = devices.converter_of(row)
        sigma = devices.read_sigma(row) if self.machine.effects.read_noise else None
        lines = np.zeros((len(vector), len(devices.gains(row))))
        converted = self._line_turns.lines(lines.shape[1], turn)
        for phase, (driven, weight) in enumerate(stage.quantizer.phases(vector)):
            current = devices.currents(row, driven)
            if sigma is not None:
                draw = 0 if self.machine.noise_spans_phases else phase
                noise = self._noise(devices.drives(row, driven), sigma, row, window, draw, images)
                current += devices.subtracted(noise) * devices.gains(row)
            codes = converter.convert(current + devices.offsets(row))
            lines[:, converted] += weight * codes[:, converted]
        columns = int(self.machine.tiles.column_end[row] - self.machine.tiles.column_begin[row])
        pairs = lines.reshape(len(vector), columns, stage.slices, -1)
        digits = pairs[..., 0]
        if pairs.shape[3] == 2:  # on two output lines
            digits = digits - pairs[..., 1]
        total: NDArray[np.float64] = digits @ (float(stage.base) ** np.arange(stage.slices))
        return total

    def _noise(
        self,
        driven: NDArray[np.float64],
        sigma: NDArray[np.float64],
        row: int,
        window: int,
        draw: int,
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Read noise of each driven cell times its drive, summed over rows, [batch, columns of cells]."""
        key = stream(Purpose.READ_LITERAL, row)
        noise = gaussians(sigma.size, window, images, key, self.machine.seed, draw << 29)
        total: NDArray[np.float64] = np.einsum("br,brw->bw", driven, sigma * noise.reshape(-1, *sigma.shape))
        return total
