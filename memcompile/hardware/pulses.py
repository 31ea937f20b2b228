"""Cost of closed-loop writing: pulses of nominal size, verify reads, time and energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import CellSpec, Target, WriteVerifySpec

Conductances = NDArray[np.float64]
_WHOLE_PULSE = 1e-9
"""A distance this little above a whole number of pulses is that number, rounded."""


@dataclass(frozen=True)
class WriteReport:
    """Counts of closed-loop writes: cells written (each time anew), pulses, and their energy in joules.

    Each write also takes a verify read before the first and after each pulse. ``failures`` are
    cells that still missed the margin after the last pulse; None where pulses are of nominal size.
    """

    writes: int = 0
    pulses: int = 0
    pulse_energy_j: float = 0.0
    failures: int | None = None

    @property
    def verify_reads(self) -> int:
        """Verify reads of all writes."""
        return self.writes + self.pulses

    def __add__(self, other: WriteReport) -> WriteReport:
        """Sum of two reports."""
        energy_j = self.pulse_energy_j + other.pulse_energy_j
        known = [each.failures for each in (self, other) if each.failures is not None]
        failures = sum(known) if known else None
        return WriteReport(self.writes + other.writes, self.pulses + other.pulses, energy_j, failures)

    @classmethod
    def of(
        cls, pulses: NDArray[np.int64], energy_j: Conductances, failed: NDArray[np.bool_] | None = None
    ) -> WriteReport:
        """Sum over cells."""
        failures = None if failed is None else int(failed.sum())
        return cls(pulses.size, int(pulses.sum()), float(energy_j.sum()), failures)

    def time_s(self, spec: WriteVerifySpec, chips: int) -> float:
        """Duration, in seconds, where the chips share the work evenly and are written at the same time."""
        total_ns = self.pulses * spec.pulse_ns + self.verify_reads * spec.verify_ns
        return total_ns * 1e-9 / (spec.cells_at_once * max(chips, 1))

    def energy_j(self, target: Target) -> float | None:
        """Energy of pulses and verify reads, in joules; None where the target prices no read.

        A verify read is a bit phase with one input and one output line.
        """
        energy = target.scaled_energy
        if energy is None:
            return None
        return self.pulse_energy_j + self.verify_reads * energy.phase_pj(1, 1) * 1e-12


def nominal_pulses(
    start_us: Conductances, goals_us: Conductances, spec: WriteVerifySpec
) -> tuple[NDArray[np.int64], Conductances]:
    """Pulses of nominal size that bring cells from one conductance to another, both in microsiemens.

    Returns
    -------
    Per cell the smallest n with |goal - start| - n * step <= margin (``max_pulses`` at most), and the
    energy of these pulses, voltage^2 * g * duration each, in joules. That is what write-verify
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


@dataclass(frozen=True, eq=False)
class LevelWrites:
    """Cost of writing one cell from the lowest level to each level, all [levels].

    ``writes`` counts closed loops, ``pulses`` are of nominal size, ``energy_j`` is that of the
    pulses, in joules.
    """

    writes: NDArray[np.int64]
    pulses: NDArray[np.int64]
    energy_j: Conductances

    @classmethod
    def once(cls, cell: CellSpec, spec: WriteVerifySpec) -> LevelWrites:
        """Cost of cells that are delivered at the lowest level and written once."""
        goals_us, lowest_us = _levels_us(cell)
        pulses, energy_j = nominal_pulses(lowest_us, goals_us, spec)
        return cls(np.ones(cell.levels, np.int64), pulses, energy_j)

    @classmethod
    def and_back(cls, cell: CellSpec, spec: WriteVerifySpec) -> LevelWrites:
        """Cost of cells that are written, and brought back to the lowest level before something else is written there.

        A cell at the lowest level is verified once and needs no way back.
        """
        goals_us, lowest_us = _levels_us(cell)
        there, back = cls.once(cell, spec), nominal_pulses(goals_us, lowest_us, spec)
        writes = there.writes + (np.arange(cell.levels) > 0)
        return cls(writes, there.pulses + back[0], there.energy_j + back[1])

    def time_ns(self, spec: WriteVerifySpec) -> Conductances:
        """Duration per cell and level, in nanoseconds: a verify read before the first and after each pulse."""
        return self.pulses * spec.pulse_ns + (self.writes + self.pulses) * spec.verify_ns

    def report(self, cells: NDArray[np.int64]) -> WriteReport:
        """Cost of writing so many cells of each level, [levels]."""
        return WriteReport(int(cells @ self.writes), int(cells @ self.pulses), float(cells @ self.energy_j))


def _levels_us(cell: CellSpec) -> tuple[Conductances, Conductances]:
    """Conductance of each level, and as often that of the lowest, in microsiemens."""
    goals_us = cell.g_min_us + np.arange(cell.levels, dtype=np.float64) * cell.level_step_us
    return goals_us, np.full(cell.levels, cell.g_min_us)
