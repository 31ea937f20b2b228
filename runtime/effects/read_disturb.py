"""Read disturb: each read shifts a cell a little, in the direction of the read voltage."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import CellSpec, ReadDisturbSpec
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Aging, WrittenArray
from memcompile.runtime.random_numbers import Purpose


class ReadDisturb(Aging):
    """Acts on targets with a section ``read_disturb``, from the first read after writing."""

    switch = "read_disturb"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if cells were read."""
        return program.target.read_disturb is not None and conditions.reads > 0

    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """Conductances after the reads of the array; the shift belongs to the cell, whatever is written to it."""
        spec, cell, reads = array.target.read_disturb, array.target.cell, array.conditions.reads
        return cells_us if spec is None else disturbed(cells_us, spec, cell, reads, array.number, array.seed)


def disturbed(g_us: Cells, spec: ReadDisturbSpec, cell: CellSpec, reads: float, array: int, seed: int) -> Cells:
    """G + reads / 10^6 * N(shift, sigma), one number a cell, between 0 uS and g_max, or where the cell was beyond it.

    Linear in the number of reads, as what a weak stress does is while it is small against the window.
    """
    per_million = spec.shift_us + spec.sigma_us * draw(g_us.shape, Purpose.READ_DISTURB, array, seed)
    moved: Cells = np.clip(g_us + reads / 1e6 * per_million, 0.0, np.maximum(g_us, cell.g_max_us))
    return moved
