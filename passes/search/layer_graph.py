"""Crossbar layers of a graph and their dependences."""

from __future__ import annotations

from memcompile.ir.graph import Graph, IntegerLayer, MappedLayer, read_values
from memcompile.timing.timetable import column_lines, tile_loads

__all__ = ["column_lines", "layer_sources", "mapped_layers", "tile_loads", "values_from_layers"]


def mapped_layers(graph: Graph) -> tuple[MappedLayer, ...]:
    """Layers with replicas, in graph order: the order of ``TileTable.layer``."""
    return tuple(node for node in graph.nodes if isinstance(node, MappedLayer))


def layer_sources(graph: Graph) -> list[tuple[int, ...]]:
    """Numbers of the crossbar layers that each crossbar layer reads, directly or through digital nodes."""
    behind = _layers_behind(graph)
    layers = [node for node in graph.nodes if isinstance(node, IntegerLayer)]
    return [
        tuple(sorted(frozenset[int]().union(*(behind[value] for value in read_values(layer) if value in behind))))
        for layer in layers
    ]


def values_from_layers(graph: Graph) -> frozenset[str]:
    """Values that depend on a crossbar layer; all others come from outside, through digital nodes or not."""
    return frozenset(_layers_behind(graph))


def _layers_behind(graph: Graph) -> dict[str, frozenset[int]]:
    """Numbers of the crossbar layers that each value comes from, directly or through digital nodes; never none."""
    behind: dict[str, frozenset[int]] = {}
    layers = 0
    for node in graph.nodes:
        if isinstance(node, IntegerLayer):
            made = frozenset((layers,))
            layers += 1
        else:
            made = frozenset[int]().union(*(behind[value] for value in read_values(node) if value in behind))
        if made:
            behind.update(dict.fromkeys(node.outputs, made))
    return behind
