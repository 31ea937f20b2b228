"""Read noise of cells from repeated reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.errors import DataError
from memcompile.measurements.columns import Table, read_table
from memcompile.measurements.spread_fit import CONSTANT, NONE, PROPORTIONAL, Array, Choice, choose, table

LEAST_READS = 20
TABLE_POINTS = 6


@dataclass(frozen=True, eq=False)
class ReadsFit:
    """Read noise: ``choice`` is the spread of reads, in microsiemens, against the mean conductance of the cell."""

    name: str
    cells: int
    mean_us: Array
    residuals_us: Array
    choice: Choice

    @property
    def count(self) -> int:
        """Number of reads of cells that were read more than once."""
        return len(self.mean_us)

    def read_noise(self) -> dict[str, Any]:
        """Fields of ``[read_noise]``."""
        fit = self.choice.fit
        if fit.spread_form.kind == "table":
            return {"sigma_us": 0.0, "sigma_table_us": fit.spread_form.points(fit.spread)}
        values = [*fit.spread.tolist(), 0.0]
        return {"sigma_us": values[0], "proportional_share": values[1]}


def read_reads(path: Path) -> Table:
    """Repeated reads of cells; see :func:`memcompile.measurements.columns.read_table`."""
    return read_table(path, ("cell", "measured"))


def fit_reads(reads: Table) -> ReadsFit:
    """Fit read noise to reads of cells that were each read several times.

    Raises
    ------
    DataError
        Too few cells were read more than once.
    """
    measured_us, cell = reads.columns["measured"], reads.columns["cell"].astype(np.int64)
    counts = np.bincount(cell)
    means = np.bincount(cell, measured_us) / counts
    several = counts[cell] > 1
    if several.sum() < LEAST_READS:
        raise DataError(
            f"{reads.name} has {int(several.sum())} reads of cells that were read more than once; read noise needs "
            f"{LEAST_READS} or more"
        )
    # The mean of n reads takes up 1 / n of their variance.
    residuals = (measured_us - means[cell]) * np.sqrt(counts[cell] / np.maximum(counts[cell] - 1, 1))
    x, y, cell = means[cell][several], residuals[several], cell[several]
    choice = choose(x, y, (NONE,), (CONSTANT, PROPORTIONAL, table(x, TABLE_POINTS)), groups=cell.astype(np.float64))
    return ReadsFit(reads.name, len(np.unique(cell)), x, y, choice)
