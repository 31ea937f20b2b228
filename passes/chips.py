"""Orders packed arrays along the pipeline and counts the values that cross chips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import MappedLayer, TileTable


def order_along_pipeline(arrays: NDArray[np.int64], tiles: TileTable) -> NDArray[np.int64]:
    """Renumber arrays so that neighbours hold neighbouring copies of neighbouring layers.

    Tiles are listed by layer and copy, so an array's place in the pipeline is the mean place of
    its tiles in the table; chips are then filled one after the other. Copies thus stay on one
    chip or on neighbouring chips.

    Returns
    -------
    The new array number of each tile.
    """
    count = int(arrays.max(initial=-1)) + 1
    if not count:
        return arrays
    weight = (tiles.heights * (tiles.column_end - tiles.column_begin)).astype(np.float64)
    mean = np.bincount(arrays, weight * np.arange(len(arrays)), count) / np.bincount(arrays, weight, count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(mean, kind="stable")] = np.arange(count)
    return rank[arrays]


def home_chips(layers: Sequence[MappedLayer], tiles: TileTable, chip: NDArray[np.int64]) -> list[int]:
    """The chip that gathers each layer's sums: the one with most of its cells, the first of equals."""
    cells = (tiles.heights * (tiles.column_end - tiles.column_begin)).astype(np.int64)
    homes = []
    edges = np.searchsorted(tiles.layer, np.arange(len(layers) + 1))
    for number in range(len(layers)):
        here = slice(int(edges[number]), int(edges[number + 1]))
        homes.append(int(np.bincount(chip[here], cells[here]).argmax()))
    return homes


def crossing_values(
    layers: Sequence[MappedLayer], tiles: TileTable, sources: Sequence[tuple[int, ...]], arrays_per_chip: int
) -> int:
    """Values that cross from chip to chip per image.

    The sums of a layer meet on its *home*, the chip that holds most of its cells; the digital
    operators that follow work there. Counted are

    - the input values of a layer (channels x input positions), once for each chip that holds
      tiles of it and is not the home of the layer that makes its input (with several, the last
      in graph order); the network's own input comes from outside and does not count;
    - the sums that a chip other than the home sends there: for each copy, one value per window
      for each column the chip holds tiles of. Row tiles of one column on one chip are added
      before they are sent.
    """
    if not len(tiles):
        return 0
    chip = (tiles.array // arrays_per_chip).astype(np.int64)
    homes = home_chips(layers, tiles, chip)
    edges = np.searchsorted(tiles.layer, np.arange(len(layers) + 1))
    total = 0
    for number, layer in enumerate(layers):
        here = slice(int(edges[number]), int(edges[number + 1]))
        holders = set(np.unique(chip[here]).tolist())
        if sources[number]:
            values = layer.geometry.in_channels * int(np.prod(layer.geometry.input_size))
            total += values * len(holders - {homes[sources[number][-1]]})
        if holders != {homes[number]}:
            total += _sums_sent(layer, tiles, here, chip, homes[number])
    return total


def _sums_sent(layer: MappedLayer, tiles: TileTable, here: slice, chip: NDArray[np.int64], home: int) -> int:
    """Sums of one layer that reach its home from other chips, per image."""
    facts = (chip, tiles.replica, tiles.matrix, tiles.column_begin, tiles.column_end)
    keys = np.stack([fact[here] for fact in facts], axis=1)
    distinct = np.unique(keys[keys[:, 0] != home], axis=0)
    windows = np.array([len(replica.windows) for replica in layer.replicas], np.int64)
    return int((windows[distinct[:, 1]] * (distinct[:, 4] - distinct[:, 3])).sum())
