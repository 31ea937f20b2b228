"""Assigns steps to each tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from memcompile.ir.graph import Certificate, Graph, MappedLayer, Placement, Segment, TileTable
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.packing.bounds import packing_interval_bound
from memcompile.passes.packing.first_fit import group_tiles
from memcompile.passes.placement.timetables import one_image, pipeline
from memcompile.passes.search.layer_graph import mapped_layers, tile_loads, tile_sizes, tile_turns
from memcompile.timing.dataflow_steps import Flow, Steps
from memcompile.timing.timetable import find_rhythms, step_ns


@dataclass(frozen=True)
class Schedule(Pass):
    """Gives each tile its steps, for one image alone and in the pipelined steady state.

    A tile works through its replica's windows in order, one a step, or in as many steps as its output lines take
    turns; the tiles of one array take turns, too. For one image alone a window is computed as soon as its inputs
    exist and its array is free, so that layers overlap as far as their data allows. Digital operators take no
    steps. In the steady state images follow each other, and only the arrays bind: the interval is the largest sum
    of steps in an array. Each tile begins as soon as it can run without a pause and its array has enough free turns
    in a row, and repeats this in every interval. Where the arrays are written anew for each segment, each segment
    has a schedule of its own.
    """

    summary: ClassVar[str] = "decide in which steps each tile works"
    consumes: ClassVar[Forms] = frozenset({Form.DIGITAL, Form.MAPPED, Form.PLACED})
    produces: ClassVar[Forms] = frozenset({Form.DIGITAL, Form.MAPPED, Form.PLACED, Form.SCHEDULED})
    fidelity: ClassVar[Fidelity] = "exact"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        placement = graph.placement
        assert placement is not None, "schedule comes after replicate and place"
        layers = mapped_layers(graph)
        flow, turns = Flow.of_graph(graph), tile_turns(layers, placement.tiles, context.target)
        loads = tile_loads(layers, placement.tiles, context.target)
        tables: list[Steps] = []
        table, slot, lag = (np.zeros(len(placement.tiles), np.int64) for _ in range(3))
        segments = []
        for part in placement.parts():
            rows, tiles = part.rows, part.placement.tiles
            alone = one_image(flow, tiles, turns[rows], part.layers)
            table[rows] = alone.table + len(tables)
            tables += alone.tables
            steady = pipeline(flow, tiles, loads[rows], turns[rows], part.layers)
            slot[rows], lag[rows] = steady.slot, steady.lag
            segments.append(Segment(steady.interval, alone.latency, steady.latency))
        rhythms, pauses = find_rhythms(tables)
        starts = np.array([steps[0] for steps in tables], np.int32)
        tiles = placement.tiles.with_columns(start=starts[table], rhythm=rhythms[table], slot=slot, lag=lag)
        scheduled = replace(
            placement,
            tiles=tiles,
            pauses=pauses,
            initiation_interval_steps=sum(segment.initiation_interval_steps for segment in segments),
            latency_steps=sum(segment.latency_steps for segment in segments),
            pipelined_latency_steps=sum(segment.pipelined_latency_steps for segment in segments),
        )
        if placement.segments:
            filled = _with_filling(placement, segments, step_ns(layers, context.target))
            return graph.replace(placement=replace(scheduled, segments=tuple(segments), certificates=filled))
        (whole,) = segments
        certificates = _certificates(graph, context, whole.initiation_interval_steps, whole.latency_steps)
        return graph.replace(placement=replace(scheduled, certificates=certificates))


def _with_filling(placement: Placement, segments: Sequence[Segment], step: float) -> tuple[Certificate, ...]:
    """The planned time of a pass, with the steps in which pipelines fill.

    These are never fewer than planned: an array is busy with an image for its share of the interval, in any schedule.
    """
    planned = placement.batch * sum(segment.initiation_interval_steps for segment in placement.segments)
    steps = sum(segment.steps(placement.batch) for segment in segments)
    filling_ns = math.ceil((steps - planned) * step)
    return tuple(
        replace(item, value=item.value + filling_ns) if item.quantity == "pass_time_ns" else item
        for item in placement.certificates
    )


def _certificates(graph: Graph, context: PassContext, interval: int, latency: int) -> tuple[Certificate, ...]:
    """Certificates of the plan, with the values of the schedule."""
    assert graph.placement is not None
    planned = [item for item in graph.placement.certificates if item.quantity == "initiation_interval"]
    others = tuple(
        replace(item, value=latency) if item.quantity == "latency" else item
        for item in graph.placement.certificates
        if item.quantity != "initiation_interval"
    )
    if planned:
        (plan,) = planned
        return (*others, replace(plan, value=interval))
    bound, method = _bound(mapped_layers(graph), graph.placement.tiles, context)
    return (*others, Certificate("initiation_interval", interval, bound, method))


def _bound(layers: Sequence[MappedLayer], tiles: TileTable, context: PassContext) -> tuple[int, str]:
    """Bound for these tiles, for a graph without a planning pass."""
    if not len(tiles):
        return 0, "no tiles"
    array, chips = context.target.array, context.chips
    sizes, _ = tile_sizes(layers, tiles, context.target)
    shapes, _ = group_tiles(*sizes.T)
    arrays = chips * context.target.chip.arrays if chips else int(tiles.array.max()) + 1
    bound = packing_interval_bound(shapes, (array.input_lines, array.output_lines), arrays)
    return bound, "dual feasible functions over the given copies, one tile a step per array"
