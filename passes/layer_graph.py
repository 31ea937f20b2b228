"""The crossbar layers of a graph and what they depend on."""

from __future__ import annotations

from memcompile.ir import Graph, IntegerLayer, MappedLayer, read_values
from memcompile.timetable import column_lines, tile_loads

__all__ = ["column_lines", "layer_sources", "mapped_layers", "tile_loads"]


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
