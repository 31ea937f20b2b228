"""Decides when each tile works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.dataflow_steps import Flow
from memcompile.ir import Certificate, Graph, MappedLayer, TileTable
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.layer_graph import mapped_layers, tile_loads
from memcompile.passes.packing import group_tiles
from memcompile.passes.packing_bounds import packing_interval_bound
from memcompile.passes.timetables import one_image, pipeline, turns_of_arrays
from memcompile.timetable import find_rhythms


@dataclass(frozen=True)
class Schedule(Pass):
    """Gives each tile its steps, for one image alone and in the pipelined steady state.

    A tile works through its copy's windows in order, one a step; the tiles of one array take
    turns. For one image alone a window is worked on as soon as its inputs exist and its array is
    free, so that layers overlap as far as their data allows. Digital operators take no steps. In
    the steady state every layer works on another image, so only the arrays bind: the interval is
    the largest sum of steps in an array, and each tile lags behind the entry of its image by the
    fewest intervals after which its inputs exist.
    """

    summary: ClassVar[str] = "decide in which steps each tile works"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        placement = graph.placement
        assert placement is not None, "schedule comes after replicate and place"
        layers = mapped_layers(graph)
        tiles, flow = placement.tiles, Flow.of_graph(graph)
        loads = tile_loads(layers, tiles)
        alone = one_image(flow, tiles)
        rhythms, pauses = find_rhythms(alone.tables)
        starts = np.array([table[0] for table in alone.tables], np.int32)
        slot, interval = turns_of_arrays(tiles.array, loads)
        steady = pipeline(flow, tiles, slot, interval)
        return graph.replace(
            placement=replace(
                placement,
                tiles=tiles.with_columns(
                    start=starts[alone.table], rhythm=rhythms[alone.table], slot=slot, lag=steady.lag
                ),
                pauses=pauses,
                certificates=_certificates(graph, context, loads, interval, alone.latency),
                initiation_interval_steps=interval,
                latency_steps=alone.latency,
                pipelined_latency_steps=steady.latency,
            )
        )


def _certificates(
    graph: Graph, context: PassContext, loads: NDArray[np.int64], interval: int, latency: int
) -> tuple[Certificate, ...]:
    """What was planned, with the values that the schedule has."""
    assert graph.placement is not None
    planned = [item for item in graph.placement.certificates if item.quantity == "initiation_interval"]
    others = tuple(
        replace(item, value=latency, bound=min(item.bound, latency)) if item.quantity == "latency" else item
        for item in graph.placement.certificates
        if item.quantity != "initiation_interval"
    )
    bound, method = _bound(mapped_layers(graph), graph.placement.tiles, loads, context)
    if planned:
        bound, method = planned[-1].bound, planned[-1].method
    return (*others, Certificate("initiation_interval", interval, min(bound, interval), method))


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
