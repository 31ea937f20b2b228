"""Goals of slices that are written one after the other: each makes up for the measured error of the one above.

The most significant slice is written first. The levels that its pairs really hold are measured, and the difference,
times the base, is added to the goal of the next slice, as far as its range reaches. So the error of the last slice
remains instead of that of the first. :mod:`memcompile.runtime.training.transfer` does the same to the cells of a whole
chip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import CellSpec
from memcompile.runtime.effects.cells import Cells


@dataclass(frozen=True, eq=False)
class ArraySlices:
    """Levels and slices of the pairs of one array, all [input lines, pairs].

    ``levels`` are signed, ``place`` is the slice that a pair holds, 0 for the least significant and for pairs that
    leave nothing to another, and ``base`` the value of a step in steps of the next slice, the pair to the left.
    """

    levels: Cells
    place: NDArray[np.int8]
    base: NDArray[np.int64]

    @property
    def several(self) -> bool:
        """True if there is a slice below another."""
        return bool(self.place.any())


def goals_us(slices: ArraySlices, cell: CellSpec, write: Callable[[Cells], Cells]) -> Cells:
    """Conductances to aim at, [input lines, columns of cells], two neighbouring columns a pair.

    ``write`` maps goals to the conductances that writing leaves. What it draws for a cell must not depend on the goals
    of others: the goals of upper slices are final when lower ones are found.
    """
    levels = slices.levels.copy()
    for place in range(int(slices.place.max(initial=0)), 0, -1):
        written_us = write(_of_pairs(levels, cell))
        held = (written_us[:, 0::2] - written_us[:, 1::2]) / cell.level_step_us
        error = np.where(slices.place == place, (levels - held) * slices.base, 0.0)
        levels[:, :-1] += error[:, 1:]
    return _of_pairs(levels, cell)


def _of_pairs(levels: Cells, cell: CellSpec) -> Cells:
    """Both cells of each pair: one above g_min, the other at it."""
    signed = np.stack([levels, -levels], axis=-1).reshape(len(levels), -1)
    return cell.g_min_us + np.clip(signed, 0.0, cell.levels - 1) * cell.level_step_us
