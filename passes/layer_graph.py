"""The crossbar layers of a graph and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import Graph, IntegerLayer, MappedLayer, TileTable, read_values


def mapped_layers(graph: Graph) -> tuple[MappedLayer, ...]:
    """Layers with copies, in graph order: the order of ``TileTable.layer``."""
    return tuple(node for node in graph.nodes if isinstance(node, MappedLayer))


def layer_sources(graph: Graph) -> list[tuple[int, ...]]:
    """Per crossbar layer: the numbers of the crossbar layers it reads, directly or through digital nodes."""
    behind: dict[str, frozenset[int]] = {}
    sources: list[tuple[int, ...]] = []
    for node in graph.nodes:
        read = frozenset[int]().union(*(behind.get(value, frozenset()) for value in read_values(node)))
        if isinstance(node, IntegerLayer):
            made = frozenset((len(sources),))
            sources.append(tuple(sorted(read)))
        else:
            made = read
        behind.update(dict.fromkeys(node.outputs, made))
    return sources


def tile_loads(layers: Sequence[MappedLayer], tiles: TileTable) -> NDArray[np.int64]:
    """Steps of each tile per image: the windows of its copy."""
    most = max((len(layer.replicas) for layer in layers), default=0)
    windows = np.zeros((len(layers), most), np.int64)
    for number, layer in enumerate(layers):
        windows[number, : len(layer.replicas)] = [len(replica.windows) for replica in layer.replicas]
    return windows[tiles.layer, tiles.replica]
