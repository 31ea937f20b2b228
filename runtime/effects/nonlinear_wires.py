"""Currents of a tile whose lines have resistance and whose cells do not obey Ohm's law.

Neither an effective matrix nor a transformed input vector describes such a network: the voltage
that wires leave to a cell depends on all inputs of the step, and the cell's current is not
proportional to it. So Kirchhoff's equations are solved anew for each input vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import TargetError
from memcompile.runtime.effects.nonlinear_iv import relative_current

TOLERANCE = 1e-10
"""Largest change of a voltage, in read voltages, at which the iteration ends."""
MAX_ITERATIONS = 20_000


class NonlinearTile:
    """The network of one tile; one factorisation serves all input vectors.

    Wires run as in :func:`memcompile.runtime.effects.wires.effective_conductances_us`; a cell of conductance g
    carries g r(w) at the voltage w, with r of :func:`memcompile.runtime.effects.nonlinear_iv.relative_current`.
    Voltages count in read voltages, so currents are conductances. A line without resistance is one
    node: its driver, or ground.

    Parameters
    ----------
    cells
        [input lines, output lines], in any unit of conductance.
    highest
        Largest voltage of an input line, in read voltages.
    sharpness
        K of the curve.
    input_segment, output_segment
        Resistance of a segment of each direction, in the inverse of that unit.
    input_lead_segments, output_lead_segments
        Segments from the driver to the first cell, and from the last cell to the converter.
    """

    def __init__(
        self,
        cells: NDArray[np.float64],
        highest: float,
        sharpness: float,
        input_segment: float,
        output_segment: float,
        input_lead_segments: int = 1,
        output_lead_segments: int = 1,
    ) -> None:
        # Imported here, because it takes time that other targets need not wait for.
        from scipy.sparse import coo_array  # noqa: PLC0415
        from scipy.sparse.linalg import splu  # noqa: PLC0415

        rows, lines = cells.shape
        self.cells, self.sharpness = cells, sharpness
        drivers, ground = np.arange(rows), rows
        count = rows + 1
        if input_segment:
            upper = count + np.arange(cells.size).reshape(cells.shape)
            count += cells.size
        else:
            upper = np.repeat(drivers[:, None], lines, axis=1)
        if output_segment:
            lower = count + np.arange(cells.size).reshape(cells.shape)
            count += cells.size
        else:
            lower = np.full(cells.shape, ground)
        self._upper, self._lower, self._known = upper, lower, rows + 1
        # The steepest slope of the curve: with it in place of the cells' own slopes, each iteration
        # minimises an upper bound of the network's co-content, so that it converges from anywhere.
        steepest = sharpness * np.cosh(sharpness * max(highest, 1.0)) / np.sinh(sharpness)
        self._bound = cells * steepest
        edges = [(upper, lower, self._bound)]
        if input_segment:
            edges.append((drivers, upper[:, 0], np.full(rows, 1 / (input_segment * input_lead_segments))))
            edges.append((upper[:, :-1], upper[:, 1:], np.full((rows, lines - 1), 1 / input_segment)))
        if output_segment:
            edges.append(
                (lower[-1], np.full(lines, ground), np.full(lines, 1 / (output_segment * output_lead_segments)))
            )
            edges.append((lower[:-1], lower[1:], np.full((rows - 1, lines), 1 / output_segment)))
        a, b, weight = (np.concatenate([np.ravel(edge[part]) for edge in edges]) for part in range(3))
        laplacian = coo_array(
            (
                np.concatenate([weight, weight, -weight, -weight]),
                (np.concatenate([a, b, a, b]), np.concatenate([a, b, b, a])),
            ),
            shape=(count, count),
        ).tocsc()
        self._solver = splu(laplacian[self._known :, self._known :])
        self._from_known = laplacian[self._known :, : self._known]

    def currents(self, voltages: NDArray[np.float64]) -> NDArray[np.float64]:
        """Current of each output line, in units of the cells times the read voltage.

        Parameters
        ----------
        voltages
            [input lines], in read voltages.

        Raises
        ------
        TargetError
            The iteration does not end: resistances and curve are beyond what devices are like.
        """
        known = np.append(voltages, 0.0)
        fixed = -(self._from_known @ known)
        nodes = np.concatenate([known, np.zeros(self._solver.shape[0])])
        for _ in range(MAX_ITERATIONS):
            across = nodes[self._upper] - nodes[self._lower]
            surplus = self._bound * across - self.cells * relative_current(across, self.sharpness)
            into = np.bincount(self._upper.ravel(), surplus.ravel(), len(nodes))
            into -= np.bincount(self._lower.ravel(), surplus.ravel(), len(nodes))
            solved = self._solver.solve(fixed + into[self._known :])
            change = np.abs(solved - nodes[self._known :]).max(initial=0.0)
            nodes[self._known :] = solved
            if change <= TOLERANCE:
                across = nodes[self._upper] - nodes[self._lower]
                total: NDArray[np.float64] = (self.cells * relative_current(across, self.sharpness)).sum(axis=0)
                return total
        raise TargetError(
            f"the voltages of lines with resistance and cells of nonlinearity {self.sharpness:g} per read voltage "
            f"are not found in {MAX_ITERATIONS} iterations; lower wires or cell.nonlinearity_per_v of the target"
        )
