"""Programming error: what closed-loop writing leaves between a cell's goal and its conductance."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import CellSpec, ProgrammingSpec
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Effect
from memcompile.runtime.random_numbers import Purpose


class ProgrammingError(Effect):
    """Acts where the target gives an error, emulates pulses, or the chip's cells were measured."""

    switch = "programming_error"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if written cells differ from their goals."""
        target = program.target
        return bool(program.chip is not None or target.emulated_pulses or target.programming.acts)


def programmed_us(goals_us: Cells, spec: ProgrammingSpec, cell: CellSpec, noise: Cells) -> Cells:
    """Cells written to some goals: g + mean(g) + sigma(g) * noise, never below 0 uS; ``noise`` is standard Gaussian.

    sigma(g) is sqrt(sigma^2 + (share g)^2), a table, or a polynomial max(0, sum_i c_i x^i) of x = g / g_max, such as
    the published ReRAM fit (Wan et al., Nature 608, 504, 2022; used by CrossSim and aihwkit), whose sigma one second
    after programming is 0.348 + 16.03 x - 43.853 x^2 + 45.393 x^3 - 16.815 x^4 for g_max = 40 uS.
    A mean that depends on the state is what writing with a lopsided tolerance leaves, and what cells have lost or
    gained between writing and the measurement that the target's figures are from.
    """
    error = spec.sigma_at_us(goals_us, cell.reference_us) * noise + spec.mean_at_us(goals_us, cell.reference_us)
    return np.maximum(goals_us + error, 0.0)


def with_programming_error(g_us: Cells, spec: ProgrammingSpec, cell: CellSpec, array: int, seed: int) -> Cells:
    """Cells of an array right after they were written to ``g_us``."""
    return programmed_us(g_us, spec, cell, draw(g_us.shape, Purpose.PROGRAMMING, array, seed))
