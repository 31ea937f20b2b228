"""Racing: which points are surely on the front, which surely are not, and which need more work.

The front of points by cost and accuracy is built from the cheapest on: a point is on it if its accuracy is higher than
that of every point of the front that costs no more in anything, by more than the resolution. So differences that mean
nothing do not fill it. With accuracies known as intervals, a point is *out* if another one that costs no more has at
least its accuracy, or a point surely *on* the front comes within the resolution of it; it is on the front if every
point that costs no more is out or surely worse by more than the resolution. Both follow from the intervals alone, so
the front of the points that are left is the front of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
BLOCK = 256
"""Points compared with all others at once."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Points surely on the front, and points surely out with the point that says so, -1 for none; [points]."""

    on: Flags
    out: Flags
    beaten_by: NDArray[np.int64]

    @property
    def open(self) -> Flags:
        """Points that are neither."""
        return ~(self.on | self.out)


def no_dearer(costs: Floats) -> Flags:
    """For points [i, j]: j costs no more than i in anything; costs are [points, quantities], less is better."""
    count = len(costs)
    found = np.zeros((count, count), np.bool_)
    for begin in range(0, count, BLOCK):
        block = costs[begin : begin + BLOCK, None, :]
        found[begin : begin + BLOCK] = (costs[None, :, :] <= block).all(axis=2)
    np.fill_diagonal(found, False)
    return found


def judge(costs: Floats, low: Floats, high: Floats, sure: Flags, possible: Flags, resolution: float) -> Verdict:
    """Judge points by their costs and the intervals of their accuracy.

    Parameters
    ----------
    costs
        [points, quantities]; less is better.
    low, high
        Ends of the intervals, [points].
    sure, possible
        Points that surely, and possibly, satisfy all conditions; others beat nothing. [points]
    resolution
        Difference of accuracy that counts as none.
    """
    count = len(costs)
    cheaper = no_dearer(costs)
    same = cheaper & cheaper.T
    earlier = np.arange(count)[None, :] < np.arange(count)[:, None]
    # Of points that cost the same the more accurate one comes first, of equals the one that comes first.
    strictly = np.where(same & ~earlier, low[None, :] > high[:, None], low[None, :] >= high[:, None])
    beats = cheaper & strictly & sure[None, :]
    on = np.zeros(count, np.bool_)
    out = ~possible
    beaten_by = np.full(count, -1, np.int64)
    near = cheaper & (low[None, :] + resolution >= high[:, None])
    clear = high[None, :] + resolution < low[:, None]
    while True:
        by = beats | (near & on[None, :])
        new_out = ~out & ~on & by.any(axis=1)
        if new_out.any():
            beaten_by[new_out] = by[new_out].argmax(axis=1)
        now_out = out | new_out
        rivals = cheaper & ~clear & ~now_out[None, :]
        new_on = sure & ~now_out & ~on & ~rivals.any(axis=1)
        if not new_out.any() and not new_on.any():
            return Verdict(on, out, beaten_by)
        on, out = on | new_on, now_out


def front_of(costs: Floats, accuracy: Floats, admitted: Flags, resolution: float) -> NDArray[np.int64]:
    """Numbers of the points on the front, by cost.

    Parameters
    ----------
    costs
        [points, quantities]; less is better.
    accuracy
        [points]; more is better.
    admitted
        Points that satisfy all conditions, [points].
    resolution
        Difference of accuracy that counts as none.
    """
    numbers = np.flatnonzero(admitted)
    keys: list[Any] = [numbers, -accuracy[numbers], *costs[numbers].T[::-1]]
    front: list[int] = []
    for number in numbers[np.lexsort(keys)].tolist():
        rivals = [kept for kept in front if (costs[kept] <= costs[number]).all()]
        if all(accuracy[number] > accuracy[kept] + resolution for kept in rivals):
            front.append(number)
    return np.array(front, np.int64)
