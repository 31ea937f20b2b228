"""Voltage drop along resistive lines, to first order: what it takes from each weight.

A cell's current flows through the segments from the driver to it and from it to the end of its output line. What all
cells of the two lines draw lowers its voltage by

    drop_ij = R_in sum_j' n(j, j') G_ij' + R_out sum_i' m(i, i') G_i'j    (of the voltage of the line),

with n and m the segments that both currents flow through. The effective conductance is G / (1 + drop), exact for one
cell and right to first order for all.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.ir.placement import Cut
from memcompile.noise.gaussians import Array

US_PER_S = 1e6


def wire_errors(
    digits: NDArray[np.integer], base: int, cut: Cut, corners: NDArray[np.integer] | None, target: Target
) -> Array | None:
    """Error of the weights of matrices; None without resistance.

    Parameters
    ----------
    digits
        Signed levels of the pairs, [slices, matrices, rows, columns].
    cut
        Cut of each matrix into tiles.
    corners
        First input and output line of each tile, [matrices, row tiles, column tiles, 2]; the first lines of arrays
        when None.

    Returns
    -------
    [matrices, rows, columns], in units of the integer weight.
    """
    wires, cell = target.wires, target.cell
    if wires is None or wires.input_segment_ohm + wires.output_segment_ohm == 0:
        return None
    levels = np.maximum(np.stack([digits, -digits]), 0)
    cells_us = cell.g_min_us + levels * cell.level_step_us  # polarities, slices, matrices, rows, columns
    powers = float(base) ** np.arange(len(digits))
    errors = np.zeros(digits.shape[1:])
    for matrix in range(digits.shape[1]):
        tiles = itertools.product(enumerate(itertools.pairwise(cut.rows)), enumerate(itertools.pairwise(cut.columns)))
        for (row, (top, bottom)), (column, (left, right)) in tiles:
            tile = cells_us[:, :, matrix, top:bottom, left:right].transpose(2, 3, 1, 0)
            corner = (0, 0) if corners is None else corners[matrix, row, column]
            lost = _effective(tile, target, int(corner[0]), int(corner[1])) - tile
            errors[matrix, top:bottom, left:right] = (lost[..., 0] - lost[..., 1]) @ powers / cell.level_step_us
    return errors


def _effective(cells_us: Array, target: Target, input_line: int, output_line: int) -> Array:
    """Effective conductances of the cells of a tile from some lines on, [rows, columns, slices, polarities]."""
    wires, array = target.wires, target.array
    assert wires is not None
    rows, columns, slices, polarities = cells_us.shape
    per_crossing = array.cells_per_crossing
    # Cells as wires see them: both cells of a crossing are on one output line and on input wires of their own.
    by_wire = cells_us.transpose(0, 3, 1, 2) if per_crossing == 2 else cells_us
    seen = by_wire.reshape(rows * per_crossing, -1)
    across, along = np.arange(seen.shape[1]), np.arange(len(seen))
    shared_in = output_line + 1 + np.minimum(across[:, None], across)
    below = (array.input_lines - input_line - rows) * per_crossing
    shared_out = below + len(seen) - np.maximum(along[:, None], along)
    drop = wires.input_segment_ohm * (seen @ shared_in) + wires.output_segment_ohm * (shared_out @ seen)
    effective: Array = seen / (1.0 + drop / US_PER_S)
    if per_crossing == 2:
        return effective.reshape(rows, 2, columns, slices).transpose(0, 2, 3, 1)
    return effective.reshape(rows, columns, slices, polarities)
