"""Assigns arrays to chips such that few values cross chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import TileTable
from memcompile.passes.placement.traffic import Traffic


def number_arrays(
    arrays: NDArray[np.int64], order: NDArray[np.int64], traffic: Traffic, arrays_per_chip: int, chips: int
) -> tuple[NDArray[np.int64], int]:
    """Renumber packed arrays; array a lies on chip a // arrays_per_chip.

    Two numberings are tried, and the one with less traffic wins: along the pipeline, and whole chips
    of one layer first.

    Parameters
    ----------
    arrays
        Array of each tile, as packed.
    order
        Tiles along the pipeline, see :func:`pipeline`.

    Returns
    -------
    The new array number of each tile, and the values that cross chips for an image.
    """
    if not len(arrays):
        return arrays, 0
    along = number_along(arrays, order, traffic.tiles)
    numberings = [along]
    if chips > 1:
        numberings.append(whole_chips_first(along, traffic.tiles, traffic.further_chip(), arrays_per_chip, chips))
    crossing = [traffic.crossing(numbers // arrays_per_chip) for numbers in numberings]
    best = int(np.argmin(crossing))
    return numberings[best], crossing[best]


def pipeline(traffic: Traffic, weights_per_chip: int) -> NDArray[np.int64]:
    """List tiles along the pipeline: by layer, replica and matrix, and then by columns or by rows.

    Row tiles of the same columns that share a chip are added there, and one sum leaves it; column
    tiles of the same rows share their inputs. Each layer gets the order with less traffic when its
    tiles fill chip after chip.

    Parameters
    ----------
    weights_per_chip
        Weights that the pairs of a chip hold.
    """
    tiles = traffic.tiles
    common = (tiles.matrix, tiles.replica, tiles.layer)
    orders = (
        np.lexsort((tiles.row_begin, tiles.column_begin, *common)),
        np.lexsort((tiles.column_begin, tiles.row_begin, *common)),
    )
    sent = []
    for order in orders:
        chip = np.empty(len(tiles), np.int64)
        chip[order] = (np.cumsum(_cells(tiles)[order]) - 1) // weights_per_chip
        sent.append(traffic.sent_by_layer(chip))
    by_columns = (sent[0] <= sent[1])[tiles.layer[orders[0]]]  # both orders list layer after layer
    return np.where(by_columns, *orders)


def number_along(arrays: NDArray[np.int64], order: NDArray[np.int64], tiles: TileTable) -> NDArray[np.int64]:
    """Number arrays by the mean place of their cells along the pipeline."""
    count = int(arrays.max()) + 1
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    weight = _cells(tiles).astype(np.float64)
    mean = np.bincount(arrays, weight * place, count) / np.bincount(arrays, weight, count)
    number = np.empty(count, np.int64)
    number[np.argsort(mean, kind="stable")] = np.arange(count)
    return number[arrays]


def whole_chips_first(
    arrays: NDArray[np.int64], tiles: TileTable, price: Sequence[int], arrays_per_chip: int, chips: int
) -> NDArray[np.int64]:
    """Give each layer as few chips as it needs, where the other layers leave room.

    An array belongs to the layer that fills most of it. Each layer takes whole chips as often as
    it can; the remaining arrays of the layers are grouped into chips such that few of these
    remainders are split. Chips are then numbered along the pipeline.

    Parameters
    ----------
    arrays
        Array of each tile, numbered along the pipeline without gaps.
    price
        Lower bound for the cost of each further chip, per layer.
    """
    owner = _owners(arrays, tiles)
    filled: list[list[int]] = []
    rests: list[list[int]] = []
    for layer in sorted(np.unique(owner).tolist(), key=lambda layer: (-price[layer], layer)):
        own = np.flatnonzero(owner == layer).tolist()
        whole = len(own) // arrays_per_chip * arrays_per_chip
        filled += [own[first : first + arrays_per_chip] for first in range(0, whole, arrays_per_chip)]
        rests += [own[whole:]] if whole < len(own) else []
    filled += group_rests(rests, arrays_per_chip, chips - len(filled))
    number = np.empty(len(owner), np.int64)
    for chip, members in enumerate(sorted(filled, key=min)):
        number[members] = chip * arrays_per_chip + np.arange(len(members))
    return number[arrays]


def group_rests(rests: list[list[int]], room: int, chips: int) -> list[list[int]]:
    """Group lists of arrays into chips of ``room`` arrays; few lists are split, cheap ones first.

    The first list is joined by others that fill its chip best. If the chips are too few for
    unsplit lists, the last one is split to fill the chip.

    Parameters
    ----------
    rests
        Lists, the costliest to split first.
    """
    left = list(rests)
    slack = chips * room - sum(map(len, left))
    groups = []
    while left:
        group = left.pop(0)
        for index in reversed(fill([len(rest) for rest in left], room - len(group))):
            group = group + left.pop(index)
        if room - len(group) > slack and left:
            missing = room - len(group)
            left, torn = left[:-1], left[-1]
            group = group + torn[:missing]
            left += [torn[missing:]]
        slack -= room - len(group)
        groups.append(group)
    return groups


def fill(sizes: Sequence[int], room: int) -> list[int]:
    """Indices of sizes whose sum comes closest to ``room`` from below (subset sum).

    Among the subsets with that sum the one with the fewest of the first sizes is taken. More items of a size than
    fit together reach no further sum.
    """
    reached = np.zeros(room + 1, np.bool_)
    reached[0] = True
    last = np.zeros(room + 1, np.int64)  # of the way to each sum
    seen = Counter[int]()
    for index, size in enumerate(sizes):
        if size == 0 or seen[size] == room // size:
            continue
        seen[size] += 1
        new = np.flatnonzero(reached[:-size] & ~reached[size:]) + size
        reached[new] = True
        last[new] = index
        if reached[room]:
            break
    chosen: list[int] = []
    total = int(np.flatnonzero(reached)[-1])
    while total:
        chosen.append(int(last[total]))
        total -= sizes[chosen[-1]]
    return chosen[::-1]


def _owners(arrays: NDArray[np.int64], tiles: TileTable) -> NDArray[np.int64]:
    """Layer that fills most of each array, [arrays]; the first of equals."""
    layers = int(tiles.layer.max()) + 1
    keys, cells = np.unique(arrays * layers + tiles.layer, return_inverse=True)
    filled = np.bincount(cells.ravel(), _cells(tiles))
    order = np.lexsort((keys % layers, -filled, keys // layers))
    _, first = np.unique(keys[order] // layers, return_index=True)
    owners: NDArray[np.int64] = keys[order][first] % layers
    return owners


def _cells(tiles: TileTable) -> NDArray[np.int64]:
    """Rows times columns of each tile."""
    return (tiles.heights * (tiles.column_end - tiles.column_begin)).astype(np.int64)
