"""Closed-loop programming of emulated cells: what belongs to a cell, and what is drawn for each pulse.

:mod:`memcompile.hardware.closed_loop` has the loop itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.closed_loop import LEAST_STEP_SHARE, Cycles
from memcompile.hardware.target import WriteVerifySpec
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.kernels.cell_numbers import gaussians
from memcompile.runtime.random_numbers import Purpose, stream


def step_shares(stuck: NDArray[np.bool_], spec: WriteVerifySpec, array: int, seed: int) -> Cells:
    """Mean step of each cell of an array as a share of the nominal one; 0 for stuck cells, which no pulse moves."""
    varied = 1.0 + spec.device_sigma_share * draw(stuck.shape, Purpose.WRITE_DEVICE, array, seed)
    return np.where(stuck, 0.0, np.maximum(varied, LEAST_STEP_SHARE))


def cycles_of_array(array: int, write_seed: int) -> Cycles:
    """The pulses of one array, written as a whole."""
    return lambda pulse, cells: _cycles(array, pulse, 0, write_seed, cells)


def cycles_of_cells(numbers: NDArray[np.int64], write_seed: int) -> Cycles:
    """The pulses of some cells of a chip, given by their numbers on it."""
    return lambda pulse, cells: _cycles(pulse, 0, 1, write_seed, numbers[cells])


def _cycles(c1: int, c2: int, number: int, write_seed: int, first: NDArray[np.int64]) -> Cells:
    drawn = gaussians(1, c1, c2, stream(Purpose.WRITE_CYCLE, number), write_seed, first)
    return drawn[..., 0].astype(np.float64)
