"""Places each tile in an array and on its lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import CapacityError
from memcompile.ir.graph import Certificate, Graph, Placement
from memcompile.ir.pass_contract import Amount, Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.sharing import holders
from memcompile.passes.packing.bounds import arrays_bound, packing_interval_bound
from memcompile.passes.packing.exact import pack_exactly
from memcompile.passes.packing.first_fit import Packing, TileShape, group_tiles, pack
from memcompile.passes.placement.assign_arrays import Assigned, assign_arrays
from memcompile.passes.placement.chips import pipeline
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.search.layer_graph import column_lines, mapped_layers, tile_sizes
from memcompile.passes.solving.bisection import first_true
from memcompile.passes.solving.clock import Clock, running

CHIPS_WORK = {"fast": 0.5, "normal": 2.0, "best": 60.0}
"""Work of the assignment of arrays to chips, about seconds of a processor."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Places of tiles (array, input line, output line) and their sizes (rows, lines, steps), both [tiles, 3].

    ``order`` lists them along the pipeline, ``is_shared`` is True for those that share cells, [tiles], ``arrays``
    certifies the number of arrays.
    """

    places: NDArray[np.int64]
    order: NDArray[np.int64]
    sizes: NDArray[np.int64]
    is_shared: NDArray[np.bool_]
    arrays: Certificate


@dataclass(frozen=True)
class Place(Pass):
    """Packs tiles into the fewest arrays that keep the planned interval.

    First fit over equally filled arrays finds a packing for any number of tiles; when it misses
    the lower bound and the tiles are few, CP-SAT searches for a better one and proves it. Arrays are
    then numbered along the pipeline, so that replicas stay on one chip or on neighbouring chips.

    Raises
    ------
    CapacityError
        The tiles do not fit the chips.
    """

    summary: ClassVar[str] = "place tiles in the fewest arrays without overlap"
    consumes: ClassVar[Forms] = frozenset({Form.MAPPED})
    produces: ClassVar[Forms] = frozenset({Form.MAPPED, Form.PLACED})
    fidelity: ClassVar[Fidelity] = "exact"

    exact_tiles: int = 200
    """Most tiles for which CP-SAT is used."""
    exact_arrays: int = 32
    """Most available arrays for which CP-SAT is used."""
    solver_limit: Amount = 1.0
    """Limit of each CP-SAT solve, in its deterministic time (about seconds)."""
    work: Amount = 2.0
    """Limit of all solves together, in the same measure."""
    time_limit_s: Amount = math.inf
    """Seconds after which the search ends with the best it has; then results depend on the machine."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        placement = graph.placement
        assert placement is not None, "place comes after replicate"
        tiles = placement.tiles
        if not len(tiles) or placement.segments:
            return graph  # tiles of segments are placed
        traffic = Traffic(graph, tiles)
        packed = self.packed(graph, traffic, context)
        # Tiles that share cells stay together, so that each of them is a kind of its own.
        sharing = np.where(packed.is_shared, 1 + np.arange(len(tiles)), 0)
        places, size = packed.places, _numbered(np.column_stack([packed.sizes, sharing]))
        # Tiles of one replica wait for the same inputs: exchanging those of a size changes no timetable.
        kind = _numbered(np.stack([size, tiles.layer, tiles.replica], axis=1))
        with running(Clock.after(self.time_limit_s, CHIPS_WORK[context.effort])):
            found = assign_arrays(traffic, places[:, 0], packed.order, size, kind, context.target, placement.chips)
        placed = np.stack([found.array, *places[found.taken, 1:].T]).astype(np.int32)
        tiles = tiles.with_columns(array=placed[0], input_line=placed[1], output_line=placed[2])
        return graph.replace(
            placement=replace(
                placement,
                tiles=tiles,
                certificates=(*placement.certificates, packed.arrays, _crossing(found)),
                crossing_values=found.crossing,
            )
        )

    def packed(self, graph: Graph, traffic: Traffic, context: PassContext) -> Packed:
        """Tiles in arrays that are not yet assigned to chips.

        Raises
        ------
        CapacityError
            The tiles do not fit the chips.
        """
        placement = graph.placement
        assert placement is not None, "place comes after replicate"
        layers, tiles = mapped_layers(graph), placement.tiles
        lines = column_lines(layers, context.target)
        holder = holders(layers, tiles)
        own_sizes, own = tile_sizes(layers, tiles, context.target)
        sizes = np.zeros((len(tiles), 3), np.int64)
        sizes[own] = own_sizes
        draft = np.stack([tiles.array, tiles.input_line, tiles.output_line], axis=1).astype(np.int64)
        weights_per_chip = context.target.chip.arrays * context.target.array.crossings // int(lines.max())
        # Interchangeable tiles fill the arrays in the order they are listed.
        order = pipeline(traffic, weights_per_chip) if placement.chips > 1 else np.arange(len(tiles))
        packed = order[holder[order] == order]
        places = np.empty((len(tiles), 3), np.int64)
        with running(Clock.after(self.time_limit_s, self.work)) as clock:
            places[packed], arrays = self._pack(sizes[packed], draft[packed], context, placement, clock)
        is_shared = (np.bincount(holder, minlength=len(tiles)) > 1)[holder]
        return Packed(places[holder], order, sizes[holder], is_shared, arrays)

    def _pack(
        self,
        sizes: NDArray[np.int64],
        draft: NDArray[np.int64],
        context: PassContext,
        placement: Placement,
        clock: Clock,
    ) -> tuple[NDArray[np.int64], Certificate]:
        """Places [tiles, 3] (array, input line, output line), and the certificate of the number of arrays."""
        lines = (context.target.array.input_lines, context.target.array.output_lines)
        budget = placement.chips * context.target.chip.arrays
        shapes, members = group_tiles(sizes[:, 0], sizes[:, 1], sizes[:, 2])
        interval = placement.initiation_interval_steps or _first_interval(shapes, lines, budget)
        bound, method = arrays_bound(shapes, lines, interval), "dual feasible functions"
        drafted = len(np.unique(draft[:, 0])) if draft.min() >= 0 else budget + 1
        if drafted <= budget and _is_for_latency(placement):
            # The plan was chosen for its latency; in fewer arrays tiles would wait for each other.
            return draft, Certificate("arrays", drafted, bound, f"{method}, at most {interval} steps an array")
        packing = pack(shapes, lines, interval, min(budget, drafted - 1), enough=bound)
        found = drafted if packing is None else packing.arrays
        if bound < found and len(sizes) <= self.exact_tiles and budget <= self.exact_arrays:
            better, bound, method = self._improve(shapes, lines, interval, found, bound, method, clock)
            packing = better or packing
        if packing is None and drafted > budget:
            raise CapacityError(self._message(bound, interval, context, placement.chips))
        places = draft if packing is None else packing.expand(members, len(sizes))
        found = drafted if packing is None else packing.arrays
        return places, Certificate("arrays", found, bound, f"{method}, at most {interval} steps an array")

    def _improve(
        self,
        shapes: list[TileShape],
        lines: tuple[int, int],
        interval: int,
        found: int,
        bound: int,
        method: str,
        clock: Clock,
    ) -> tuple[Packing | None, int, str]:
        """A packing in fewer than ``found`` arrays by CP-SAT, tried from the lower bound upwards."""
        for arrays in range(bound, found):
            if clock.is_over:
                break
            exact = pack_exactly(shapes, lines, arrays, interval, self.solver_limit)
            if exact.packing is not None:
                return exact.packing, bound, method
            if exact.impossible and arrays == bound:
                bound, method = arrays + 1, "CP-SAT, distribution of tiles over arrays"
        return None, bound, method

    @staticmethod
    def _message(bound: int, interval: int, context: PassContext, chips: int) -> str:
        per_chip = context.target.chip.arrays
        return (
            f"needs {bound} arrays or more for an interval of {interval} steps, {chips} chips have "
            f"{chips * per_chip}; use --chips {max(chips + 1, -(-bound // per_chip))}"
        )


def _is_for_latency(placement: Placement) -> bool:
    """Return True if the plan was chosen for its latency."""
    return any(item.quantity == "latency" for item in placement.certificates)


def _numbered(facts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each row among the different ones, [rows]."""
    return np.unique(facts, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _crossing(found: Assigned) -> Certificate:
    return Certificate("crossing_values", found.crossing, found.bound, found.method)


def _first_interval(shapes: list[TileShape], lines: tuple[int, int], budget: int) -> int:
    """Shortest interval first fit reaches with these tiles, for a graph without a planned one."""
    low = packing_interval_bound(shapes, lines, budget)
    high = sum(shape.load * shape.count for shape in shapes)
    return first_true(low, high, lambda interval: pack(shapes, lines, interval, budget, enough=budget) is not None)
