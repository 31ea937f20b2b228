"""Decides which array lies on which chip, so that few values cross chips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import TileTable
from memcompile.passes.traffic import Traffic


def number_arrays(
    arrays: NDArray[np.int64], tiles: TileTable, traffic: Traffic, arrays_per_chip: int, chips: int
) -> tuple[NDArray[np.int64], int]:
    """Renumber packed arrays; array a lies on chip a // arrays_per_chip.

    Two orders are tried, and the one with less traffic wins: along the pipeline, and whole chips
    of one layer first.

    Returns
    -------
    The new array number of each tile, and the values that cross chips for an image.
    """
    if not len(arrays):
        return arrays, 0
    along = pipeline_order(arrays, tiles)
    orders = [along]
    if chips > 1:
        orders.append(whole_chips_first(along, tiles, traffic.further_chip(), arrays_per_chip, chips))
    crossing = [traffic.crossing(order // arrays_per_chip) for order in orders]
    best = int(np.argmin(crossing))
    return orders[best], crossing[best]


def pipeline_order(arrays: NDArray[np.int64], tiles: TileTable) -> NDArray[np.int64]:
    """Number arrays so that neighbours hold neighbouring copies of neighbouring layers.

    Tiles are listed by layer and copy, so an array's place in the pipeline is the mean place of
    its tiles in the table.
    """
    count = int(arrays.max()) + 1
    weight = _cells(tiles).astype(np.float64)
    mean = np.bincount(arrays, weight * np.arange(len(arrays)), count) / np.bincount(arrays, weight, count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(mean, kind="stable")] = np.arange(count)
    return rank[arrays]


def whole_chips_first(
    arrays: NDArray[np.int64], tiles: TileTable, price: Sequence[int], arrays_per_chip: int, chips: int
) -> NDArray[np.int64]:
    """Give each layer as few chips as it needs, where the rest of the layers lets it.

    An array belongs to the layer that fills most of it. Each layer takes whole chips as often as
    it can; what is left of the layers is grouped into chips such that few of these rests are torn
    apart. Chips are then numbered along the pipeline.

    Parameters
    ----------
    arrays
        Array of each tile, numbered along the pipeline without gaps.
    price
        Per layer, what each further chip costs at least.
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
    """Group lists of arrays into chips with room for some each; few lists are torn, cheap ones first.

    The first list is joined by others that fill its chip best. If the chips are too few for whole
    lists, the last one is torn to fill the chip.

    Parameters
    ----------
    rests
        Lists that are dear to tear come first.
    """
    left = list(rests)
    slack = chips * room - sum(map(len, left))
    groups = []
    while left:
        group = left.pop(0)
        for index in reversed(_fill([len(rest) for rest in left], room - len(group))):
            group = group + left.pop(index)
        if room - len(group) > slack and left:
            missing = room - len(group)
            left, torn = left[:-1], left[-1]
            group = group + torn[:missing]
            left += [torn[missing:]]
        slack -= room - len(group)
        groups.append(group)
    return groups


def _fill(sizes: list[int], room: int) -> list[int]:
    """Indices of sizes whose sum comes closest to ``room`` from below (subset sum)."""
    ways: dict[int, tuple[int, ...]] = {0: ()}
    for index, size in enumerate(sizes):
        for total, chosen in list(ways.items()):
            if total + size <= room:
                ways.setdefault(total + size, (*chosen, index))
        if room in ways:
            break
    return list(ways[max(ways)])


def _owners(arrays: NDArray[np.int64], tiles: TileTable) -> NDArray[np.int64]:
    """The layer that fills most of each array, [arrays]; the first of equals."""
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
