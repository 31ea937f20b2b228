"""Cuts weight matrices into tiles that fit an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import Graph, PairedLayer, TiledLayer, carry
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.packing.tiling import full_cut, largest_bundle, tile_limits


@dataclass(frozen=True)
class TileMatrices(Pass):
    """Cuts each weight matrix at the array's size: full tiles first, the remainder last.

    A tile has no more rows than the array drives at once. All pairs and slices of a weight are neighbours on one
    array, so a tile holds at most ``output_lines // (lines_per_pair * slices)`` columns. Groups of a grouped
    convolution that fit one tile together share it on its block diagonal, so that one step serves them all.

    Raises
    ------
    CapacityError
        The pairs of one weight need more output lines than an array has.
    """

    summary: ClassVar[str] = "cut weight matrices into tiles that fit an array"
    consumes: ClassVar[Forms] = frozenset({Form.PAIRED})
    produces: ClassVar[Forms] = frozenset({Form.TILED})
    fidelity: ClassVar[Fidelity] = "exact"

    bundle_groups: bool = True
    """Put groups of a grouped convolution side by side on the diagonal of one tile."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        changed = {}
        for node in graph.nodes:
            if isinstance(node, PairedLayer):
                rows, columns = tile_limits(context.target, node.slices)
                bundle = largest_bundle(node.geometry, rows, columns) if self.bundle_groups else 1
                unrolling = Unrolling(node.geometry, (1,) * node.geometry.rank, bundle)
                changed[node.name] = carry(
                    TiledLayer, node, unrolling=unrolling, cut=full_cut(unrolling, rows, columns)
                )
        return graph.map_nodes(changed)
