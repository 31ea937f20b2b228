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
from memcompile.target import CellSpec, Target, WriteVerifySpec

LEAST_STEP_SHARE = 0.05
"""No cell's mean step is below this share of the nominal one."""
_WHOLE_PULSE = 1e-9
"""A distance this little above a whole number of pulses is that number, rounded."""
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


@dataclass(frozen=True)
class WriteReport:
    """What closed-loop writes took: cells written (each time anew), pulses, and their energy in joules.

    Each write also takes a verify read before the first and after each pulse.
    """

    writes: int = 0
    pulses: int = 0
    pulse_energy_j: float = 0.0

    @property
    def verify_reads(self) -> int:
        """Reads that closed the loops."""
        return self.writes + self.pulses

    def __add__(self, other: WriteReport) -> WriteReport:
        """Both, one after the other."""
        energy_j = self.pulse_energy_j + other.pulse_energy_j
        return WriteReport(self.writes + other.writes, self.pulses + other.pulses, energy_j)

    @classmethod
    def of(cls, pulses: NDArray[np.int64], energy_j: Cells) -> WriteReport:
        """Sum over cells."""
        return cls(pulses.size, int(pulses.sum()), float(energy_j.sum()))

    def time_s(self, spec: WriteVerifySpec, chips: int) -> float:
        """Duration, in seconds, where the chips share the work evenly and are written at the same time."""
        total_ns = self.pulses * spec.pulse_ns + self.verify_reads * spec.verify_ns
        return total_ns * 1e-9 / (spec.cells_at_once * max(chips, 1))

    def energy_j(self, target: Target) -> float | None:
        """Energy of pulses and verify reads, in joules; None where the target prices no read.

        A verify read is a bit phase with one input and one output line.
        """
        if target.energy is None:
            return None
        return self.pulse_energy_j + self.verify_reads * target.energy.phase_pj(1, 1) * 1e-12


def nominal_pulses(start_us: Cells, goals_us: Cells, spec: WriteVerifySpec) -> tuple[NDArray[np.int64], Cells]:
    """Pulses of nominal size that bring cells from one conductance to another, both in microsiemens.

    Returns
    -------
    Per cell the smallest n with |goal - start| - n * step <= margin (``max_pulses`` at most), and the
    energy of these pulses, voltage^2 * g * duration each, in joules. That is what :func:`write`
    takes if steps do not vary; where they do, pulses of unlucky cells and those after an
    overshoot come on top.
    """
    rising = goals_us > start_us
    step = np.where(rising, spec.set_step_us, spec.reset_step_us)
    excess = np.abs(goals_us - start_us) - spec.margin_us
    pulses = np.clip(np.ceil(excess / step - _WHOLE_PULSE), 0, spec.max_pulses)
    voltage = np.where(rising, spec.set_voltage_v, spec.reset_voltage_v)
    # The k-th pulse meets start +- k * step: an arithmetic series.
    mean_us = start_us + np.where(rising, step, -step) * (pulses - 1) / 2
    return pulses.astype(np.int64), pulses * voltage**2 * mean_us * 1e-6 * spec.pulse_ns * 1e-9


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
