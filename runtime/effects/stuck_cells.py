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
from memcompile.runtime.kernels.cell_numbers import HIGH, LOW, stuck_marks
from memcompile.runtime.random_numbers import Purpose, stream


class StuckCells(Effect):
    """Acts where the target has a share of such cells."""

    switch = "stuck_cells"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a share is above zero."""
        faults = program.target.faults
        return faults.stuck_low_share + faults.stuck_high_share > 0


def stick(levels: NDArray[Any], target: Target, array: int, seed: int) -> NDArray[np.bool_]:
    """Set stuck cells of an array to the lowest or highest level in place; returns where they are."""
    bytes_ = levels.dtype == np.uint8 and levels.flags.c_contiguous
    marks = _marks(levels.reshape(-1) if bytes_ else levels.size, target, array, seed).reshape(levels.shape)
    stuck: NDArray[np.bool_] = marks != 0
    if not bytes_:
        levels[stuck] = np.where(marks[stuck] == LOW, 0, target.signed_levels)
    return stuck


def stuck_places(count: int, target: Target, array: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cells of an array that are stuck at the lowest, and at the highest level, flat."""
    marks = _marks(count, target, array, seed)
    return (marks & LOW) != 0, (marks & HIGH) != 0


def _marks(cells: NDArray[np.uint8] | int, target: Target, array: int, seed: int) -> NDArray[np.uint8]:
    shares = (target.faults.stuck_low_share, target.faults.stuck_high_share)
    return stuck_marks(cells, shares, target.signed_levels, array, stream(Purpose.STUCK, 0), seed)
