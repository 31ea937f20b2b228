"""Errors of converters: each has a gain and an offset of its own, which the lines that share it have in common."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Effect
from memcompile.runtime.random_numbers import Purpose


class AdcError(Effect):
    """Acts where converters do and the target gives a size."""

    switch = "adc_error"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a size is above zero."""
        adc = program.target.adc
        return "adc" in on and adc.gain_sigma_share + adc.offset_sigma_codes > 0


def gain_errors(target: Target, array: int, seed: int) -> Cells:
    """Gain of each output line's converter less 1, N(0, gain_sigma), [output lines]."""
    return target.adc.gain_sigma_share * _of_lines(target, Purpose.ADC_GAIN, array, seed)


def offsets_codes(target: Target, array: int, seed: int) -> Cells:
    """Offset of each output line's converter, N(0, offset_sigma), in codes, [output lines]."""
    return target.adc.offset_sigma_codes * _of_lines(target, Purpose.ADC_OFFSET, array, seed)


def _of_lines(target: Target, purpose: Purpose, array: int, seed: int) -> Cells:
    """Draw a standard normal number for each converter, [output lines]."""
    count = target.converters
    return draw((count,), purpose, array, seed)[np.arange(target.array.output_lines) % count]
