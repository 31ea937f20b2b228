"""Decides in which array and on which lines each tile sits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import CapacityError
from memcompile.ir import Certificate, Graph
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.chips import crossing_values, order_along_pipeline
from memcompile.passes.layer_graph import layer_sources, mapped_layers
from memcompile.passes.packing import Packing, TileShape, group_tiles, pack
from memcompile.passes.packing_bounds import arrays_bound, packing_interval_bound
from memcompile.passes.packing_exact import pack_exactly
from memcompile.passes.schedule import tile_loads


@dataclass(frozen=True)
class Place(Pass):
    """Packs tiles into the fewest arrays that keep the planned interval.

    First fit over equally filled arrays finds a packing for any number of tiles; when it misses
    the lower bound and the tiles are few, CP-SAT looks for a better one and proves it. Arrays are
    then numbered along the pipeline, so that copies stay on one chip or on neighbouring chips.

    Raises
    ------
    CapacityError
        The tiles do not fit the chips.
    """

    summary: ClassVar[str] = "place tiles in the fewest arrays without overlap"

    exact_tiles: int = 200
    """Most tiles for which CP-SAT is asked."""
    exact_arrays: int = 32
    """Most arrays at hand for which CP-SAT is asked."""
    solver_limit: float = 1.0
    """Limit of each CP-SAT solve, in its deterministic time (about seconds)."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        placement = graph.placement
        assert placement is not None, "place comes after replicate"
        tiles = placement.tiles
        if not len(tiles):
            return graph
        layers = mapped_layers(graph)
        slices = np.array([layer.slices for layer in layers], np.int32)
        loads = tile_loads(layers, tiles)
        sizes = np.stack([tiles.heights, tiles.widths(slices), loads], axis=1).astype(np.int64)
        places, arrays = self._pack(sizes, context, placement.chips, placement.initiation_interval_steps)
        numbers = order_along_pipeline(places[:, 0], tiles)
        placed = np.stack([numbers, places[:, 1], places[:, 2]]).astype(np.int32)
        tiles = tiles.with_columns(array=placed[0], input_line=placed[1], output_line=placed[2])
        crossing = crossing_values(layers, tiles, layer_sources(graph), context.target.chip.arrays)
        return graph.replace(
            placement=replace(
                placement,
                tiles=tiles,
                certificates=(*placement.certificates, arrays),
                crossing_values=crossing,
            )
        )

    def _pack(
        self, sizes: NDArray[np.int64], context: PassContext, chips: int, interval: int
    ) -> tuple[NDArray[np.int64], Certificate]:
        """Places [tiles, 3] (array, input line, output line) and what is proven of their number."""
        array = context.target.array
        lines = (array.input_lines, array.output_lines)
        budget = chips * context.target.chip.arrays
        shapes, members = group_tiles(sizes[:, 0], sizes[:, 1], sizes[:, 2])
        interval = interval or _first_interval(shapes, lines, budget)
        bound = arrays_bound(shapes, lines, interval)
        packing = pack(shapes, lines, interval, budget, enough=bound)
        method = "dual feasible functions"
        if len(sizes) <= self.exact_tiles and budget <= self.exact_arrays:
            packing, bound, method = self._improve(shapes, lines, interval, budget, packing, bound, method)
        if packing is None:
            raise CapacityError(
                f"needs {bound} arrays or more for an interval of {interval} steps, "
                f"{chips} chips have {budget}; use --chips {-(-bound // context.target.chip.arrays) + 1}"
            )
        found = Certificate("arrays", packing.arrays, bound, f"{method}, at most {interval} steps an array")
        return packing.expand(members, len(sizes)), found

    def _improve(
        self,
        shapes: list[TileShape],
        lines: tuple[int, int],
        interval: int,
        budget: int,
        packing: Packing | None,
        bound: int,
        method: str,
    ) -> tuple[Packing | None, int, str]:
        """Fewer arrays as long as CP-SAT finds them, from the fewest possible upwards."""
        arrays = bound
        while arrays < (budget + 1 if packing is None else packing.arrays):
            exact = pack_exactly(shapes, lines, arrays, interval, self.solver_limit)
            if exact.packing is not None:
                return exact.packing, bound, method
            arrays += 1
            if exact.impossible and arrays == bound + 1:
                bound, method = arrays, "CP-SAT, distribution of tiles over arrays"
        return packing, bound, method


def _first_interval(shapes: list[TileShape], lines: tuple[int, int], budget: int) -> int:
    """Shortest interval first fit reaches with these tiles, for a graph without a planned one."""
    low = packing_interval_bound(shapes, lines, budget)
    high = sum(shape.load * shape.count for shape in shapes)
    while low < high:
        middle = (low + high) // 2
        if pack(shapes, lines, middle, budget, enough=budget) is None:
            low = middle + 1
        else:
            high = middle
    return high
