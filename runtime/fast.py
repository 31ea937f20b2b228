"""The fast executor: the same results from fewer operations.

Ideal hardware: one exact matrix product per layer. Without a converter: one product with the
programmed signed matrix, and the read noise of all phases, cells, pairs and slices of an output
as one Gaussian number of their summed variance. With a converter: per tile, the partial sums of a
line over eight input lines come from a table over their 256 on/off patterns; every conversion
gets one Gaussian number of variance sigma^2 * driven lines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.geometry import Unrolling
from memcompile.ir import MappedLayer, Replica
from memcompile.runtime.conversions import Phases, convert_tile, pack_phases
from memcompile.runtime.machine import Machine
from memcompile.runtime.random_numbers import Purpose, gaussians, stream

FLOAT32_EXACT = 1 << 24


class LayerInputs:
    """Input vectors of one layer, cut out and packed once for all its tiles and copies."""

    def __init__(self, x: NDArray[np.int16], machine: Machine) -> None:
        self._x = x.astype(np.uint8)  # two's complement keeps its bits
        self._workers = machine.workers
        self._vectors: dict[Unrolling, NDArray[np.uint8]] = {}
        self._phases: dict[tuple[Unrolling, int, int, int], Phases] = {}

    def phases(self, unrolling: Unrolling, matrix: int, begin: int, end: int) -> Phases:
        """Driven lines of the rows ``begin`` to ``end`` of a weight matrix, for all windows."""
        key = (unrolling, matrix, begin, end)
        if key not in self._phases:
            if unrolling not in self._vectors:
                self._vectors[unrolling] = unrolling.vectors(self._x)
            self._phases[key] = pack_phases(self._vectors[unrolling][:, matrix, begin:end], self._workers)
        return self._phases[key]


class FastExecutor:
    """Uses per layer the cheapest method that keeps results exact (in distribution, for noise)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def sums(self, layer: int, x: NDArray[np.int16], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """See :class:`memcompile.runtime.machine.Executor`."""
        stage = self.machine.program.layers[layer]
        effects = self.machine.effects
        if not (effects.programming_error or effects.stuck_cells or effects.read_noise or effects.adc):
            return exact_sums(stage, x)
        y = np.zeros((len(x), stage.geometry.out_channels, stage.geometry.positions))
        inputs = LayerInputs(x, self.machine)
        for copy, replica in enumerate(stage.replicas):
            tiles = self.machine.tiles_of(layer, copy)
            if effects.adc:
                codes = self._converted(stage, replica, tiles, inputs, images)
                totals = self.machine.converter.to_levels(codes)
            else:
                totals = self._linear(stage, replica, tiles, x, images)
            replica.unrolling.scatter(totals, replica.windows, y)
        return y

    def _converted(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        inputs: LayerInputs,
        images: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Sums of codes, [batch, windows, matrices, columns]."""
        table, machine, unrolling = self.machine.tiles, self.machine, replica.unrolling
        batch, count = len(images), len(replica.windows)
        totals = np.zeros((batch * count, unrolling.matrices, unrolling.columns), np.int64)
        weights = np.array(stage.quantizer.phase_weights, np.float32)
        powers = np.int64(stage.base) ** np.arange(stage.slices)
        windows = replica.windows.astype(np.int64)
        for row in tiles.tolist():
            matrix = int(table.matrix[row])
            convert_tile(
                machine.lines(row),
                inputs.phases(unrolling, matrix, int(table.row_begin[row]), int(table.row_end[row])),
                weights,
                powers,
                windows,
                images,
                stream(Purpose.READ, row),
                machine.seed,
                totals[:, matrix, table.column_begin[row] : table.column_end[row]],
                machine.workers,
            )
        return totals.reshape(batch, count, unrolling.matrices, unrolling.columns)

    def _linear(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        x: NDArray[np.int16],
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Sums without converters, [batch, windows, matrices, columns]."""
        vectors = replica.unrolling.patches(x, replica.windows)
        matrix = self._signed_matrix(stage, replica, tiles)
        batch, windows, matrices, rows = vectors.shape
        items = vectors.reshape(-1, matrices, rows).transpose(1, 0, 2).astype(np.float64)
        totals: NDArray[np.float64] = np.matmul(items, matrix).transpose(1, 0, 2)
        totals = totals.reshape(batch, windows, matrices, -1)
        if self.machine.read_sigma:
            totals = totals + self._summed_noise(stage, replica, tiles, vectors, images)
        return totals

    def _signed_matrix(self, stage: MappedLayer, replica: Replica, tiles: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights as programmed, [matrices, rows, columns], on the converter's grid."""
        table, unrolling = self.machine.tiles, replica.unrolling
        matrix = np.zeros((unrolling.matrices, unrolling.rows, unrolling.columns))
        powers = float(stage.base) ** np.arange(stage.slices)
        for row in tiles:
            cells = self.machine.devices.tile(int(row))
            pairs = cells.reshape(len(cells), -1, stage.slices, 2)
            rows = slice(table.row_begin[row], table.row_end[row])
            columns = slice(table.column_begin[row], table.column_end[row])
            matrix[table.matrix[row], rows, columns] = (pairs[..., 0] - pairs[..., 1]) @ powers
        return matrix

    def _summed_noise(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        vectors: NDArray[np.int16],
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Read noise of all cells and phases of each output.

        The variance is 2 sigma^2 * sum over slices of base^2s * sum over phases of weight^2 *
        driven lines.
        """
        weights = np.array(stage.quantizer.phase_weights, np.float64)
        driven = np.zeros(vectors.shape[:3])
        for phase, weight in enumerate(weights):
            driven += weight**2 * (vectors >> phase & 1).sum(axis=-1)
        slices = (float(stage.base) ** (2 * np.arange(stage.slices))).sum()
        sigma = self.machine.read_sigma * np.sqrt(2 * slices * driven)
        count = replica.unrolling.matrices * replica.unrolling.columns
        key = stream(Purpose.READ, int(tiles[0]))
        noise = gaussians(count, replica.windows[None, :], images[:, None], key, self.machine.seed)
        return sigma[..., None] * noise.reshape(*driven.shape, replica.unrolling.columns)


def exact_sums(stage: MappedLayer, x: NDArray[np.int16]) -> NDArray[np.float64]:
    """Integer sums of a layer on perfect hardware, [batch, out_channels, positions].

    One product per group, in float32 where every partial sum is below 2^24, else in float64:
    exact either way.
    """
    unrolling = Unrolling.im2col(stage.geometry)
    matrix = stage.integer_matrix()
    largest = max(-stage.quantizer.lowest, stage.quantizer.highest)
    bound = largest * int(np.abs(matrix.astype(np.int64)).sum(axis=1).max(initial=0))
    dtype = np.float32 if bound < FLOAT32_EXACT else np.float64
    vectors = unrolling.patches(x).astype(dtype)  # batch, windows, groups, rows
    sums = np.matmul(vectors.transpose(2, 0, 1, 3).reshape(len(matrix), -1, unrolling.rows), matrix.astype(dtype))
    batch, positions = vectors.shape[:2]
    stacked = sums.reshape(len(matrix), batch, positions, unrolling.columns).transpose(1, 0, 3, 2)
    return stacked.astype(np.float64).reshape(batch, stage.geometry.out_channels, positions)
