"""Least inputs and sums that some tiles of a layer exchange with other chips: the terms of bounds on traffic.

Tiles of a weight matrix lie on a grid. A *unit* is a replica's tiles of the same columns, whose sums are added
before they are sent: q units send at least what the q cheapest send, and n tiles in q units include
ceil(n / q) tiles of different rows in one of them. So they read at least the channels of that many row tiles that
overlap most, at the fewest positions that a replica reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_ROW_TILES = 1024
"""Most row tiles of the exact count; of more, each channel counts as shared by as many tiles as share any channel."""
UNREACHED = np.iinfo(np.int64).max // 4


@dataclass(frozen=True)
class MatrixTiles:
    """Tiles of one weight matrix of a layer, over all replicas.

    ``unit_sums`` are the sums of the q cheapest units, [units + 1]; ``inputs`` the fewest input values that r row
    tiles read, [most row tiles of a unit + 1].
    """

    count: int
    unit_sums: NDArray[np.int64]
    inputs: NDArray[np.int64]

    @property
    def units(self) -> int:
        """Units of the matrix."""
        return len(self.unit_sums) - 1

    def least(self, tiles: int) -> tuple[int, int, int]:
        """Least exchange of so many tiles: with all of it, without inputs, without sums."""
        if not tiles:
            return 0, 0, 0
        fewest = -(-tiles // (len(self.inputs) - 1))
        units = np.arange(fewest, self.units + 1)
        both = self.unit_sums[units] + self.inputs[-(-tiles // units)]
        return int(both.min()), int(self.unit_sums[fewest]), int(self.inputs[-(-tiles // self.units)])


def least_exchange(matrices: list[MatrixTiles], number: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Least exchange of n tiles of a layer, [3, counts]: with all of it, without inputs, without sums.

    Matrices share neither inputs nor sums, so that their exchanges add up. Of several, the convex envelope of the
    least function stands for each.

    Parameters
    ----------
    matrices
        Different matrices of the layer.
    number
        Matrices of the layer.
    counts
        Numbers of tiles, ascending from 0.
    """
    if number == 1:
        return np.array([matrices[0].least(count) for count in counts.tolist()], np.int64).reshape(-1, 3).T
    most = max(matrix.count for matrix in matrices)
    each = [
        [matrix.least(count) if count <= matrix.count else (UNREACHED,) * 3 for count in range(most + 1)]
        for matrix in matrices
    ]
    least = np.array(each, np.int64).min(axis=0).T
    rows = [number * np.interp(counts / number, *_convex_envelope(row)) for row in least]
    return np.ceil(np.array(rows) * (1 - 1e-9)).astype(np.int64)


def _convex_envelope(values: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Corners of the largest convex function below values at 0, 1, 2 and so on."""
    corners: list[tuple[int, int]] = []
    for x, y in enumerate(values.tolist()):
        while len(corners) > 1 and _turns_right(corners[-2], corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    return [x for x, _ in corners], [y for _, y in corners]


def _turns_right(first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]) -> bool:
    (x0, y0), (x1, y1), (x2, y2) = first, second, third
    return (y1 - y0) * (x2 - x0) >= (y2 - y0) * (x1 - x0)


def fewest_channels(begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fewest channels that r of some row tiles read together, [row tiles + 1].

    Exact dynamic program over the row tiles from the first channel to the last: what a tile adds depends on the tile
    chosen before it.

    Parameters
    ----------
    begin, end
        First channel of each row tile, and the one after its last; neither decreases when tiles are sorted.
    """
    order = np.lexsort((end, begin))
    begin, end = begin[order], end[order]
    count = len(begin)
    if count > MOST_ROW_TILES:
        readers = np.searchsorted(begin, begin, "right") - np.searchsorted(end, begin, "right")
        read: NDArray[np.int64] = np.concatenate([[0], np.cumsum(np.sort(end - begin))])
        return -(-read // max(1, int(readers.max())))
    best = np.full((count, count + 1), UNREACHED, np.int64)
    apart = np.full(count + 1, UNREACHED, np.int64)
    apart[0] = 0
    passed = 0
    for last in range(count):
        while passed < last and end[passed] <= begin[last]:
            np.minimum(apart, best[passed], out=apart)
            passed += 1
        best[last, 1:] = apart[:-1] + (end[last] - begin[last])
        for before in range(passed, last):
            added = max(0, int(end[last] - max(begin[last], end[before])))
            np.minimum(best[last, 1:], best[before, :-1] + added, out=best[last, 1:])
    fewest: NDArray[np.int64] = np.minimum(best.min(axis=0, initial=UNREACHED), UNREACHED)
    fewest[0] = 0
    return fewest
