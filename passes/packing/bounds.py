"""Lower bounds for packing tiles into arrays.

A *dual feasible function* f maps sizes in 0..1 so that the sizes of any items that fit one bin still
sum to at most 1 after f. Applied to heights and to widths, the area after f bounds the number of bins from
below (Fekete and Schepers, Math. Oper. Res. 29, 353, 2004); applied to loads, their sum does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.first_fit import TileShape
from memcompile.passes.solving.bisection import first_true

THRESHOLDS = 24
"""Thresholds tried per dimension; the bound is valid with any of them."""
PARTS = (1, 2, 3, 4)
"""Parts into which the rounding functions cut the capacity."""


def arrays_bound(shapes: Sequence[TileShape], lines: tuple[int, int], interval: int | None) -> int:
    """Lower bound for the arrays that hold the tiles with at most ``interval`` steps each (None: any number)."""
    if not shapes:
        return 0
    count = np.array([shape.count for shape in shapes], np.int64)
    heights = transformed([shape.height for shape in shapes], lines[0])
    widths = transformed([shape.width for shape in shapes], lines[1])
    # Floating point only selects the best pair of functions; its bound is then computed exactly.
    area = np.einsum("hi,wi,i->hw", heights / lines[0], widths / lines[1], count.astype(float))
    h, w = np.unravel_index(int(np.argmax(area)), area.shape)
    best = -(-int((heights[h] * widths[w] * count).sum()) // (lines[0] * lines[1]))
    if interval:
        loads = transformed([shape.load for shape in shapes], interval)
        best = max(best, *(-(-int((row * count).sum()) // interval) for row in loads))
    return max(1, best)


def packing_interval_bound(shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int) -> int:
    """Lower bound for the interval of these tiles on ``arrays`` arrays."""
    if not shapes:
        return 0
    total = sum(shape.load * shape.count for shape in shapes)
    low = max(-(-total // arrays), *(shape.load for shape in shapes))
    return first_true(low, max(low, total), lambda interval: arrays_bound(shapes, lines, interval) <= arrays)


def transformed(sizes: Sequence[int], capacity: int) -> NDArray[np.int64]:
    """Sizes under two families of dual feasible functions f.

    f(x) = capacity if x > capacity - e, 0 if x < e, else x, for several thresholds e; and, for
    several k, x where (k + 1) x is a multiple of the capacity, else floor((k + 1) x / capacity)
    k-th parts of the capacity, rounded down to an integer.

    Returns
    -------
    [functions, sizes] in units of capacity; the first row holds the sizes themselves.
    """
    values = np.array(sizes, np.int64)
    candidates = np.unique(np.concatenate([values, capacity - values + 1]))
    candidates = candidates[(candidates >= 1) & (2 * candidates <= capacity)]
    if len(candidates) > THRESHOLDS:
        candidates = candidates[np.linspace(0, len(candidates) - 1, THRESHOLDS).astype(int)]
    rows = [np.where(values > capacity - e, capacity, np.where(values < e, 0, values)) for e in candidates]
    for parts in PARTS:
        whole, rest = np.divmod((parts + 1) * values, capacity)
        rows.append(np.where(rest == 0, values, whole * capacity // parts))
    return np.stack([values, *rows])
