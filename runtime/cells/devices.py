"""The cells of all arrays, as programmed.

Errors are drawn per physical array from (seed, array number), so they depend neither on the order
of work nor on which tiles an array holds. Cells that no tile uses sit at g_min.

A network in segments is written once a *pass*, that is for each batch of images: segment s of n in pass
p is write number p * n + s. What writing decides (programming error, relaxation) is drawn anew in each
write; faults, drift exponents and the mean step of a pulse belong to the cell and stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.closed_loop import Written, write
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.converter import Converter
from memcompile.hardware.pulses import WriteReport
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Unrolling
from memcompile.program.program import Program
from memcompile.runtime.cells.cache import RecentArrays
from memcompile.runtime.cells.programming import (
    ErrorByLevel,
    goals_of_levels,
    in_units,
    polynomials_us,
    programmed,
    slices_written,
)
from memcompile.runtime.cells.slice_goals import ArraySlices, goals_us
from memcompile.runtime.cells.written_again import PairCorrections
from memcompile.runtime.effects.adc_error import gain_errors, offsets_codes
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.effects.dac_error import line_voltages
from memcompile.runtime.effects.dead_lines import cells_on_working_lines
from memcompile.runtime.effects.effect import WrittenArray
from memcompile.runtime.effects.nonlinear_iv import Drive, relative_current, sharpness
from memcompile.runtime.effects.nonlinear_wires import NonlinearTile
from memcompile.runtime.effects.programming_error import with_programming_error
from memcompile.runtime.effects.read_noise import read_sigma
from memcompile.runtime.effects.stuck_cells import stick
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.effects.wires import US_PER_S, effective_conductances_us
from memcompile.runtime.effects.write_verify import cycles_of_array, step_shares
from memcompile.runtime.kernels.cell_numbers import some_work
from memcompile.runtime.kernels.compiled import cell_kernels
from memcompile.runtime.random_numbers import seed_of_write

RECENT_BYTES = 1 << 26
"""Memory for the arrays that were used last, whose tiles follow each other; others are programmed anew when used."""


class Devices:
    """Programmed conductances, in converter units (see :mod:`memcompile.hardware.converter`).

    ``converter`` is that of layers without a range of their own; ``converters`` has one a layer.
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
        self.pass_number = pass_number
        self.seed = seed
        self.effects = effects
        self.converter = converter
        read_sigma_us = effects.read_sigma_us(program.target)
        self.converters = tuple(
            converter.ranged(program.target, layer.range_share, read_sigma_us) for layer in program.layers
        )
        self.conditions = conditions
        self._map = program.cell_map
        self._recent = RecentArrays(RECENT_BYTES)
        self._seen = RecentArrays(RECENT_BYTES)
        self._expand = lru_cache(maxsize=4)(self._expand_layer)
        self._expand_ones = lru_cache(maxsize=4)(self._expand_weights)
        self._network = lru_cache(maxsize=64)(self._make_network)

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
        network, converter = self._network(row), self.converter_of(row)
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

    def cells(self, row: int) -> NDArray[Any]:
        """Conductances of the cells of one tile, [rows, columns of cells], in converter units."""
        tiles = self.program.placement.tiles
        written = self.array(int(tiles.array[row]), int(tiles.segment[row]), self.converter_of(row))
        return written[self._map.input_lines_of(row), self._map.cell_columns_of(row)]

    def array(self, number: int, segment: int = 0, converter: Converter | None = None) -> NDArray[Any]:
        """Conductances of one array in a segment, [input lines, columns of cells], in units of a converter."""
        used = converter or self.converter
        return self._recent.get((number, segment, used), lambda: self._program_array(number, segment, used))

    def levels(self, number: int, segment: int = 0) -> NDArray[Any]:
        """Levels that programming aims at, [input lines, columns of cells]; shares of the window if continuous."""
        shape = self.program.target.array
        kind = np.float32 if self.program.target.cell.continuous else np.uint8
        levels = np.zeros((shape.input_lines, shape.cell_columns), kind)
        for row in self._rows_in(number, segment):
            self._lay(levels, row, self._expand(*self._laid_out(row)))
        return levels

    @property
    def _spares_blanks(self) -> bool:
        """True if cells that hold no weight have a smaller error; that of a transferred chip is measured."""
        share = self.program.target.programming.blank_share
        return share < 1 and self.effects.programming_error and self.program.chip is None

    def _holds_weight(self, number: int, segment: int) -> NDArray[np.bool_]:
        """Mask of the cells of an array that belong to the pair of some weight, [input lines, columns of cells]."""
        shape = self.program.target.array
        holds = np.zeros((shape.input_lines, shape.cell_columns), bool)
        for row in self._rows_in(number, segment):
            self._lay(holds, row, self._expand_ones(*self._laid_out(row)))
        return holds

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

    def _program_array(self, number: int, segment: int, converter: Converter) -> NDArray[Any]:
        levels, target = self.levels(number, segment), self.program.target
        if self._writes_again:
            return self._written_again(levels, number, segment, converter)
        if self._leaves_errors and cell_kernels() is not None:
            if not self._corrects_slices:
                return self._programmed_at_once(levels, number, segment, converter)
            if self._error_polynomials is not None:
                return self._slices_at_once(levels, number, segment, converter)
        _, stuck, aims_us, actual_us = self._by_formulas(levels, number, segment)
        measured = self.effects.programming_error and self.program.chip is not None
        state_us = actual_us if measured else aims_us
        aged_us = self._later_us(actual_us, state_us, stuck, number, segment)
        return in_units(levels, aged_us, converter, target)

    def _by_formulas(
        self, levels: NDArray[Any], number: int, segment: int
    ) -> tuple[ArraySlices, NDArray[np.bool_], Cells, Cells]:
        """Slices of an array, its stuck cells, goals and cells after writing; stuck ones are moved in ``levels``."""
        slices = self._slices(levels, number, segment)
        nominal_us, stuck = self._goals_us(levels, number)
        write = partial(self._written_us, nominal_us, stuck, number, segment)
        writes_slices = slices.several and self.effects.programming_error and self.program.chip is None
        aims_us = goals_us(slices, self.program.target.cell, write) if writes_slices else nominal_us
        return slices, stuck, aims_us, write(aims_us)

    def _written_again(
        self, levels: NDArray[np.uint8], number: int, segment: int, converter: Converter
    ) -> NDArray[Any]:
        """Cells of an array whose worst pairs were written again, in units."""
        target, seed = self.program.target, self._write_seed(segment)
        slices, stuck, aims_us, actual_us = self._by_formulas(levels, number, segment)
        aims_us, actual_us = aims_us.copy(), actual_us.copy()
        errors = self.effects.programming_error
        corrections = PairCorrections(target, stuck, aims_us, actual_us, number, seed, errors)
        corrections.correct(slices, self._mended(slices, number, segment))
        return in_units(levels, self._later_us(actual_us, aims_us, stuck, number, segment), converter, target)

    def _slices_at_once(
        self, levels: NDArray[np.uint8], number: int, segment: int, converter: Converter
    ) -> NDArray[Any]:
        """Cells of an array with slices that make up for the errors of others, in units."""
        target, polynomials = self.program.target, self._error_polynomials
        assert polynomials is not None
        slices = self._slices(levels, number, segment)
        if not slices.several:
            return self._programmed_at_once(levels, number, segment, converter)
        stuck = stick(levels, target, number, self.seed) if self.effects.stuck_cells else np.zeros(levels.shape, bool)
        blank = ~self._holds_weight(number, segment) if self._spares_blanks else None
        aims_us, actual_us = slices_written(
            slices, levels, stuck, blank, polynomials, target, number, self._write_seed(segment)
        )
        return in_units(levels, self._later_us(actual_us, aims_us, stuck, number, segment), converter, target)

    def _programmed_at_once(
        self, levels: NDArray[np.uint8], number: int, segment: int, converter: Converter
    ) -> NDArray[Any]:
        """Cells of an array whose goals are their levels, in units."""
        target, seed = self.program.target, self._write_seed(segment)
        blank = ~self._holds_weight(number, segment) if self._spares_blanks else None
        stays = not (self._ages or self.effects.dead_lines)
        shares = (target.faults.stuck_low_share, target.faults.stuck_high_share)
        if stays and self.effects.stuck_cells and some_work(shares):
            return programmed(levels, None, blank, self._error, target, converter, number, seed, self.seed)
        stuck = stick(levels, target, number, self.seed) if self.effects.stuck_cells else None
        if stays:
            return programmed(levels, stuck, blank, self._error, target, converter, number, seed)
        actual_us = programmed(levels, stuck, blank, self._error, target, None, number, seed)
        aims_us = goals_of_levels(levels, target)
        stuck = np.zeros(levels.shape, bool) if stuck is None else stuck
        return in_units(levels, self._later_us(actual_us, aims_us, stuck, number, segment), converter, target)

    def _later_us(
        self, actual_us: Cells, state_us: Cells, stuck: NDArray[np.bool_], number: int, segment: int
    ) -> Cells:
        """Cells as they are read: aged since they were written, and none on dead lines."""
        aged_us = actual_us
        if self._ages:
            aged_us = np.where(stuck, actual_us, self._aged_us(actual_us, state_us, number, self._write_seed(segment)))
        if self.effects.dead_lines:
            aged_us = aged_us * cells_on_working_lines(self.program.target, number, self.seed)
        return aged_us

    @cached_property
    def _ages(self) -> bool:
        """True if cells move after they were written."""
        return any(True for _ in self.effects.aging())

    @cached_property
    def _leaves_errors(self) -> bool:
        """True if writing leaves the error that the target gives, and no pulses are emulated."""
        writes = self.effects.programming_error and self.program.chip is None
        return writes and self.program.target.emulated_pulses is None

    @cached_property
    def _writes_again(self) -> bool:
        """True if pairs are read back and the worst are written again."""
        errs = self.effects.programming_error or self.effects.stuck_cells
        return errs and self.program.target.programming.write_again_share > 0 and self.program.chip is None

    @cached_property
    def _corrects_slices(self) -> bool:
        """True if any slice is written after the one above it was measured."""
        return any(layer.slices > 1 for layer in self.program.layers)

    @cached_property
    def _error_polynomials(self) -> tuple[Cells, Cells] | None:
        return polynomials_us(self.program.target)

    @cached_property
    def _error(self) -> ErrorByLevel:
        return ErrorByLevel.of(self.program.target)

    def _write_seed(self, segment: int) -> int:
        """Seed of what is drawn anew in each write; the chip's own seed for the first write of a chip without segments.

        Arrays that are written in segments are written anew anyway.
        """
        segments, writes = len(self.program.placement.segments), self.conditions.writes
        if segments:
            return seed_of_write(self.seed, self.pass_number * segments + segment)
        return seed_of_write(self.seed, writes) if writes else self.seed

    def _slices(self, levels: NDArray[Any], number: int, segment: int) -> ArraySlices:
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
            place[kept & ~self._holds_weight(number, segment)[:, 0::2]] = 0
        return ArraySlices(signed, place, base)

    def _mended(self, slices: ArraySlices, number: int, segment: int) -> NDArray[np.bool_]:
        """Pairs of tiles that are read back after writing, [input lines, pairs]; blank ones as far as they are written.

        Outside of tiles the base is 1.
        """
        written = self.program.target.programming.blank_share * slices.base >= 1
        return (slices.base > 1) & (written | self._holds_weight(number, segment)[:, 0::2])

    def _written_us(
        self, nominal_us: Cells, stuck: NDArray[np.bool_], number: int, segment: int, aims_us: Cells
    ) -> Cells:
        """Cells right after programming; ``nominal_us`` is what stuck ones hold."""
        target, write_seed = self.program.target, self._write_seed(segment)
        if not self.effects.programming_error:
            return nominal_us
        if self.program.chip is not None:
            measured: Cells = self.program.chip.conductances_us[number].astype(np.float64)
            return measured
        if target.emulated_pulses is not None:
            written = self._pulsed(nominal_us, stuck, number, write_seed, aims_us).cells_us
        else:
            written = with_programming_error(aims_us, target.programming, target.cell, number, write_seed)
        if self._spares_blanks:
            # One that makes up for the slice above is written.
            blank = ~self._holds_weight(number, segment) & (aims_us == nominal_us)
            share = target.programming.blank_share
            written = np.where(blank, nominal_us + share * (written - nominal_us), written)
        return np.where(stuck, nominal_us, written)

    def _pulsed(
        self, nominal_us: Cells, stuck: NDArray[np.bool_], number: int, write_seed: int, aims_us: Cells
    ) -> Written:
        """Cells of an array after its pulses; all are delivered at the lowest level, but those that are stuck."""
        spec, cell = self.program.target.write_verify, self.program.target.cell
        assert spec is not None
        start_us = np.where(stuck, nominal_us, cell.g_min_us)
        shares = step_shares(stuck, spec, number, self.seed)
        return write(start_us, aims_us, shares, spec, cell, cycles_of_array(number, write_seed))

    def writing(self) -> WriteReport | None:
        """Cost of writing all arrays once, pulse by pulse; None where no pulses are emulated.

        Cells of no weight are verified at the lowest level; stuck ones take all pulses until they are given up.
        """
        target, tiles = self.program.target, self.program.placement.tiles
        if target.emulated_pulses is None or not self.effects.programming_error or self.program.chip is not None:
            return None
        total = WriteReport()
        for number, segment in np.unique(np.stack([tiles.array, tiles.segment], axis=1), axis=0).tolist():
            levels = self.levels(number, segment)
            slices = self._slices(levels, number, segment)
            nominal_us, stuck = self._goals_us(levels, number)
            aims_us = goals_us(slices, target.cell, partial(self._written_us, nominal_us, stuck, number, segment))
            written = self._pulsed(nominal_us, stuck, number, self._write_seed(segment), aims_us)
            total += WriteReport.of(written.pulses, written.energy_j, written.failed)
        return total

    def _goals_us(self, levels: NDArray[Any], number: int) -> tuple[Cells, NDArray[np.bool_]]:
        """Goals of programming, stuck cells moved in ``levels`` too, and the mask of stuck cells."""
        target = self.program.target
        stuck = stick(levels, target, number, self.seed) if self.effects.stuck_cells else np.zeros(levels.shape, bool)
        cell = target.cell
        return cell.g_min_us + levels.astype(np.float64) * cell.level_step_us, stuck

    def _aged_us(self, cells_us: Cells, goals_us: Cells, number: int, write_seed: int) -> Cells:
        """Cells under the conditions of the chip since they were written."""
        array = WrittenArray(self.program.target, number, self.seed, write_seed, self.conditions, goals_us, cells_us)
        for effect in self.effects.aging():
            cells_us = effect.moved_us(cells_us, array)
        return cells_us
