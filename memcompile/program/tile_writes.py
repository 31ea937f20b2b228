"""Cost of writing, tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import Cut, PairedLayer


def sums_of_weights(layer: PairedLayer, of_level: NDArray[Any]) -> NDArray[Any]:
    """Sum of a quantity of cells, given for each level, over the cells of each weight.

    Returns
    -------
    [groups, group_rows, group_columns]: the sum over both polarities and all slices.
    """
    total: NDArray[Any] = of_level[layer.cells].sum(axis=(0, 1))
    return total


def sums_of_tiles(of_weight: NDArray[Any], unrolling: Unrolling, cut: Cut) -> NDArray[Any]:
    """Sum of a quantity of weights over each tile of a replica; places without a weight count nothing.

    Parameters
    ----------
    of_weight
        [groups, group_rows, group_columns].

    Returns
    -------
    [matrices, row tiles, column tiles].
    """
    by_rows = np.add.reduceat(unrolling.expand(of_weight), cut.rows[:-1], axis=1)
    total: NDArray[Any] = np.add.reduceat(by_rows, cut.columns[:-1], axis=2)
    return total
