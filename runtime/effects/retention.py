"""Retention: the change of conductances with the logarithm of time."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Aging, WrittenArray
from memcompile.runtime.random_numbers import Purpose


class Retention(Aging):
    """Acts on targets with a section ``retention``, from its reference time on."""

    switch = "retention"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if the reference time has come."""
        spec = program.target.retention
        return spec is not None and conditions.time_s >= spec.reference_s

    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """G + mean(t) + sigma(t) z, never below 0 uS, with z drawn anew in each write.

        Filamentary cells move so: W. Wan et al. (Nature 608, 504, 2022) give the spread after a second, a day and two,
        D. F. Falcone et al. mean and spread of CMO/HfOx cells as straight lines in ln t. One number per cell decides
        its path, so later times continue earlier ones.
        """
        spec, time_s = array.target.retention, array.conditions.time_s
        if spec is None or time_s < spec.reference_s:
            return cells_us
        noise = draw(cells_us.shape, Purpose.RETENTION, array.number, array.write_seed)
        change = spec.mean_at_us(array.goals_us, time_s) + spec.sigma_at_us(array.goals_us, time_s) * noise
        return np.maximum(cells_us + change, 0.0)
