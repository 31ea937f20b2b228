"""Crossbar layers of a graph and their dependences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.ir.graph import Graph, IntegerLayer, MappedLayer, TileTable, read_values
from memcompile.ir.sharing import holders
from memcompile.timing.timetable import column_lines, tile_loads, tile_turns

__all__ = ["column_lines", "mapped_layers", "tile_loads", "tile_sizes", "tile_turns", "values_from_layers"]


def mapped_layers(graph: Graph) -> tuple[MappedLayer, ...]:
    """Layers with replicas, in graph order: the order of ``TileTable.layer``."""
    return tuple(node for node in graph.nodes if isinstance(node, MappedLayer))


def tile_sizes(
    layers: Sequence[MappedLayer], tiles: TileTable, target: Target
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, lines and steps of the tiles that have cells of their own, [own tiles, 3], and their rows of the table.

    The steps are those of all tiles that use the cells.
    """
    holder = holders(layers, tiles)
    loads = np.bincount(holder, tile_loads(layers, tiles, target), len(tiles)).astype(np.int64)
    own = np.flatnonzero(holder == np.arange(len(tiles)))
    widths = tiles.widths(column_lines(layers, target))
    return np.stack([tiles.heights[own], widths[own], loads[own]], axis=1).astype(np.int64), own


def values_from_layers(graph: Graph) -> frozenset[str]:
    """Values that depend on a crossbar layer; all others come from outside, through digital nodes or not."""
    found: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, IntegerLayer) or not found.isdisjoint(read_values(node)):
            found.update(node.outputs)
    return frozenset(found)
