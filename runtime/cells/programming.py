"""Programming of one array in one compiled pass over its cells, with the bits of the formulas of the effects.

Goals are those of levels, so that what the formulas give for each level is worked out once, in NumPy, and looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.hardware.target import Target
from memcompile.runtime.cells.slice_goals import ArraySlices
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.kernels.cell_numbers import filled, gaussians, stuck_words, whole_blocks
from memcompile.runtime.kernels.compiled import cell_kernels
from memcompile.runtime.random_numbers import MASK, Purpose, stream


@dataclass(frozen=True, eq=False)
class ErrorByLevel:
    """Standard deviation and mean of the programming error of each level, in microsiemens; [1] where all are alike."""

    sigma_us: Cells
    mean_us: Cells

    @classmethod
    def of(cls, target: Target) -> ErrorByLevel:
        """The error of a target's cells."""
        goals_us = goals_of_levels(np.arange(target.signed_levels + 1), target)
        reference_us = target.cell.reference_us
        sigma_us = target.programming.sigma_at_us(goals_us, reference_us)
        mean_us = target.programming.mean_at_us(goals_us, reference_us)
        if len({*zip(sigma_us.tolist(), mean_us.tolist(), strict=True)}) == 1:
            sigma_us, mean_us = sigma_us[:1], mean_us[:1]
        return cls(np.ascontiguousarray(sigma_us), np.ascontiguousarray(mean_us))


def goals_of_levels(levels: NDArray[Any], target: Target) -> Cells:
    """Conductances of levels, in microsiemens."""
    return target.cell.g_min_us + levels.astype(np.float64) * target.cell.level_step_us


def programmed(
    levels: NDArray[np.uint8],
    stuck: NDArray[np.bool_] | None,
    blank: NDArray[np.bool_] | None,
    error: ErrorByLevel,
    target: Target,
    converter: Converter | None,
    array: int,
    write_seed: int,
    stuck_seed: int | None = None,
) -> NDArray[Any]:
    """Cells of an array right after they were written to levels; takes compiled kernels.

    Parameters
    ----------
    levels
        Levels, those of stuck cells included, [input lines, columns of cells].
    stuck, blank
        Cells that stay at their level, and that have ``blank_share`` of the error; None if there are none.
    converter
        Gives the units and the grid of the result; microsiemens when None.
    stuck_seed
        Seed of the chip, whose stuck cells are moved to their levels here; None if ``stuck`` says all.
    """
    compiled = cell_kernels()
    assert compiled is not None
    room = whole_blocks(levels.size)
    dtype = np.float64 if converter is None else converter.dtype
    cells = np.empty(room, dtype)
    compiled.program_cells(
        filled(levels.reshape(-1), room),
        _flags(stuck, room),
        _flags(blank, room),
        target.programming.blank_share,
        error.sigma_us,
        error.mean_us,
        target.cell.g_min_us,
        target.cell.level_step_us,
        *_units(converter, target),
        np.int64(array),
        np.int64(stream(Purpose.PROGRAMMING, 0)),
        np.int64(write_seed & MASK),
        np.int64(write_seed >> 32),
        stuck_seed is not None,
        np.int64(stream(Purpose.STUCK, 0)),
        np.int64((stuck_seed or 0) & MASK),
        np.int64((stuck_seed or 0) >> 32),
        *stuck_words((target.faults.stuck_low_share, target.faults.stuck_high_share)),
        target.signed_levels,
        converter is not None,
        cells,
    )
    return cells[: levels.size].reshape(levels.shape)


def in_units(levels: NDArray[Any], actual_us: Cells, converter: Converter, target: Target) -> NDArray[Any]:
    """Conductances in units of a converter, on its grid, [input lines, columns of cells].

    What no effect has moved from the goal of its level differs by exactly zero and stays exactly nominal.
    """
    compiled = cell_kernels()
    if compiled is None or levels.dtype != np.uint8 or converter.grid_bits is None:
        deviation = converter.to_grid((actual_us - goals_of_levels(levels, target)) / converter.unit_us)
        return np.maximum(converter.nominal(levels, target) + deviation, 0.0).astype(converter.dtype)
    room = whole_blocks(levels.size)
    cells = np.empty(room, converter.dtype)
    compiled.cells_in_units(
        filled(levels.reshape(-1), room),
        filled(actual_us.reshape(-1), room),
        target.cell.g_min_us,
        target.cell.level_step_us,
        *_units(converter, target),
        cells,
    )
    return cells[: levels.size].reshape(levels.shape)


def _units(converter: Converter | None, target: Target) -> tuple[float, float, float, float]:
    """Unit in microsiemens, units of a level and of the lowest level, and points of the grid in a unit."""
    if converter is None:
        return 1.0, 1.0, 0.0, 1.0
    assert converter.grid_bits is not None
    return converter.unit_us, *converter.nominal_terms(target), float(1 << converter.grid_bits)


def _flags(flags: NDArray[np.bool_] | None, room: int) -> NDArray[np.uint8]:
    return np.zeros(0, np.uint8) if flags is None else filled(flags.reshape(-1).view(np.uint8), room)


def polynomials_us(target: Target) -> tuple[Cells, Cells] | None:
    """Coefficients of the error's standard deviation and mean by conductance; None where they are no polynomials."""
    spec = target.programming
    if spec.sigma_table_us or spec.mean_table_us:
        return None
    if spec.sigma_proportional_share and not spec.sigma_polynomial_us:
        return None
    return np.array(spec.sigma_polynomial_us or (spec.sigma_us,)), np.array(spec.mean_polynomial_us or (0.0,))


def slices_written(
    slices: ArraySlices,
    levels: NDArray[np.uint8],
    stuck: NDArray[np.bool_] | None,
    blank: NDArray[np.bool_] | None,
    error: tuple[Cells, Cells],
    target: Target,
    array: int,
    write_seed: int,
) -> tuple[Cells, Cells]:
    """Goals and cells of an array whose slices are written one after the other, in microsiemens; see `slice_goals`.

    Arguments are those of :func:`programmed`, and ``error`` the result of :func:`polynomials_us`.
    """
    compiled, cell = cell_kernels(), target.cell
    assert compiled is not None
    sigma_us = error[0] if len(error[0]) > 1 else np.maximum(error[0], 0.0)
    aims_us, cells_us = np.empty((2, *levels.shape))
    nowhere = np.zeros((0, 0), np.bool_)
    compiled.write_slices(
        slices.levels,
        slices.place,
        slices.base,
        levels,
        nowhere if stuck is None else stuck,
        nowhere if blank is None else blank,
        target.programming.blank_share,
        sigma_us,
        error[1],
        cell.reference_us,
        cell.g_min_us,
        cell.level_step_us,
        float(cell.levels - 1),
        gaussians(levels.size, array, 0, stream(Purpose.PROGRAMMING, 0), write_seed).reshape(levels.shape),
        aims_us,
        cells_us,
    )
    return aims_us, cells_us
