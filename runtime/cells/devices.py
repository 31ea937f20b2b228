"""The cells of all arrays as programmed, and the tiles on them as their lines see them.

Behind the cells of a tile stand wires, drivers and converters with errors of their own; read noise is added later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.converter import Converter
from memcompile.hardware.pulses import WriteReport
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.cells.cache import RecentArrays, RecentValues
from memcompile.runtime.cells.programmed_arrays import RECENT_BYTES, ProgrammedArrays
from memcompile.runtime.effects.adc_error import gain_errors, offsets_codes
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.effects.dac_error import line_voltages
from memcompile.runtime.effects.dead_lines import cells_on_working_lines
from memcompile.runtime.effects.nonlinear_iv import Drive, relative_current, sharpness
from memcompile.runtime.effects.nonlinear_wires import NonlinearTile
from memcompile.runtime.effects.read_noise import read_sigma
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.effects.wires import US_PER_S, effective_conductances_us

RECENT_NETWORKS = 64
"""Tiles whose networks of wires and nonlinear cells are kept."""


class Devices:
    """Programmed conductances, in converter units (see :mod:`memcompile.hardware.converter`).

    ``written`` has whole arrays. ``converter`` is that of layers without a range of their own; ``converters`` has one a
    layer.
    """

    def __init__(
        self,
        program: Program,
        seed: int,
        effects: Effects,
        converter: Converter,
        conditions: Conditions = NEW,
        pass_number: int = 0,
    ) -> None:
        self.program = program
        self.seed = seed
        self.effects = effects
        self.converter = converter
        read_sigma_us = effects.read_sigma_us(program.target)
        self.converters = tuple(
            converter.ranged(program.target, layer.range_share, read_sigma_us) for layer in program.layers
        )
        self.conditions = conditions
        self.written = ProgrammedArrays(program, seed, effects, conditions, pass_number)
        self._map = program.cell_map
        self._seen = RecentArrays(RECENT_BYTES)
        self._networks = RecentValues[NonlinearTile](RECENT_NETWORKS)

    def array(self, number: int, segment: int = 0, converter: Converter | None = None) -> NDArray[Any]:
        """Conductances of one array in a segment, [input lines, columns of cells], in units of a converter."""
        return self.written.array(number, segment, converter or self.converter)

    def levels(self, number: int, segment: int = 0) -> NDArray[Any]:
        """Levels that programming aims at, [input lines, columns of cells]; shares of the window if continuous."""
        return self.written.contents.levels(number, segment)

    def writing(self) -> WriteReport | None:
        """Cost of writing all arrays once, pulse by pulse; None where no pulses are emulated."""
        return self.written.writing()

    def cells(self, row: int) -> NDArray[Any]:
        """Conductances of the cells of one tile, [rows, columns of cells], in converter units."""
        tiles = self.program.placement.tiles
        written = self.array(int(tiles.array[row]), int(tiles.segment[row]), self.converter_of(row))
        return written[self._map.input_lines_of(row), self._map.cell_columns_of(row)]

    def converter_of(self, row: int) -> Converter:
        """The converter of a tile's lines."""
        return self.converters[int(self.program.placement.tiles.layer[row])]

    def tile(self, row: int) -> NDArray[Any]:
        """Conductances of one tile as its converters see them, [rows, output lines], in converter units.

        The cells' conductances, or the difference of both cells of a crossing; if there are such effects, these behind
        the wires, times the drive of a one on the input lines and the converters' gains.
        """
        if not (self.effects.wires or self.effects.dac_error or self.effects.adc_error):
            return self.subtracted(self.cells(row))
        return self._seen.get(row, lambda: self._see(row))

    def _see(self, row: int) -> NDArray[Any]:
        cells, wires = self.cells(row).astype(np.float64), self.program.target.wires
        converter = self.converter_of(row)
        if self.effects.wires and wires is not None:
            effective = effective_conductances_us(
                self._by_wire(cells),  # linear: units in, units out
                wires.input_segment_ohm * converter.unit_us,
                wires.output_segment_ohm * converter.unit_us,
                *self._leads(row),
            )
            cells = self._by_crossing(effective)
        seen = self.subtracted(cells) * self.drive_of_one(row)[:, None] * self.gains(row)
        return converter.to_grid(seen).astype(converter.dtype)

    def subtracted(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Sums of output lines, [..., output lines], from contributions of cells, [..., columns of cells]."""
        if self._per_crossing == 1:
            return cells
        difference: NDArray[Any] = cells[..., 0::2] - cells[..., 1::2]
        return difference

    @property
    def _per_crossing(self) -> int:
        return self.program.target.array.cells_per_crossing

    def _by_wire(self, cells: NDArray[Any]) -> NDArray[Any]:
        """[rows, columns of cells] as [wires, output lines]: the cells of a crossing are on wires of their own."""
        return (
            cells.reshape(len(cells), -1, self._per_crossing)
            .transpose(0, 2, 1)
            .reshape(len(cells) * self._per_crossing, -1)
        )

    def _by_crossing(self, wires: NDArray[Any]) -> NDArray[Any]:
        """The inverse of :meth:`_by_wire`."""
        rows = len(wires) // self._per_crossing
        return wires.reshape(rows, self._per_crossing, -1).transpose(0, 2, 1).reshape(rows, -1)

    def _leads(self, row: int) -> tuple[int, int]:
        """Wire segments between a tile and the drivers of its input lines, and the converters of its output lines."""
        tiles, shape = self.program.placement.tiles, self.program.target.array
        below = (shape.input_lines - self._map.input_lines_of(row).stop) * self._per_crossing
        return int(tiles.output_line[row]) + 1, below + 1

    @property
    def solves_each_step(self) -> bool:
        """True if currents are no product: cells do not obey Ohm's law, and wires take some of their voltage."""
        return self.effects.nonlinear_iv and self.effects.wires

    @property
    def drives_by_line(self) -> bool:
        """True if the drive of a digit is not proportional from one input line to the other."""
        analog = self.program.target.input.highest_digit > 1
        return self.effects.nonlinear_iv and self.effects.dac_error and analog

    @cached_property
    def drive(self) -> Drive | None:
        """Drive of digits through a cell where that is not the digit itself."""
        analog = self.program.target.input.highest_digit > 1
        return Drive.of(self.program.target) if self.effects.nonlinear_iv and analog else None

    def currents(self, row: int, digits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Currents of a tile's lines without read noise, gains included, [items, rows] to [items, lines]."""
        if not self.solves_each_step:
            return self.drives(row, digits) @ self.tile(row).astype(np.float64)
        network = self._networks.get(row, lambda: self._make_network(row))
        converter = self.converter_of(row)
        voltages = digits / converter.highest_digit * self.voltages(row)
        # The second wire of an input line, if there is one, gets the opposite voltage.
        signs = np.array([1.0, -1.0][: self._per_crossing])
        voltages = (voltages[..., None] * signs).reshape(len(digits), -1)
        solved = np.array([network.currents(item) for item in voltages]).reshape(len(digits), -1)
        return converter.to_grid(solved * converter.highest_digit * self.gains(row))

    def drives(self, row: int, digits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Drive of digits through the cells of a tile, [items, rows], beside :meth:`drive_of_one`."""
        if self.drive is None:
            return digits
        if not self.effects.dac_error:
            return self.drive.counts[digits.astype(np.int64)].astype(np.float64) * self.drive.step
        highest = self.program.target.input.highest_digit
        current = relative_current(digits / highest * self.voltages(row), sharpness(self.program.target))
        return np.rint(highest * current / self.drive.step) * self.drive.step

    def drive_of_one(self, row: int) -> Cells:
        """Drive of a one through a cell on each input line of a tile, as a multiple of the nominal one."""
        voltages = self.voltages(row)
        if not self.effects.nonlinear_iv:
            return voltages
        if self.drive is not None:
            return np.ones_like(voltages)
        return relative_current(voltages, sharpness(self.program.target))

    def _make_network(self, row: int) -> NonlinearTile:
        wires, unit_us = self.program.target.wires, self.converter_of(row).unit_us
        assert wires is not None
        return NonlinearTile(
            self._by_wire(self.cells(row).astype(np.float64)),
            float(self.voltages(row).max()),
            sharpness(self.program.target),
            wires.input_segment_ohm * unit_us / US_PER_S,
            wires.output_segment_ohm * unit_us / US_PER_S,
            *self._leads(row),
        )

    def voltages(self, row: int) -> Cells:
        """Voltage of a one on each input line of a tile, in read voltages."""
        lines = self._map.input_lines_of(row)
        if not self.effects.dac_error:
            return np.ones(lines.stop - lines.start)
        return line_voltages(self.program.target, self._array_of(row), self.seed)[lines]

    def gains(self, row: int) -> Cells:
        """Gain of the converter of each output line of a tile."""
        return 1.0 + self._converter_error(row, gain_errors)

    def offsets(self, row: int) -> Cells:
        """Offset of the converter of each output line of a tile, in codes."""
        return self._converter_error(row, offsets_codes)

    def _converter_error(self, row: int, errors: Callable[[Target, int, int], Cells]) -> Cells:
        lines = self._map.output_lines_of(row)
        if not self.effects.adc_error:
            return np.zeros(lines.stop - lines.start)
        return errors(self.program.target, self._array_of(row), self.seed)[lines]

    def _array_of(self, row: int) -> int:
        return int(self.program.placement.tiles.array[row])

    def line_sigma(self, row: int) -> Cells:
        """Read noise that each input line of a tile adds to each output line, [rows, output lines], in units."""
        sigma = self.read_sigma(row)
        return sigma if self._per_crossing == 1 else np.hypot(sigma[:, 0::2], sigma[:, 1::2])

    @cached_property
    def _read_sigma_of_all(self) -> float | None:
        """Read noise that all cells of a target have when their lines are driven, in microsiemens; None if they differ.

        Then it is that of a sum of squares of which one is zero, for the bits of :meth:`read_sigma`.
        """
        spec, effects = self.program.target.read_noise, self.effects
        differs = spec.sigma_table_us or spec.proportional_share or effects.dead_lines
        return None if differs or effects.dac_error or effects.nonlinear_iv else spec.sigma_us

    def line_sigma_of_all(self, row: int) -> float | None:
        """Read noise that every driven input line of a tile adds to every output line, in units; None if they differ.

        It is what all of :meth:`line_sigma` would be.
        """
        if self._read_sigma_of_all is None:
            return None
        sigma = np.hypot(self._read_sigma_of_all / self.converter_of(row).unit_us, 0.0)
        return float(sigma if self._per_crossing == 1 else np.hypot(sigma, sigma))

    def read_sigma(self, row: int) -> Cells:
        """Read noise of each cell of a tile when its line is driven, [rows, columns of cells], in units.

        Grows with the drive of a one on the line; open cells of dead lines have none.
        """
        cells, target = self.cells(row).astype(np.float64), self.program.target
        sigma = read_sigma(cells, target.read_noise, self.converter_of(row).unit_us)
        if self.effects.dead_lines:
            alive = cells_on_working_lines(target, self._array_of(row), self.seed)
            sigma *= alive[self._map.input_lines_of(row), self._map.cell_columns_of(row)]
        return sigma * self.drive_of_one(row)[:, None]
