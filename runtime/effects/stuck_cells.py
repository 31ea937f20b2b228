"""Stuck cells: a share of the cells stays at the lowest or the highest level, whatever is written."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.effect import Effect
from memcompile.runtime.random_numbers import Purpose, stream, uniforms


class StuckCells(Effect):
    """Acts where the target has a share of such cells."""

    switch = "stuck_cells"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a share is above zero."""
        faults = program.target.faults
        return faults.stuck_low_share + faults.stuck_high_share > 0


def stick(levels: NDArray[Any], target: Target, array: int, seed: int) -> NDArray[np.bool_]:
    """Set stuck cells of an array to the lowest or highest level in place; returns where they are."""
    faults = target.faults
    chance = uniforms(levels.size, array, 0, stream(Purpose.STUCK, 0), seed).reshape(levels.shape)
    low, high = chance < faults.stuck_low_share, chance >= 1 - faults.stuck_high_share
    levels[low] = 0
    levels[high] = target.signed_levels
    stuck: NDArray[np.bool_] = low | high
    return stuck
