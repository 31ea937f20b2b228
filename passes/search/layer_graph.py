"""Crossbar layers of a graph and their dependences."""

from __future__ import annotations

from memcompile.ir.graph import Graph, IntegerLayer, MappedLayer, read_values
from memcompile.timing.timetable import column_lines, tile_loads, tile_turns

__all__ = ["column_lines", "mapped_layers", "tile_loads", "tile_turns", "values_from_layers"]


def mapped_layers(graph: Graph) -> tuple[MappedLayer, ...]:
    """Layers with replicas, in graph order: the order of ``TileTable.layer``."""
    return tuple(node for node in graph.nodes if isinstance(node, MappedLayer))


def values_from_layers(graph: Graph) -> frozenset[str]:
    """Values that depend on a crossbar layer; all others come from outside, through digital nodes or not."""
    found: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, IntegerLayer) or not found.isdisjoint(read_values(node)):
            found.update(node.outputs)
    return frozenset(found)
