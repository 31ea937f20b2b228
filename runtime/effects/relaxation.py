"""Relaxation: the spread that conductances regain after closed-loop writing."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import CellSpec, RelaxationSpec
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Aging, WrittenArray
from memcompile.runtime.random_numbers import Purpose


class Relaxation(Aging):
    """Acts on targets with a section ``relaxation``, from the first moment after writing."""

    switch = "relaxation"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if any time has passed."""
        return program.target.relaxation is not None and conditions.time_s > 0

    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """Drawn anew in each write."""
        spec, cell, time_s = array.target.relaxation, array.target.cell, array.conditions.time_s
        return cells_us if spec is None else relaxed(cells_us, spec, cell, time_s, array.number, array.write_seed)


def relaxed(g_us: Cells, spec: RelaxationSpec, cell: CellSpec, time_s: float, array: int, seed: int) -> Cells:
    """G + N(0, sigma^2 (1 - exp(-t / time_constant))), never below 0 uS.

    The spread that write-verified ReRAM cells regain within seconds to minutes (Zhao et al., IEDM
    2017; Wan et al. 2022); sigma is a number, or a polynomial of x = g / g_max where the target gives one.
    One number per cell decides its path, so later times continue earlier ones.
    """
    final = spec.final_sigma_at_us(g_us, cell.reference_us)
    sigma = final * np.sqrt(-np.expm1(-time_s / spec.time_constant_s))
    moved: Cells = np.maximum(g_us + sigma * draw(g_us.shape, Purpose.RELAXATION, array, seed), 0.0)
    return moved
