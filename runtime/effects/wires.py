"""Voltage drop along resistive lines, exactly: the effective conductances of a tile.

A tile with wire resistance is a linear network, so its output currents are a fixed matrix times
its input voltages. Block elimination along the output lines gives that matrix once, in about the
time of one sparse factorisation; from then on a step costs no more than without wires.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import Conditions
from memcompile.program.program import Program
from memcompile.runtime.effects.effect import Effect

US_PER_S = 1e6


class Wires(Effect):
    """Acts on targets with a section ``wires`` whose lines have resistance."""

    switch = "wires"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if a resistance is above zero."""
        wires = program.target.wires
        return wires is not None and wires.input_segment_ohm + wires.output_segment_ohm > 0


def effective_conductances_us(
    cells_us: NDArray[np.float64],
    input_segment_ohm: float,
    output_segment_ohm: float,
    input_lead_segments: int = 1,
    output_lead_segments: int = 1,
) -> NDArray[np.float64]:
    """Current of each output line per volt on each input line.

    Input line i is driven at its left end through ``input_lead_segments`` segments to the cell of
    output line 0, with one more segment to each next cell; output line j is held at 0 V at its
    lower end, ``output_lead_segments`` segments beyond the last input line. Kirchhoff's current
    law holds at both ends of every cell: with u the voltages on the input lines, v those on the
    output lines,

        cells (u - v) = (segment currents into u) and (segment currents out of v).

    Parameters
    ----------
    cells_us
        [input lines, output lines], in microsiemens.

    Returns
    -------
    [input lines, output lines] in microsiemens; equal to ``cells_us`` without resistance.
    """
    if input_segment_ohm == output_segment_ohm == 0.0:
        return cells_us
    cells = cells_us / US_PER_S
    seen = [_line_response(row, input_segment_ohm, input_lead_segments) for row in cells]
    if output_segment_ohm == 0.0:
        return np.array([driven for driven, _ in seen]) * US_PER_S
    rows, lines = cells.shape
    segment = 1.0 / output_segment_ohm
    currents = np.zeros((rows, lines))  # into each output node of the row at hand, per driven volt
    below = np.zeros((lines, lines))
    for row, (driven, loading) in enumerate(seen):
        # Nodes of this row, with all rows above already eliminated.
        last = row == rows - 1
        down = segment / output_lead_segments if last else segment
        system = loading + below + down * np.eye(lines)
        currents[row] = driven
        inverse = np.linalg.inv(system)
        currents[: row + 1] = down * (currents[: row + 1] @ inverse)
        # What the rows so far look like from below: segments in series with them.
        below = down * np.eye(lines) - down * down * inverse
    return currents * US_PER_S


def _line_response(
    row: NDArray[np.float64], segment_ohm: float, lead_segments: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One input line as its output nodes see it, in siemens.

    Returns
    -------
    driven
        [lines]: current into each output node per volt at the driver, all output nodes at 0 V.
    loading
        [lines, lines]: current out of the output nodes per volt on them, driver at 0 V.
    """
    if segment_ohm == 0.0:
        return row, np.diag(row)
    segment, lines = 1.0 / segment_ohm, len(row)
    # Conductance to the left and to the right of each input node, by adding cells one by one.
    left, right = np.zeros(lines), np.zeros(lines)
    left[0] = segment / lead_segments
    for node in range(1, lines):
        before = left[node - 1] + row[node - 1]
        left[node] = segment * before / (segment + before)
    for node in range(lines - 2, -1, -1):
        beyond = right[node + 1] + row[node + 1]
        right[node] = segment * beyond / (segment + beyond)
    # A current into node i raises node j >= i by itself times the ratios on the way.
    ratios = segment / (segment + right[1:] + row[1:])
    path = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    reach = np.exp(np.minimum(path[None, :] - path[:, None], 0.0)) / (left + right + row)[:, None]
    inverse = np.triu(reach) + np.triu(reach, 1).T
    driven = row * (left[0] * inverse[0])
    return driven, np.diag(row) - row[:, None] * inverse * row[None, :]
