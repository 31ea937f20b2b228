"""Parts that both executors share: the program, the switched-on effects, the converter and the devices."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.converter import NOISE_PER_ROUNDING, Converter
from memcompile.program.program import Program
from memcompile.runtime.cells.cache import BoundedCache
from memcompile.runtime.cells.devices import Devices
from memcompile.runtime.cells.memory import bytes_for_cells
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.executors.conversions import LineCounts, TileLines, in_vectors, in_whole_blocks
from memcompile.runtime.executors.digit_conversions import DigitLines, filled, variance_matrix
from memcompile.runtime.executors.integer_product import IntegerMatrix
from memcompile.runtime.executors.rescaling import Rescaling
from memcompile.runtime.executors.tile_inputs import row_order
from memcompile.runtime.kernels.compiled import Workers


class Machine:
    """One sample of the hardware a program runs on, as it is written in one pass."""

    def __init__(
        self,
        program: Program,
        seed: int,
        effects: Effects,
        threads: int,
        conditions: Conditions = NEW,
        pass_number: int = 0,
    ) -> None:
        self.program = program
        self.seed = seed
        self.effects = effects.sized(program, conditions)
        self.target = program.target
        self.workers = Workers(threads)
        self.tiles = program.placement.tiles
        read_sigma_us = self.effects.read_sigma_us(program.target)
        self.converter = (
            Converter.adc(program.target, read_sigma_us=read_sigma_us)
            if self.effects.adc
            else Converter.exact(program.target, read_sigma_us)
        )
        # Faults and drift belong to the chip that was written, whichever noise it is read with.
        chip_seed = seed if program.chip is None else program.chip.seed
        self.idle_nonlinearity = effects.nonlinear_iv and program.target.cell.nonlinearity_per_v > 0
        self.idle_nonlinearity &= not self.effects.nonlinear_iv
        self.devices = Devices(program, chip_seed, self.effects, self.converter, conditions, pass_number)
        self.prepared = BoundedCache(bytes_for_cells())
        self._perfect = effects == Effects.none()
        self.rescalings = self._rescalings()

    def calibrated(self, program: Program) -> Machine:
        """The same hardware for a program that differs in its calibration alone; devices are shared."""
        machine = copy.copy(self)
        machine.program = program
        machine.rescalings = machine._rescalings()
        return machine

    def _rescalings(self) -> list[Rescaling]:
        """Scale and bias of each layer; perfect hardware has nothing to correct."""
        layers, calibration = self.program.layers, self.program.calibration
        if calibration is None or self._perfect:
            return [Rescaling.of(layer, None) for layer in layers]
        if self.devices.seed != calibration.seed:
            raise UsageError(
                f"the program is calibrated for the chip of seed {calibration.seed}, not for that of seed "
                f"{self.devices.seed}; calibrate the program that the compiler wrote for each chip"
            )
        return [Rescaling.of(*pair) for pair in zip(layers, calibration.layers, strict=True)]

    @property
    def differs_between_passes(self) -> bool:
        """True if writing the arrays anew gives other conductances."""
        drawn_anew = (self.effects.programming_error, self.effects.relaxation, self.effects.retention)
        return bool(self.program.placement.segments) and any(drawn_anew)

    @property
    def noise_spans_phases(self) -> bool:
        """True if all bit phases of a step see the same read noise."""
        return self.effects.read_noise and self.target.read_noise.lasts == "step"

    def lines(self, row: int) -> TileLines:
        """The output lines of one tile, prepared for conversion."""
        return self.prepared.get(row, lambda: self._prepare(row), lambda lines: lines.nbytes)

    def _prepare(self, row: int) -> TileLines:
        cells = self.devices.tile(row)
        rows, width = cells.shape
        noise, alike = self._noise(row, cells)
        equal = not self.effects.adc_error
        converter = self.devices.converter_of(row)
        assert converter.min_code is not None
        assert converter.max_code is not None
        return TileLines(
            cells=in_vectors(cells),
            variances=in_vectors(cells[:, :0] if alike else _on_summable_grid(noise**2)),
            sigma=_sigma_by_driven(float(noise[0, 0]) if alike else 0.0, rows),
            gain=in_whole_blocks(self._gains(row)),
            rounding=_equal_lines(converter.half, width)
            if equal
            else in_whole_blocks(converter.half + self.devices.offsets(row)),
            min_code=np.float32(converter.min_code),
            max_code=np.float32(converter.max_code),
            counts=self._counts(row, width),
        )

    def _noise(
        self, row: int, cells: NDArray[Any], order: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], bool]:
        """Read noise of each cell of a tile on its output line, [rows, lines], and True if it is the same for all."""
        of_all = self.devices.line_sigma_of_all(row) if self.effects.read_noise else 0.0
        if of_all is not None:
            return np.broadcast_to(np.float64(of_all), cells.shape), True
        noise = self.devices.line_sigma(row)
        noise = noise if order is None else noise[order]
        return noise, bool((noise == noise[:1, :1]).all())

    def _gains(self, row: int) -> NDArray[np.float64]:
        """Gains of the converters of a tile, [lines]; no lines where all are one."""
        gains = self.devices.gains(row)
        return gains[:0] if (gains == 1.0).all() else gains

    def _counts(self, row: int, lines: int) -> LineCounts:
        stage, tiles = self.program.layers[int(self.tiles.layer[row])], self.tiles
        return LineCounts.of(lines, int(tiles.column_end[row] - tiles.column_begin[row]), stage.base, stage.slices)

    def digit_lines(self, row: int) -> DigitLines:
        """The output lines of one tile, prepared for phases of several bits."""
        return self.prepared.get(row, lambda: self._prepare_digits(row), lambda lines: lines.nbytes)

    def _prepare_digits(self, row: int) -> DigitLines:
        order = self._row_order(row)
        cells = self.devices.tile(row)[order]
        noise, alike = self._noise(row, cells, order)
        converter = self.devices.converter_of(row)
        assert converter.min_code is not None
        assert converter.max_code is not None
        assert converter.grid_bits is not None
        rounding = filled(converter.half + self.devices.offsets(row))
        drowned = self.devices.drive is None and _drowns_float32(cells, noise[:1, :1] if alike else noise, rounding)
        return DigitLines(
            cells=IntegerMatrix.of(filled(cells[None]), 2.0**-converter.grid_bits),
            variances=None if alike else variance_matrix(filled(noise[None] ** 2)),
            sigma=float(noise.max(initial=0.0)) if alike else 0.0,
            gain=filled(self._gains(row), np.float32),
            rounding=rounding.astype(np.float32) if drowned else rounding,
            min_code=float(converter.min_code),
            max_code=float(converter.max_code),
            counts=self._counts(row, cells.shape[1]),
            drive=self.devices.drive,
        )

    def _row_order(self, row: int) -> NDArray[np.int64]:
        """Rows of a tile as its input vectors have them."""
        tiles = self.tiles
        unrolling = self.program.layers[int(tiles.layer[row])].replicas[int(tiles.replica[row])].unrolling
        begin, end = int(tiles.row_begin[row]), int(tiles.row_end[row])
        return row_order(unrolling, int(tiles.matrix[row]), begin, end).rows

    def prepare(self, keys: Sequence[Hashable], make: Callable[[int], object]) -> None:
        """Prepare what is kept for some keys, in parallel; ``make`` takes the place of a key.

        Stops when memory is full: what is not kept is made when it is used.
        """
        missing = [place for place, key in enumerate(keys) if key not in self.prepared]

        def work(begin: int, end: int) -> None:
            for place in missing[begin:end]:
                if self.prepared.full:
                    return
                make(place)

        self.workers.each_range(len(missing), work)

    def tiles_of(self, layer: int, replica: int) -> NDArray[np.int64]:
        """Rows of the tile table that belong to one replica of a layer."""
        return self._copies[layer, replica]

    @cached_property
    def _copies(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Rows of the tile table of each layer's replicas."""
        keys = np.stack([self.tiles.layer, self.tiles.replica], axis=1)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        cuts = np.flatnonzero(np.diff(keys[order], axis=0).any(axis=1)) + 1
        return {(int(keys[rows[0], 0]), int(keys[rows[0], 1])): rows for rows in np.split(order, cuts) if len(rows)}


