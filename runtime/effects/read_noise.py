"""Read noise: the conductance of a cell fluctuates while it is read."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import ReadNoiseSpec
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.effects.effect import Effect


class ReadNoise(Effect):
    """Acts where the target gives a size.

    The noise of a line is added to its current in :mod:`memcompile.runtime.executors.conversions`.
    """

    switch = "read_noise"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a size is above zero."""
        return program.target.read_noise.acts


def read_sigma(cells: Cells, spec: ReadNoiseSpec, unit_us: float) -> Cells:
    """Standard deviation of each cell's noise, sqrt(sigma^2 + (share g)^2) or a table; all in units of ``unit_us``."""
    if spec.sigma_table_us:
        return spec.sigma_at_us(cells * unit_us) / unit_us
    return np.hypot(spec.sigma_us / unit_us, spec.proportional_share * cells)
