"""The fast executor: the same results from fewer operations.

Ideal hardware: one exact matrix product per layer. Without a converter: one product with the
programmed signed matrix, and the read noise of all phases, cells, pairs and slices of an output
as one Gaussian number of their summed variance. With a converter: per tile, the partial sums of a
line over eight input lines come from a table over their 256 on/off patterns; every conversion
gets one Gaussian number of variance sigma^2 * driven lines.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.geometry import Unrolling
from memcompile.ir import MappedLayer, Replica
from memcompile.quantizers import InputQuantizer
from memcompile.runtime.conversions import Phases, add_gaussians, convert_tile, pack_phases
from memcompile.runtime.literal import LiteralExecutor
from memcompile.runtime.machine import Machine
from memcompile.runtime.random_numbers import Purpose, stream

FLOAT32_EXACT = 1 << 24
Path = Literal["product", "linear", "conversions", "literal"]


class LayerInputs:
    """Input vectors of one layer, cut out and packed once for all its tiles and copies."""

    def __init__(self, x: NDArray[Any], machine: Machine) -> None:
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
        self._literal = LiteralExecutor(machine)

    def path(self) -> tuple[Path, str]:
        """The method that layers go through, and why."""
        effects, converter = self.machine.effects, self.machine.converter
        still = not effects.names(but=("adc",))
        if still and not effects.adc:
            return "product", "nothing is switched on: one exact integer product"
        if still and converter.levels_per_code == 1 and self.machine.target.adc.range_share == 1.0:
            return "product", "the converters resolve each level and nothing else is switched on: one exact product"
        if self.machine.noise_spans_phases:
            return "literal", "read noise lasts a whole step, so the phases of a line are not independent"
        if not effects.adc:
            return "linear", f"no converter: one product with the programmed matrix ({', '.join(effects.names())})"
        means = "table look-ups, one Gaussian number per conversion" if effects.read_noise else "table look-ups"
        return "conversions", f"a converter per line and phase: {means} ({', '.join(effects.names())})"

    def sums(self, layer: int, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """See :class:`memcompile.runtime.machine.Executor`."""
        stage = self.machine.program.layers[layer]
        path, _ = self.path()
        if path == "product":
            return exact_sums(stage, x)
        if path == "literal":
            return self._literal.sums(layer, x, images)
        y = np.zeros((len(x), stage.geometry.out_channels, stage.geometry.positions))
        inputs = LayerInputs(x, self.machine)
        for copy, replica in enumerate(stage.replicas):
            tiles = self.machine.tiles_of(layer, copy)
            if path == "conversions":
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
        weights = np.array(_phase_weights(stage), np.float32)
        powers = np.int64(stage.base) ** np.arange(stage.slices)
        windows = replica.windows.astype(np.int64)
        for row in tiles.tolist():
            matrix, column = int(table.matrix[row]), int(table.column_begin[row])
            phases = inputs.phases(unrolling, matrix, int(table.row_begin[row]), int(table.row_end[row]))
            for lines in machine.lines(row):
                first = column + lines.first_line // (2 * stage.slices)
                convert_tile(
                    lines,
                    phases,
                    weights,
                    powers,
                    windows,
                    images,
                    stream(Purpose.READ, row),
                    machine.seed,
                    totals[:, matrix, first : first + len(lines.gain) // (2 * stage.slices)],
                    machine.workers,
                )
        return totals.reshape(batch, count, unrolling.matrices, unrolling.columns)

    def _linear(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        x: NDArray[Any],
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Sums without converters, [batch, windows, matrices, columns]."""
        unrolling = replica.unrolling
        matrices, variances = self.machine.prepared.get(
            ("linear", int(tiles[0])), lambda: self._matrices(stage, replica, tiles), lambda both: 2 * both[0].nbytes
        )
        vectors = unrolling.patches(x, replica.windows)
        items = vectors.reshape(-1, unrolling.matrices, unrolling.rows).transpose(1, 0, 2)
        totals = np.ascontiguousarray(np.matmul(items.astype(np.float64), matrices).transpose(1, 0, 2))
        if self.machine.effects.read_noise:
            squares = squared_phase_weights(_phase_weights(stage))[items.astype(np.uint8)]
            # One cell variance for all of a matrix is the usual case: then driven lines are all it takes.
            alike = variances.min() == variances.max()
            variance = squares.sum(axis=2, keepdims=True) * variances.max() if alike else np.matmul(squares, variances)
            scale = np.sqrt(variance.transpose(1, 0, 2))
            add_gaussians(
                totals,
                np.ascontiguousarray(scale),
                replica.windows.astype(np.int64),
                images,
                stream(Purpose.READ, int(tiles[0])),
                self.machine.seed,
                self.machine.workers,
            )
        return totals.reshape(*vectors.shape[:3], unrolling.columns)

    def _matrices(
        self, stage: MappedLayer, replica: Replica, tiles: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights as programmed, on the converter's grid, and the variance of their read noise.

        Both are [matrices, rows, columns]; a weight is the sum over slices of base^s * (difference
        of the pair), its variance that of base^2s * (sum of the pair's variances).
        """
        table, unrolling = self.machine.tiles, replica.unrolling
        weights = np.zeros((unrolling.matrices, unrolling.rows, unrolling.columns))
        variances = np.zeros_like(weights)
        powers = float(stage.base) ** np.arange(stage.slices)
        for row in tiles.tolist():
            block = (
                table.matrix[row],
                slice(table.row_begin[row], table.row_end[row]),
                slice(table.column_begin[row], table.column_end[row]),
            )
            cells = self.machine.devices.tile(row)
            pairs = cells.reshape(len(cells), -1, stage.slices, 2)
            weights[block] = (pairs[..., 0] - pairs[..., 1]) @ powers
            if self.machine.effects.read_noise:
                spread = self.machine.devices.read_sigma(row).reshape(pairs.shape) ** 2
                variances[block] = (spread[..., 0] + spread[..., 1]) @ powers**2
        return weights, variances


def squared_phase_weights(weights: tuple[int, ...]) -> NDArray[np.float64]:
    """Sum of the squared phase weights of the ones of each byte, [256]."""
    ones = (np.arange(256)[:, None] >> np.arange(len(weights)) & 1).astype(np.float64)
    total: NDArray[np.float64] = ones @ np.square(np.array(weights, np.float64))
    return total


def _phase_weights(stage: MappedLayer) -> tuple[int, ...]:
    """What a one counts in each bit phase; exact inputs have no bits and never come here."""
    assert isinstance(stage.quantizer, InputQuantizer)
    return stage.quantizer.phase_weights


def _exact_dtype(stage: MappedLayer, matrix: NDArray[Any]) -> type[np.float32 | np.float64]:
    """The float type that holds every sum exactly; float64 for continuous weights."""
    if not isinstance(stage.quantizer, InputQuantizer):
        return np.float64
    largest = max(-stage.quantizer.lowest, stage.quantizer.highest)
    bound = largest * int(np.abs(matrix.astype(np.int64)).sum(axis=1).max(initial=0))
    return np.float32 if bound < FLOAT32_EXACT else np.float64


def exact_sums(stage: MappedLayer, x: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of a layer on perfect hardware, [batch, out_channels, positions].

    One product per group, in float32 where every partial sum is below 2^24, else in float64:
    exact either way for integers. Sums of continuous weights are those of float64.
    """
    unrolling = Unrolling.im2col(stage.geometry)
    matrix = stage.integer_matrix()
    dtype = _exact_dtype(stage, matrix)
    vectors = unrolling.patches(x).astype(dtype)  # batch, windows, groups, rows
    sums = np.matmul(vectors.transpose(2, 0, 1, 3).reshape(len(matrix), -1, unrolling.rows), matrix.astype(dtype))
    batch, positions = vectors.shape[:2]
    stacked = sums.reshape(len(matrix), batch, positions, unrolling.columns).transpose(1, 0, 3, 2)
    exact: NDArray[np.float64] = stacked.astype(np.float64).reshape(batch, stage.geometry.out_channels, positions)
    return exact
