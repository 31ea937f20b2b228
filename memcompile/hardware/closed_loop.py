"""Closed-loop programming, pulse by pulse.

While a cell is more than the margin away from its goal it gets a SET pulse (if too low) or a RESET pulse
(if too high) and is read again; see :class:`memcompile.hardware.target.WriteVerifySpec` for the step of a pulse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import CellSpec, WriteVerifySpec

Cells = NDArray[np.float64]

LEAST_STEP_SHARE = 0.05
"""No cell's mean step is below this share of the nominal one, but that of a stuck cell."""
OVERSHOOT_SHARE = 1.25
"""Conductances end at this multiple of g_max."""

Cycles = Callable[[int, NDArray[np.int64]], Cells]
"""Standard Gaussian numbers of the n-th pulse of some cells, given by their flat places."""


@dataclass(frozen=True, eq=False)
class Written:
    """Cells after programming, all in the shape of their goals.

    ``energy_j`` is the sum over a cell's pulses of voltage^2 * conductance before the pulse *
    duration, in joules; ``failed`` cells still missed the margin after the last pulse.
    """

    cells_us: Cells
    pulses: NDArray[np.int64]
    energy_j: Cells
    failed: NDArray[np.bool_]


def write(
    start_us: Cells, goals_us: Cells, shares: Cells, spec: WriteVerifySpec, cell: CellSpec, cycles: Cycles
) -> Written:
    """Program cells from where they are to their goals, both in microsiemens and of one shape.

    ``shares`` are the mean steps of the cells as shares of the nominal one; 0 for a stuck cell.
    """
    goals, share, cells = goals_us.ravel(), shares.ravel(), start_us.astype(np.float64).ravel()
    pulses, energy = np.zeros(goals.shape, np.int64), np.zeros(goals.shape)
    busy = np.flatnonzero(np.abs(cells - goals) > spec.margin_us)
    for pulse in range(spec.max_pulses):
        if not len(busy):
            break
        now = cells[busy]
        rising = now < goals[busy]
        voltage = np.where(rising, spec.set_voltage_v, spec.reset_voltage_v)
        energy[busy] += voltage**2 * now * 1e-6 * spec.pulse_ns * 1e-9
        step = np.where(rising, spec.set_step_us, -spec.reset_step_us) * share[busy]
        moved = now + step * (1.0 + spec.cycle_sigma_share * cycles(pulse, busy))
        cells[busy] = np.clip(moved, 0.0, OVERSHOOT_SHARE * cell.g_max_us)
        pulses[busy] += 1
        busy = busy[np.abs(cells[busy] - goals[busy]) > spec.margin_us]
    failed = np.zeros(goals.shape, np.bool_)
    failed[busy] = True
    shape = goals_us.shape
    return Written(cells.reshape(shape), pulses.reshape(shape), energy.reshape(shape), failed.reshape(shape))
