"""Errors of input drivers: each line gets a voltage of its own for the same digit."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Effect
from memcompile.runtime.random_numbers import Purpose


class DacError(Effect):
    """Acts where the target gives a size."""

    switch = "dac_error"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if the size is above zero."""
        return program.target.input.dac_sigma_share > 0


def line_voltages(target: Target, array: int, seed: int) -> Cells:
    """Voltage of a one on each input line in read voltages, 1 + N(0, dac_sigma), [input lines]."""
    return 1.0 + target.input.dac_sigma_share * draw((target.array.input_lines,), Purpose.DAC, array, seed)
