"""The fast executor: the same results from fewer operations.

Ideal hardware: one exact matrix product per layer. Without a converter: one exact integer product
with the programmed signed matrix, and the read noise of all phases, cells, pairs and slices of an
output as one Gaussian number of their summed variance. With a converter: per tile, the partial sums
of a line over a few input lines come from a table over their on/off patterns, or, where a phase
applies several bits, from an exact integer product; every conversion gets one Gaussian number of
variance sigma^2 * sum of squared digits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import MappedLayer, Replica
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.runtime.executors.conversions import Phases, convert_tile, pack_phases, rows_per_table
from memcompile.runtime.executors.digit_conversions import convert_digits
from memcompile.runtime.executors.linear import LinearMatrices, multiply
from memcompile.runtime.executors.literal import LiteralExecutor
from memcompile.runtime.executors.machine import Machine
from memcompile.runtime.executors.tile_inputs import RowOrder, images_channels_last, row_order, tile_vectors
from memcompile.runtime.kernels.compiled import Workers, product_kernels
from memcompile.runtime.random_numbers import ItemNoise, Purpose, stream

FLOAT32_EXACT = 1 << 24
Path = Literal["product", "linear", "conversions", "digits", "literal"]


class LayerInputs:
    """Input vectors of one layer, cut out and packed once for all its tiles and replicas."""

    def __init__(self, x: NDArray[Any], quantizer: InputQuantizer | ExactInput, workers: Workers) -> None:
        self.x = x
        self._quantizer = quantizer
        self._workers = workers
        self._images: dict[Unrolling, NDArray[np.uint8]] = {}
        self._phases: dict[tuple[Unrolling, int, int, int], Phases] = {}
        self._items: dict[Unrolling, NDArray[np.uint8]] = {}

    def phases(self, replica: Replica, matrix: int, begin: int, end: int, kinds: int) -> Phases:
        """Driven lines of the rows ``begin`` to ``end`` of a weight matrix, for all windows.

        They are packed for tables of so many kinds, see :func:`rows_per_table`.
        """
        key = (replica.unrolling, matrix, begin, end)
        if key not in self._phases:
            look_ups = len(self.phase_weights) * len(self.x) * len(replica.windows) // self._workers.threads
            each = rows_per_table(end - begin, look_ups, kinds)
            _, starts, rows = _addresses(replica.unrolling)
            images = self._padded(replica.unrolling)
            self._phases[key] = pack_phases(images, starts, rows[matrix, begin:end], each, self._workers)
        return self._phases[key]

    def numbers(self, replica: Replica) -> NDArray[np.uint8]:
        """Whole inputs in two's complement, [matrices, batch * windows, rows]."""
        unrolling = replica.unrolling
        if unrolling not in self._items:
            self._items[unrolling] = cut_rows(unrolling, self.x.astype(np.uint8), self._workers)
        items = self._items[unrolling]  # matrices, batch, all windows, rows
        if not replica.has_all_windows:
            items = items[:, :, replica.windows]
        return items.reshape(unrolling.matrices, -1, unrolling.rows)

    def applied(self, unrolling: Unrolling, phase: int) -> NDArray[np.uint8]:
        """Digits of one phase: padded images whose channels come last, flat."""
        assert isinstance(self._quantizer, InputQuantizer), "exact inputs have no digits"
        return images_channels_last(unrolling, self.x, self._quantizer, phase, self._workers)

    def _padded(self, unrolling: Unrolling) -> NDArray[np.uint8]:
        """Whole inputs in two's complement, as padded flat images, [batch, bytes]."""
        if unrolling not in self._images:
            self._images[unrolling] = padded_images(unrolling, self.x)
        return self._images[unrolling]

    @property
    def phase_weights(self) -> tuple[int, ...]:
        """Weight of a one in each phase."""
        assert isinstance(self._quantizer, InputQuantizer), "exact inputs have no phases to be converted"
        return self._quantizer.phase_weights


@lru_cache(maxsize=256)
def _addresses(unrolling: Unrolling) -> tuple[list[tuple[int, int]], NDArray[np.int64], NDArray[np.int64]]:
    return unrolling.addresses()


def padded_images(unrolling: Unrolling, x: NDArray[Any]) -> NDArray[np.uint8]:
    """Images in two's complement with the padding of an unrolling, flat: [batch, bytes]."""
    padding = _addresses(unrolling)[0]
    if not any(map(any, padding)):
        return np.ascontiguousarray(x, np.uint8).reshape(len(x), -1)
    sizes = [size + sum(pads) for size, pads in zip(x.shape, padding, strict=True)]
    padded = np.zeros(sizes, np.uint8)
    inside = (slice(before, before + size) for size, (before, _) in zip(x.shape, padding, strict=True))
    padded[tuple(inside)] = x
    return padded.reshape(len(x), -1)


