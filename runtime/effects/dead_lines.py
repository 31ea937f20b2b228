"""Dead lines: input lines that are never driven, and output lines that are never sensed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.effect import Effect
from memcompile.runtime.random_numbers import Purpose, stream, uniforms


class DeadLines(Effect):
    """Acts where the target has a share of such lines."""

    switch = "dead_lines"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a share is above zero."""
        faults = program.target.faults
        return faults.dead_input_line_share + faults.dead_output_line_share > 0


def cells_on_working_lines(target: Target, array: int, seed: int) -> NDArray[np.bool_]:
    """Mask of the cells of an array that sit on two working lines, [input lines, columns of cells]."""
    shape, faults = target.array, target.faults
    inputs = uniforms(shape.input_lines, array, 0, stream(Purpose.DEAD_INPUT, 0), seed)
    outputs = uniforms(shape.output_lines, array, 0, stream(Purpose.DEAD_OUTPUT, 0), seed)
    alive: NDArray[np.bool_] = (inputs >= faults.dead_input_line_share)[:, None] & (
        np.repeat(outputs, shape.cells_per_crossing) >= faults.dead_output_line_share
    )
    return alive
