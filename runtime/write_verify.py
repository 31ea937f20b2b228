"""Closed-loop programming, pulse by pulse.

Each cell starts at g_min. While it is more than the margin away from its goal it gets a SET pulse
(if too low) or a RESET pulse (if too high) and is read again; see
:class:`memcompile.target.WriteVerifySpec` for the step of a pulse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.cells import Cells, draw
from memcompile.runtime.random_numbers import Purpose, gaussians, stream
from memcompile.target import CellSpec, WriteVerifySpec

LEAST_STEP_SHARE = 0.05
"""No cell's mean step is below this share of the nominal one."""
OVERSHOOT_SHARE = 1.25
"""Conductances end at this multiple of g_max."""


@dataclass(frozen=True, eq=False)
class Written:
    """Cells of one array after programming, each [input lines, output lines].

    ``energy_j`` is the sum over a cell's pulses of voltage^2 * conductance before the pulse *
    duration, in joules; ``failed`` cells still missed the margin after the last pulse.
    """

    cells_us: Cells
    pulses: NDArray[np.int64]
    energy_j: Cells
    failed: NDArray[np.bool_]


def write(
    goals_us: Cells, spec: WriteVerifySpec, cell: CellSpec, array: int, seed: int, write_seed: int | None = None
) -> Written:
    """Program the cells of one array to goals, in microsiemens.

    ``seed`` decides the mean step of each cell, ``write_seed`` (``seed`` if None) the pulses of this write.
    """
    write_seed = seed if write_seed is None else write_seed
    goals = goals_us.ravel()
    device = 1.0 + spec.device_sigma_share * draw(goals.shape, Purpose.WRITE_DEVICE, array, seed)
    device = np.maximum(device, LEAST_STEP_SHARE)
    cells = np.full(goals.shape, cell.g_min_us)
    pulses = np.zeros(goals.shape, np.int64)
    energy = np.zeros(goals.shape)
    for pulse in range(spec.max_pulses):
        busy = np.flatnonzero(np.abs(cells - goals) > spec.margin_us)
        if not len(busy):
            break
        rising = cells[busy] < goals[busy]
        voltage = np.where(rising, spec.set_voltage_v, spec.reset_voltage_v)
        energy[busy] += voltage**2 * cells[busy] * 1e-6 * spec.pulse_ns * 1e-9
        cycle = gaussians(1, array, pulse, stream(Purpose.WRITE_CYCLE, 0), write_seed, busy)[..., 0].astype(np.float64)
        step = np.where(rising, spec.set_step_us, -spec.reset_step_us) * device[busy]
        moved = cells[busy] + step * (1.0 + spec.cycle_sigma_share * cycle)
        cells[busy] = np.clip(moved, 0.0, OVERSHOOT_SHARE * cell.g_max_us)
        pulses[busy] += 1
    shape = goals_us.shape
    failed = np.abs(cells - goals) > spec.margin_us
    return Written(cells.reshape(shape), pulses.reshape(shape), energy.reshape(shape), failed.reshape(shape))