def cut_rows(unrolling: Unrolling, x: NDArray[np.uint8], workers: Workers) -> NDArray[np.uint8]:
    """Input vectors of all windows, [matrices, batch, windows, rows], cut out image by image."""
    if _reads_whole_images(unrolling):
        return np.ascontiguousarray(x).reshape(1, len(x), 1, unrolling.rows)
    items = np.empty((unrolling.matrices, len(x), unrolling.windows, unrolling.rows), np.uint8)
    compiled = product_kernels()
    if compiled is None:
        items[:] = unrolling.vectors(x).transpose(1, 0, 3, 2)
        return items
    _, windows, rows = _addresses(unrolling)
    images = padded_images(unrolling, x)
    workers.each_range(len(x), lambda begin, end: compiled.cut_rows(images, windows, rows, items, begin, end))
    return items


@lru_cache(maxsize=256)
def _reads_whole_images(unrolling: Unrolling) -> bool:
    """Return True if the one input vector of an image is the image as it lies in memory, as in dense layers."""
    padding, windows, rows = _addresses(unrolling)
    values = unrolling.geometry.in_channels * math.prod(unrolling.geometry.input_size)
    if len(windows) > 1 or rows.shape != (1, values) or any(map(any, padding)):
        return False
    return bool((windows[0] + rows[0] == np.arange(values)).all())


def in_order(stage: MappedLayer, replica: Replica) -> bool:
    """Return True if a replica's sums are those of the layer, one window a position and one matrix a group."""
    return replica.has_all_windows and replica.unrolling == Unrolling.im2col(stage.geometry)


