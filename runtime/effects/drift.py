"""Drift: the slow change of conductances with time, by a power law."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import DriftSpec
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Aging, WrittenArray
from memcompile.runtime.random_numbers import Purpose


class Drift(Aging):
    """Acts on targets with a section ``drift``, from its reference time on."""

    switch = "drift"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if the reference time is over."""
        spec = program.target.drift
        return spec is not None and conditions.time_s > spec.reference_s

    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """Exponents belong to the cell; their distribution may depend on what is written to it."""
        spec = array.target.drift
        if spec is None:
            return cells_us
        return drifted(cells_us, array.goals_us, spec, array.conditions.time_s, array.number, array.seed)


def drifted(g_us: Cells, goals_us: Cells, spec: DriftSpec, time_s: float, array: int, seed: int) -> Cells:
    """G (t / t0)^-nu for t > t0, with nu ~ N(mean, sigma) per cell (Ielmini et al., IEEE TED 54, 308, 2007).

    In a table nu = |N(mean, sigma)| depends on the conductance that a cell was written to, as measured on phase-change
    memory by Nandakumar et al. (ICECS 2019) and Joshi et al. (Nature Communications 11, 2473, 2020): cells of low
    conductance drift more.
    """
    if time_s <= spec.reference_s:
        return g_us
    noise = draw(g_us.shape, Purpose.DRIFT, array, seed)
    exponent = spec.mean_at(goals_us) + spec.sigma_at(goals_us) * noise
    if spec.tabulated:
        exponent = np.abs(exponent)
    factor: Cells = (time_s / spec.reference_s) ** -exponent
    return g_us * factor
