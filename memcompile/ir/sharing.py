"""Layers that share cells: a network that uses the same weights several times holds them once.

Recurrent layers, Siamese branches and heads that look at several resolutions multiply different inputs with the same
weights. The layers of such a *group* have equal cells; each works with its own inputs, quantiser and bias, one after
the other on the same tiles. Replicas hold the weights again, and the windows of all layers of the group are dealt
round them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import MappedLayer, Replica, TileTable


def first_layers(layers: Sequence[MappedLayer]) -> NDArray[np.int64]:
    """Number of the first layer of the group of each layer, itself where it shares no cells, [layers]."""
    first: dict[str, int] = {}
    numbers = [
        first.setdefault(layer.shares_with, number) if layer.shares_with else number
        for number, layer in enumerate(layers)
    ]
    return np.array(numbers, np.int64)


def shares_cells(layers: Sequence[MappedLayer]) -> bool:
    """Return True if some layers share cells."""
    return any(layer.shares_with for layer in layers)


def holders(layers: Sequence[MappedLayer], tiles: TileTable) -> NDArray[np.int64]:
    """Row of the tile table whose cells each tile uses, [tiles]: its own, or the first of those that share them."""
    rows = np.arange(len(tiles))
    if not shares_cells(layers):
        return rows
    group, number = _numbers(layers, tiles)
    shared = np.flatnonzero(number >= 0)
    place = (group, number, tiles.matrix, tiles.row_begin, tiles.column_begin)
    _, first, same = np.unique(
        np.stack([column[shared] for column in place]), axis=1, return_index=True, return_inverse=True
    )
    rows[shared] = shared[first[same.ravel()]]
    return rows


def own_tiles(layers: Sequence[MappedLayer], tiles: TileTable) -> NDArray[np.bool_]:
    """Return True for each tile that does not use the cells of one before it, [tiles]."""
    own: NDArray[np.bool_] = holders(layers, tiles) == np.arange(len(tiles))
    return own


def own_replicas(layers: Sequence[MappedLayer]) -> Iterator[tuple[MappedLayer, list[Replica]]]:
    """Each layer with its replicas whose cells no layer before it uses."""
    used: set[tuple[str, int]] = set()
    for layer in layers:
        own = [copy for copy in layer.replicas if not layer.shares_with or (layer.shares_with, copy.number) not in used]
        used.update((layer.shares_with, copy.number) for copy in own)
        yield layer, own


def _numbers(layers: Sequence[MappedLayer], tiles: TileTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group of each tile, and the number of its replica in the group, -1 where it shares no cells."""
    most = max((len(layer.replicas) for layer in layers), default=0)
    number = np.full((len(layers), most), -1, np.int64)
    for place, layer in enumerate(layers):
        if layer.shares_with:
            number[place, : len(layer.replicas)] = [replica.number for replica in layer.replicas]
    return first_layers(layers)[tiles.layer], number[tiles.layer, tiles.replica]