@lru_cache(maxsize=64)
def _sigma_by_driven(noise: float, rows: int) -> NDArray[np.float32]:
    """Read noise of a line by the number of driven input lines, [rows + 1].

    Tiles share it: small arrays between large ones keep memory of former large ones from being used again.
    """
    sigma: NDArray[np.float32] = (noise * np.sqrt(np.arange(rows + 1))).astype(np.float32)
    return sigma


@lru_cache(maxsize=64)
def _equal_lines(value: float, lines: int) -> NDArray[np.float32]:
    """One value for all lines of a tile, in whole blocks; shared as above."""
    return in_whole_blocks(np.full(lines, value))


def _drowns_float32(cells: NDArray[Any], noise: NDArray[np.float64], rounding: NDArray[np.float64]) -> bool:
    """Return True if read noise hides what float32 rounds off the current of a line.

    Digits d bring at most max|cell| sqrt(rows) sqrt(sum d^2), and noise of at least sigma sqrt(sum d^2). Cells without
    noise are open and carry no current.
    """
    heard = noise[noise > 0]
    if not heard.size:
        return False
    largest = max(float(np.abs(cells).max(initial=0.0)) * math.sqrt(len(cells)), float(np.abs(rounding).max()))
    return largest * float(np.finfo(np.float32).eps) / 2 <= float(heard.min()) / NOISE_PER_ROUNDING


def _on_summable_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to a grid on which float32 sums of a column are exact, so that their order does not matter."""
    step = 2.0 ** (math.ceil(math.log2(values.sum(axis=0).max() + 2.0**-100)) - 22)
    return np.rint(values / step) * step


class Executor(Protocol):
    """Computes the integer sums of crossbar layers."""

    def sums(self, layer: int, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[Any]:
        """Multiply quantised inputs with the weights of a layer.

        Parameters
        ----------
        layer
            Number of the crossbar layer.
        x
            Quantised (or exact) input, [batch, in_channels, *input_size].
        images
            Number of each image, [batch].

        Returns
        -------
        [batch, out_channels, positions] in units of input step times weight step if float64; else in
        codes of the layer's converter, int64.
        """
        ...
