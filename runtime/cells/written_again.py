"""Cells of one array whose worst pairs are written again, see :mod:`memcompile.hardware.pair_corrections`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.pair_corrections import MOST_CORRECTIONS, accepted_errors, correction_goals_us
from memcompile.hardware.target import Target
from memcompile.runtime.cells.slice_goals import ArraySlices
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.effects.programming_error import programmed_us
from memcompile.runtime.kernels.cell_numbers import gaussians
from memcompile.runtime.random_numbers import Purpose, stream


@dataclass(eq=False)
class PairCorrections:
    """Corrections of the pairs of an array; arrays of cells are [input lines, columns of cells].

    Parameters
    ----------
    stuck
        Cells that do not move.
    aims_us, cells_us
        Goals of the last write of each cell, and what it left, in microsiemens; changed in place.
    array, write_seed
        Decide the errors of writes.
    errors
        A write leaves an error.
    """

    target: Target
    stuck: NDArray[np.bool_]
    aims_us: Cells
    cells_us: Cells
    array: int
    write_seed: int
    errors: bool
    rounds: int = 0

    def correct(self, slices: ArraySlices, mended: NDArray[np.bool_]) -> None:
        """Write the worst pairs again until their errors are accepted or no more tries are left.

        The lowest slice of a weight makes up for what the others hold.

        Parameters
        ----------
        slices
            Slices of the array with the levels that the program asks for.
        mended
            Pairs that are read back, [input lines, pairs].
        """
        wanted, base = slices.levels.copy(), slices.base.astype(np.float64)
        for place in range(int(slices.place.max(initial=0)), -1, -1):
            places = np.flatnonzero(mended & (slices.place == place))
            below = None if place == 0 else wanted.reshape(-1)[places - 1]
            levels = wanted.reshape(-1)[places]
            self._correct(places, levels, accepted_errors(levels, below, base.reshape(-1)[places], self.target))
            held = (self.cells_us[:, 0::2] - self.cells_us[:, 1::2]) / self.target.cell.level_step_us
            left = np.where(slices.place == place, (wanted - held) * base, 0.0)
            wanted[:, :-1] += left[:, 1:]

    def _correct(self, places: NDArray[np.int64], levels: Cells, accepted: tuple[Cells, Cells]) -> None:
        """Correct pairs, given by their flat places, of one slice."""
        step_us, flat_us = self.target.cell.level_step_us, self.cells_us.reshape(-1)
        for turn in range(MOST_CORRECTIONS):
            plus_us, minus_us = flat_us[2 * places], flat_us[2 * places + 1]
            error = (plus_us - minus_us) / step_us - levels
            wrong = (error < accepted[0]) | (error > accepted[1])
            if not wrong.any():
                return
            places, levels, accepted = places[wrong], levels[wrong], (accepted[0][wrong], accepted[1][wrong])
            self._write(places, levels * step_us, plus_us[wrong], minus_us[wrong], minus_first=turn % 2 == 1)

    def _write(
        self, places: NDArray[np.int64], pairs_us: Cells, plus_us: Cells, minus_us: Cells, *, minus_first: bool
    ) -> None:
        """Write one cell of each pair against the other one."""
        cell, spec, free = self.target.cell, self.target.programming, ~self.stuck.reshape(-1)
        moves = free[2 * places], free[2 * places + 1]
        by_minus, goals_us = correction_goals_us((plus_us, minus_us), pairs_us, moves, cell, minus_first=minus_first)
        goals_us = np.clip(goals_us, cell.g_min_us, cell.g_max_us)
        written_us = programmed_us(goals_us, spec, cell, self._drawn(places)) if self.errors else goals_us
        self.rounds += 1
        cells = 2 * places + by_minus
        moved = free[cells]
        self.cells_us.reshape(-1)[cells[moved]] = written_us[moved]
        self.aims_us.reshape(-1)[cells[moved]] = goals_us[moved]

    def _drawn(self, places: NDArray[np.int64]) -> Cells:
        """Standard Gaussian numbers of some pairs, of the round at hand."""
        pairs, words = self.stuck.size // 2, stream(Purpose.CORRECTION, 0)
        return gaussians(pairs, self.array, self.rounds, words, self.write_seed)[places].astype(np.float64)