class FastExecutor:
    """Uses per layer the cheapest method that keeps results exact (in distribution, for noise)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._literal = LiteralExecutor(machine)
        self._paths: dict[int, tuple[Path, str]] = {}
        self._ready: set[int] = set()

    def path(self, layer: int) -> tuple[Path, str]:
        """The method that a layer goes through, and why."""
        if layer not in self._paths:
            self._paths[layer] = self._explained(layer)
        return self._paths[layer]

    def _explained(self, layer: int) -> tuple[Path, str]:
        path, why = self._path(layer)
        share = self.machine.program.layers[layer].range_share
        if share is not None and self.machine.effects.adc and path != "product":
            why += f"; converter range {share:.3g} of the largest current"
        if self.machine.idle_nonlinearity:
            why += "; the nonlinear current of cells has no effect: lines get 0 V or the read voltage"
        return path, why

    def _path(self, layer: int) -> tuple[Path, str]:
        effects, converter = self.machine.effects, self.machine.devices.converters[layer]
        still = not effects.names(but=("adc",))
        if still and not effects.adc:
            return "product", "nothing is switched on: one exact integer product"
        if still and converter.levels_per_code == 1 and self._range_share(layer) == 1.0:
            return "product", "the converters resolve each level and nothing else is switched on: one exact product"
        if self.machine.noise_spans_phases:
            return "literal", "read noise lasts a whole step, so the phases of a line are not independent"
        if self.machine.devices.solves_each_step:
            return "literal", "cells are nonlinear and wires take some of their voltage: solved anew for each input"
        if self.machine.devices.drives_by_line:
            return "literal", "cells are nonlinear and each input line has voltages of its own"
        if not effects.adc:
            return "linear", f"no converter: one product with the programmed matrix ({', '.join(effects.names())})"
        if converter.highest_digit > 1:
            means = "integer products" + (", one Gaussian number per conversion" if effects.read_noise else "")
            return "digits", f"a converter per line and phase of several bits: {means} ({', '.join(effects.names())})"
        means = "table look-ups, one Gaussian number per conversion" if effects.read_noise else "table look-ups"
        return "conversions", f"a converter per line and phase: {means} ({', '.join(effects.names())})"

    def _range_share(self, layer: int) -> float:
        share = self.machine.program.layers[layer].range_share
        return self.machine.target.adc.range_share if share is None else share

    def sums(self, layer: int, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[Any]:
        """See :class:`memcompile.runtime.executors.machine.Executor`."""
        stage = self.machine.program.layers[layer]
        path, _ = self.path(layer)
        if path == "product":
            return self._product(layer, x, images)
        if path == "literal":
            return self._literal.sums(layer, x, images)
        self.prepare(layer)
        inputs = LayerInputs(x, stage.quantizer, self.machine.workers)
        y: NDArray[np.float64] | None = None
        for copy, replica in enumerate(stage.replicas):
            tiles = self.machine.tiles_of(layer, copy)
            totals: NDArray[Any]
            if path == "linear":
                totals = self._linear(stage, replica, tiles, inputs, images)
            else:
                convert = self._converted if path == "conversions" else self._converted_digits
                totals = convert(stage, replica, tiles, inputs, images)
            if in_order(stage, replica):
                return totals.reshape(len(x), stage.geometry.positions, -1).transpose(0, 2, 1)
            if y is None:
                y = np.zeros((len(x), stage.geometry.positions, stage.geometry.out_channels))
            self._place(replica, self.machine.devices.converters[layer], totals, y)
        assert y is not None
        return y.transpose(0, 2, 1)

    def prepare(self, layer: int) -> None:
        """Program and prepare the tiles of a layer on all threads, as far as memory holds them."""
        if layer in self._ready:
            return
        self._ready.add(layer)
        machine, (path, _), stage = self.machine, self.path(layer), self.machine.program.layers[layer]
        replicas = stage.replicas
        tiles = [machine.tiles_of(layer, copy) for copy in range(len(replicas))]
        rows = [row for of_replica in tiles for row in of_replica.tolist()]
        if path == "conversions":
            machine.prepare(rows, lambda place: machine.lines(rows[place]))
        elif path == "digits":
            machine.prepare(rows, lambda place: machine.digit_lines(rows[place]))
        elif path == "linear" and isinstance(stage.quantizer, InputQuantizer):
            firsts = [("linear", int(of_replica[0])) for of_replica in tiles]
            machine.prepare(firsts, lambda place: self._lines(stage, replicas[place], tiles[place]))

    def _product(self, layer: int, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Exact sums of a layer, from integer products of bytes where there are compiled kernels."""
        stage, quantizer = self.machine.program.layers[layer], self.machine.program.layers[layer].quantizer
        if product_kernels() is None or not isinstance(quantizer, InputQuantizer):
            return exact_sums(stage, x)
        unrolling = Unrolling.im2col(stage.geometry)
        lines = self.machine.prepared.get(
            ("product", layer), lambda: _whole_weights(stage, quantizer), lambda made: made.nbytes
        )
        items = cut_rows(unrolling, x.astype(np.uint8), self.machine.workers)  # two's complement keeps its bits
        noise = ItemNoise(np.arange(unrolling.windows), images, 0, 0)  # none is drawn
        totals = multiply(lines, items.reshape(len(items), -1, unrolling.rows), noise, self.machine.workers)
        return totals.reshape(len(x), stage.geometry.positions, -1).transpose(0, 2, 1)

    def _lines(self, stage: MappedLayer, replica: Replica, tiles: NDArray[np.int64]) -> LinearMatrices:
        """The programmed weights of a replica, kept if there is room."""
        return self.machine.prepared.get(
            ("linear", int(tiles[0])), lambda: self._matrices(stage, replica, tiles), lambda made: made.nbytes
        )

    def _place(self, replica: Replica, converter: Converter, totals: NDArray[Any], y: NDArray[np.float64]) -> None:
        """Write the sums of one replica, in level steps, where they belong in the layer's output.

        ``totals`` is [batch, windows, matrices, columns]: level steps if float64, else codes; ``y`` is
        [batch, positions, channels].
        """
        unrolling = replica.unrolling
        compiled = product_kernels()
        if compiled is None:
            unrolling.scatter(converter.in_levels(totals), replica.windows, y.transpose(0, 2, 1))
            return
        factors = converter.factor_to_levels(totals)
        positions = unrolling.window_positions()[replica.windows]
        columns = unrolling.geometry.group_columns

        def work(begin: int, end: int) -> None:
            compiled.place_sums(totals, positions, unrolling.bundle, columns, *factors, y, begin, end)

        self.machine.workers.each_range(len(y), work)

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
        weights = np.array(inputs.phase_weights, np.float32)
        windows = replica.windows.astype(np.int64)
        for row in tiles.tolist():
            matrix = int(table.matrix[row])
            lines = machine.lines(row)
            phases = inputs.phases(replica, matrix, int(table.row_begin[row]), int(table.row_end[row]), lines.kinds)
            convert_tile(
                lines,
                phases,
                weights,
                windows,
                images,
                stream(Purpose.READ, row),
                machine.seed,
                totals[:, matrix, int(table.column_begin[row]) : int(table.column_end[row])],
                machine.workers,
            )
        return totals.reshape(batch, count, unrolling.matrices, unrolling.columns)

    def _converted_digits(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        inputs: LayerInputs,
        images: NDArray[np.int64],
    ) -> NDArray[np.signedinteger[Any]]:
        """Sums of codes where a phase applies several bits, [batch, windows, matrices, columns]."""
        table, machine, unrolling = self.machine.tiles, self.machine, replica.unrolling
        batch, count = len(images), len(replica.windows)
        powers = np.int64(stage.base) ** np.arange(stage.slices)
        kind = code_type(machine.devices.converter_of(int(tiles[0])), inputs.phase_weights, powers, len(tiles))
        totals = np.zeros((batch * count, unrolling.matrices * unrolling.columns), kind)
        windows = replica.windows.astype(np.int64)
        for phase, weight in enumerate(inputs.phase_weights):
            applied = inputs.applied(unrolling, phase)
            vectors: dict[RowOrder, NDArray[np.uint8]] = {}
            for row in tiles.tolist():
                matrix = int(table.matrix[row])
                before = matrix * unrolling.columns
                order = row_order(unrolling, matrix, int(table.row_begin[row]), int(table.row_end[row]))
                if order not in vectors:
                    vectors[order] = tile_vectors(unrolling, replica.windows, order, applied, machine.workers)
                convert_digits(
                    machine.digit_lines(row),
                    vectors[order],
                    phase,
                    weight,
                    ItemNoise(windows, images, stream(Purpose.READ, row), machine.seed),
                    totals,
                    slice(before + int(table.column_begin[row]), before + int(table.column_end[row])),
                    machine.workers,
                )
        return totals.reshape(batch, count, unrolling.matrices, unrolling.columns)

    def _linear(
        self,
        stage: MappedLayer,
        replica: Replica,
        tiles: NDArray[np.int64],
        inputs: LayerInputs,
        images: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Sums without converters, [batch, windows, matrices, columns]."""
        if not isinstance(stage.quantizer, InputQuantizer):
            return self._continuous(stage, replica, tiles, inputs)
        totals = multiply(
            self._lines(stage, replica, tiles),
            inputs.numbers(replica),
            ItemNoise(replica.windows.astype(np.int64), images, stream(Purpose.READ, int(tiles[0])), self.machine.seed),
            self.machine.workers,
        )
        return totals.reshape(len(images), len(replica.windows), *totals.shape[1:])

    def _continuous(
        self, stage: MappedLayer, replica: Replica, tiles: NDArray[np.int64], inputs: LayerInputs
    ) -> NDArray[np.float64]:
        """Products of exact inputs with continuous weights, [batch, windows, matrices, columns]."""
        weights, _ = self.machine.prepared.get(
            ("linear", int(tiles[0])), lambda: self._weights(stage, replica, tiles), lambda both: 2 * both[0].nbytes
        )
        vectors = replica.unrolling.patches(inputs.x, replica.windows)
        sums: NDArray[np.float64] = np.matmul(vectors.transpose(2, 0, 1, 3), weights[:, None]).transpose(1, 2, 0, 3)
        return sums

    def _matrices(self, stage: MappedLayer, replica: Replica, tiles: NDArray[np.int64]) -> LinearMatrices:
        """Weights as programmed and their read noise, ready to be multiplied."""
        assert isinstance(stage.quantizer, InputQuantizer)
        assert self.machine.converter.grid_bits is not None
        weights, variances = self._weights(stage, replica, tiles)
        drive = self.machine.devices.drive
        return LinearMatrices.of(weights, variances, 2.0**-self.machine.converter.grid_bits, stage.quantizer, drive)

    def _weights(
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
            cells, columns = self.machine.devices.tile(row), block[2].stop - block[2].start
            weights[block] = _differences(cells, columns, stage.slices) @ powers
            if self.machine.effects.read_noise:
                spread = self.machine.devices.line_sigma(row) ** 2
                variances[block] = spread.reshape(len(cells), columns, stage.slices, -1).sum(axis=3) @ powers**2
        return weights, variances


def _whole_weights(stage: MappedLayer, quantizer: InputQuantizer) -> LinearMatrices:
    """The weights of a layer without errors, ready to be multiplied."""
    weights = stage.integer_matrix().astype(np.float64)
    return LinearMatrices.of(weights, np.zeros((1, 1, 1)), 1.0, quantizer)


def _differences(cells: NDArray[Any], columns: int, slices: int) -> NDArray[Any]:
    """Cells of pairs, [rows, columns, slices], of those of lines; two lines of a pair are subtracted."""
    pairs = cells.reshape(len(cells), columns, slices, -1)
    return pairs[..., 0] if pairs.shape[3] == 1 else pairs[..., 0] - pairs[..., 1]


def code_type(
    converter: Converter, phase_weights: tuple[int, ...], powers: NDArray[np.int64], tiles: int
) -> type[np.int32 | np.int64]:
    """The smaller integer type that holds every sum of codes of so many tiles."""
    assert converter.max_code is not None
    most = 2 * converter.max_code * tiles * sum(map(abs, phase_weights)) * int(powers.sum())
    return np.int32 if most < 1 << 31 else np.int64


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
