"""Arrays as they are written and as they have aged since.

Errors are drawn per physical array from (seed, array number), so they depend neither on the order of work nor on which
tiles an array holds. Cells that no tile uses sit at g_min.

A network in segments is written once a *pass*, that is for each batch of images: segment s of n in pass p is write
number p * n + s. What writing decides (programming error, relaxation) is drawn anew in each write; faults, drift
exponents and the mean step of a pulse belong to the cell and stay.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.closed_loop import Written, write
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.converter import Converter
from memcompile.hardware.pulses import WriteReport
from memcompile.program.program import Program
from memcompile.runtime.cells.array_contents import ArrayContents
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
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.effects.dead_lines import cells_on_working_lines
from memcompile.runtime.effects.effect import WrittenArray
from memcompile.runtime.effects.programming_error import with_programming_error
from memcompile.runtime.effects.stuck_cells import stick
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.effects.write_verify import cycles_of_array, step_shares
from memcompile.runtime.kernels.cell_numbers import some_work
from memcompile.runtime.kernels.compiled import cell_kernels
from memcompile.runtime.random_numbers import seed_of_write

RECENT_BYTES = 1 << 26
"""Memory for the arrays that were used last, whose tiles follow each other; others are programmed anew when used."""


class ProgrammedArrays:
    """Conductances of the arrays of one chip, as they are written in one pass and read under some conditions."""

    def __init__(
        self, program: Program, seed: int, effects: Effects, conditions: Conditions = NEW, pass_number: int = 0
    ) -> None:
        self.program = program
        self.contents = ArrayContents(program)
        self.seed = seed
        self.effects = effects
        self.conditions = conditions
        self.pass_number = pass_number
        self._recent = RecentArrays(RECENT_BYTES)

    def array(self, number: int, segment: int, converter: Converter) -> NDArray[Any]:
        """Conductances of one array in a segment, [input lines, columns of cells], in units of a converter."""
        return self._recent.get((number, segment, converter), lambda: self._program_array(number, segment, converter))

    def writing(self) -> WriteReport | None:
        """Cost of writing all arrays once, pulse by pulse; None where no pulses are emulated.

        Cells of no weight are verified at the lowest level; stuck ones take all pulses until they are given up.
        """
        target, tiles = self.program.target, self.program.placement.tiles
        if target.emulated_pulses is None or not self.effects.programming_error or self.program.chip is not None:
            return None
        total = WriteReport()
        for number, segment in np.unique(np.stack([tiles.array, tiles.segment], axis=1), axis=0).tolist():
            levels = self.contents.levels(number, segment)
            slices = self.contents.slices(levels, number, segment)
            nominal_us, stuck = self._goals_us(levels, number)
            aims_us = goals_us(slices, target.cell, partial(self._written_us, nominal_us, stuck, number, segment))
            written = self._pulsed(nominal_us, stuck, number, self._write_seed(segment), aims_us)
            total += WriteReport.of(written.pulses, written.energy_j, written.failed)
        return total

    def _program_array(self, number: int, segment: int, converter: Converter) -> NDArray[Any]:
        levels, target = self.contents.levels(number, segment), self.program.target
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
        slices = self.contents.slices(levels, number, segment)
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
        corrections.correct(slices, self.contents.mended(slices, number, segment))
        return in_units(levels, self._later_us(actual_us, aims_us, stuck, number, segment), converter, target)

    def _slices_at_once(
        self, levels: NDArray[np.uint8], number: int, segment: int, converter: Converter
    ) -> NDArray[Any]:
        """Cells of an array with slices that make up for the errors of others, in units."""
        target, polynomials = self.program.target, self._error_polynomials
        assert polynomials is not None
        slices = self.contents.slices(levels, number, segment)
        if not slices.several:
            return self._programmed_at_once(levels, number, segment, converter)
        stuck = stick(levels, target, number, self.seed) if self.effects.stuck_cells else np.zeros(levels.shape, bool)
        blank = ~self.contents.holds_weight(number, segment) if self._spares_blanks else None
        aims_us, actual_us = slices_written(
            slices, levels, stuck, blank, polynomials, target, number, self._write_seed(segment)
        )
        return in_units(levels, self._later_us(actual_us, aims_us, stuck, number, segment), converter, target)

    def _programmed_at_once(
        self, levels: NDArray[np.uint8], number: int, segment: int, converter: Converter
    ) -> NDArray[Any]:
        """Cells of an array whose goals are their levels, in units."""
        target, seed = self.program.target, self._write_seed(segment)
        blank = ~self.contents.holds_weight(number, segment) if self._spares_blanks else None
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

    @property
    def _spares_blanks(self) -> bool:
        """True if cells that hold no weight have a smaller error; that of a transferred chip is measured."""
        share = self.program.target.programming.blank_share
        return share < 1 and self.effects.programming_error and self.program.chip is None

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
            blank = ~self.contents.holds_weight(number, segment) & (aims_us == nominal_us)
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
