"""Converters of finite resolution and range; :mod:`memcompile.hardware.converter` has their arithmetic."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from memcompile.hardware.conditions import Conditions
from memcompile.program.program import Program
from memcompile.runtime.effects.effect import Effect


class Adc(Effect):
    """Acts on all targets but those with continuous cells, whose converters are exact."""

    switch = "adc"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if sums are converted."""
        return not program.target.cell.continuous
