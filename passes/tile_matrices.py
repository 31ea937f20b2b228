"""Cuts weight matrices into tiles that fit an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memcompile.errors import CapacityError
from memcompile.geometry import Geometry, Unrolling
from memcompile.ir import Cut, Graph, PairedLayer, TiledLayer, carry
from memcompile.pass_manager import Pass, PassContext
from memcompile.target import Target


@dataclass(frozen=True)
class TileMatrices(Pass):
    """Cuts each weight matrix at the array's size: full tiles first, the rest last.

    All pairs and slices of a weight are neighbours on one array, so a tile holds at most
    ``output_lines // (lines_per_pair * slices)`` columns. Groups of a grouped convolution that fit one tile
    together share it on its block diagonal, so that one step serves them all.

    Raises
    ------
    CapacityError
        The pairs of one weight need more output lines than an array has.
    """

    summary: ClassVar[str] = "cut weight matrices into tiles that fit an array"

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


def tile_limits(target: Target, slices: int) -> tuple[int, int]:
    """Most rows and columns of a tile.

    Raises
    ------
    CapacityError
        The pairs of one weight need more output lines than an array has.
    """
    array = target.array
    columns = array.output_lines // (array.lines_per_pair * slices)
    if columns == 0:
        raise CapacityError(
            f"one weight of {slices} slices needs {array.lines_per_pair * slices} {array.output_line_name}s, "
            f"an array of {target.name} has {array.output_lines}; "
            f"use --slices {array.output_lines // array.lines_per_pair} or fewer"
        )
    return target.array.input_lines, columns


def largest_bundle(geometry: Geometry, rows: int, columns: int) -> int:
    """Most groups whose block diagonal fits one tile (1 if not even one group fits)."""
    return max(1, min(geometry.groups, rows // geometry.group_rows, columns // geometry.group_columns))


def full_cut(unrolling: Unrolling, rows: int, columns: int) -> Cut:
    """Cut into tiles of ``rows`` x ``columns``, with what is left over in the last ones."""
    return Cut(
        rows=(*range(0, unrolling.rows, rows), unrolling.rows),
        columns=(*range(0, unrolling.columns, columns), unrolling.columns),
    )
