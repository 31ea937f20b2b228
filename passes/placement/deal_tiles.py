"""Deals the tiles of a layer to the places that tiles of the same size have, such that each chip gets a block.

Tiles of one replica with the same rows and columns are interchangeable: arrays keep what they hold of each replica,
and with it their timetables.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import TileTable
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.solving.clock import running_clock

TILE_WORK = 1e-6
"""Work of one order of one tile."""

Order = NDArray[np.int64]


def deal_tiles(traffic: Traffic, kind: NDArray[np.int64], chip: NDArray[np.int64]) -> Order:
    """For each tile the one whose place it takes, [tiles], with the least traffic of some orders of each layer.

    Parameters
    ----------
    kind
        Kind of each tile; those of a kind are interchangeable.
    chip
        Chip of each tile before; each chip keeps as many tiles of a kind.
    """
    taken = np.arange(len(chip))
    homes = traffic.homes(chip)
    for layer, source in enumerate(traffic.sources):
        here = slice(int(traffic.edges[layer]), int(traffic.edges[layer + 1]))
        own, own_chip = np.arange(here.start, here.stop), chip[here]
        if (own_chip == own_chip[0]).all():
            continue
        made_on = int(homes[source]) if source >= 0 else -1
        count = np.bincount(own_chip)
        places = np.lexsort((own_chip, -count[own_chip], kind[here]))
        least, best = traffic.sent(layer, chip, made_on, int(homes[layer])), own
        for order in _orders(traffic.tiles, own):
            if running_clock().is_over:
                break
            running_clock().spend(TILE_WORK * len(own))
            dealt = own.copy()
            dealt[order[np.argsort(kind[own[order]], kind="stable")]] = own[places]
            changed = chip.copy()
            changed[here] = chip[dealt]
            sent = traffic.sent(layer, changed, made_on, int(homes[layer]))
            if sent < least:
                least, best = sent, dealt
        taken[here] = best
    return taken


def _orders(tiles: TileTable, own: Order) -> Iterator[Order]:
    """Orders of a layer's tiles, in bands of some columns or of some rows: places in the table of the layer."""
    row = np.unique(tiles.row_begin[own], return_inverse=True)[1].ravel()
    column = np.unique(tiles.column_begin[own], return_inverse=True)[1].ravel()
    common = (tiles.matrix[own], tiles.replica[own])
    for across, along in ((column, row), (row, column)):
        band = 1
        while band <= max(1, int(across.max())):
            yield np.lexsort((across, along, across // band, *common))
            band *= 2
