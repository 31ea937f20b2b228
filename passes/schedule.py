"""Decides when each tile works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import Certificate, Graph, MappedLayer, TileTable
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.layer_graph import layer_sources, mapped_layers, tile_loads
from memcompile.passes.packing import group_tiles
from memcompile.passes.packing_bounds import packing_interval_bound


@dataclass(frozen=True)
class Schedule(Pass):
    """Gives each tile its first step, for one image alone and in the pipelined steady state.

    A tile works through its copy's windows in consecutive steps; the tiles of one array take
    turns. For one image alone a layer starts when all layers it depends on are complete. In the
    steady state every layer works on another image, so only the arrays bind: the interval is the
    largest sum of steps in an array.
    """

    summary: ClassVar[str] = "decide in which steps each tile works"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        placement = graph.placement
        assert placement is not None, "schedule comes after replicate and place"
        layers = mapped_layers(graph)
        tiles = placement.tiles
        loads = tile_loads(layers, tiles)
        start, latency = one_image(tiles, loads, layer_sources(graph))
        slot, interval = steady_state(tiles.array, loads)
        planned = [item for item in placement.certificates if item.quantity == "initiation_interval"]
        others = tuple(
            replace(item, value=latency, bound=min(item.bound, latency)) if item.quantity == "latency" else item
            for item in placement.certificates
            if item.quantity != "initiation_interval"
        )
        bound, method = _bound(layers, tiles, loads, context)
        if planned:
            bound, method = planned[-1].bound, planned[-1].method
        certificate = Certificate("initiation_interval", interval, min(bound, interval), method)
        return graph.replace(
            placement=replace(
                placement,
                tiles=tiles.with_columns(start=start.astype(np.int32), slot=slot.astype(np.int32)),
                certificates=(*others, certificate),
                initiation_interval_steps=interval,
                latency_steps=latency,
            )
        )


def _bound(
    layers: Sequence[MappedLayer], tiles: TileTable, loads: NDArray[np.int64], context: PassContext
) -> tuple[int, str]:
    """Bound for these very tiles, for a graph that no planning pass has gone over."""
    if not len(tiles):
        return 0, "no tiles"
    array, chips = context.target.array, context.chips
    slices = np.array([layer.slices for layer in layers], np.int32)
    shapes, _ = group_tiles(tiles.heights, tiles.widths(slices), loads)
    arrays = chips * context.target.chip.arrays if chips else int(tiles.array.max()) + 1
    bound = packing_interval_bound(shapes, (array.input_lines, array.output_lines), arrays)
    return bound, "dual feasible functions over the given copies, one tile a step per array"


def turns(arrays: NDArray[np.int32], loads: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First step of each tile when the tiles of an array follow each other in table order.

    Returns
    -------
    First steps [tiles], and the last step plus one per array, [arrays].
    """
    order = np.argsort(arrays, kind="stable")
    sorted_loads = loads[order]
    ends = np.cumsum(sorted_loads)
    busy = np.bincount(arrays, weights=loads, minlength=int(arrays.max(initial=-1)) + 1).astype(np.int64)
    before = np.cumsum(busy) - busy
    first = np.empty(len(arrays), np.int64)
    first[order] = ends - sorted_loads - before[arrays[order]]
    return first, busy


def steady_state(arrays: NDArray[np.int32], loads: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """First step of each tile within the interval, and the interval."""
    if not len(arrays):
        return np.zeros(0, np.int64), 0
    slot, busy = turns(arrays, loads)
    return slot, int(busy.max())


def one_image(
    tiles: TileTable, loads: NDArray[np.int64], sources: Sequence[tuple[int, ...]]
) -> tuple[NDArray[np.int64], int]:
    """First step of each tile for one image alone, and the steps until the last tile is done."""
    start = np.full(len(tiles), -1, np.int64)
    complete = [0] * len(sources)
    edges = np.searchsorted(tiles.layer, np.arange(len(sources) + 1))
    free = np.zeros(int(tiles.array.max(initial=-1)) + 1, np.int64)
    for layer, before in enumerate(sources):
        here = slice(int(edges[layer]), int(edges[layer + 1]))
        ready = max((complete[number] for number in before), default=0)
        used, local = np.unique(tiles.array[here], return_inverse=True)
        first, busy = turns(local.ravel().astype(np.int32), loads[here])
        begin = np.maximum(free[used], ready)
        start[here] = begin[local.ravel()] + first
        free[used] = begin + busy
        complete[layer] = int((begin + busy).max(initial=ready))
    return start, max(complete, default=0)
