"""Cuts a network that is larger than its chips into segments, which are written onto them one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError
from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.pulses import LevelWrites
from memcompile.hardware.target import Target
from memcompile.ir.graph import Certificate, Graph, Placement, Replica, Segment, TiledLayer, TileTable
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.packing.first_fit import group_tiles
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.replicate import with_replicas
from memcompile.passes.search.explore_windows import ReplicaOption, option_of, useful_windows
from memcompile.passes.search.layer_graph import column_lines, mapped_layers, tile_loads
from memcompile.passes.search.layer_groups import alone, layer_groups
from memcompile.passes.search.problem import Choice
from memcompile.passes.search.single_replicas import layer_kinds, single_replicas
from memcompile.passes.segments.costs import CutLayer, SegmentCosts, shortest_packing
from memcompile.passes.segments.plan import PlannedSegment, plan_segments
from memcompile.passes.solving.clock import Clock, running
from memcompile.program.tile_writes import sums_of_tiles, sums_of_weights
from memcompile.timing.timetable import step_ns

ROUNDING = 1e-9
"""More than the relative rounding error of a sum over a million tiles: by so much a bound is rounded down."""


@dataclass(frozen=True)
class CutSegments(Pass):
    """Cuts a network that is larger than its chips into segments that fit them.

    Applies only where requested and where the network does not fit. All images of a batch go through one
    segment, then the next segment is written over it. The cut makes the time for a batch short:
    writing and erasing each cell, plus the batch times each segment's interval. Cuts are between
    tiles, so that a layer may lie in several segments; its sums are then completed digitally. The
    window of each layer is the one with the least time if no array ever waited, and the sum of these
    least times is a lower bound for any cut. The cut itself is the best one for these windows.

    Raises
    ------
    UsageError
        The target has no ``write_verify`` section.
    """

    summary: ClassVar[str] = "cut a network that is larger than its chips into segments, if asked to"
    consumes: ClassVar[Forms] = frozenset({Form.TILED})
    produces: ClassVar[Forms] = frozenset({Form.TILED})
    fidelity: ClassVar[Fidelity] = "exact"

    parallel_windows: bool = True
    """Try windows of several output positions; otherwise one position a step."""
    share_cells: bool = True
    """Count weights that several layers use once: a network that fits so is not cut. Segments share none."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        layers = [node for node in graph.nodes if isinstance(node, TiledLayer)]
        if context.batch is None or context.chips is None or self._fits(layers, context):
            return graph
        prices = _Prices.of(layers, context)
        windows = [_cheapest_window(layer, prices, self.parallel_windows) for layer in layers]
        cut = [_cut_layer(layer, option, prices) for layer, (option, _) in zip(layers, windows, strict=True)]
        array = context.target.array
        lines, turns = (array.input_lines, array.output_lines), LineTurns.of(context.target)
        costs = SegmentCosts(cut, lines, prices.arrays, prices.interval_ns, turns)
        with running(Clock.after(math.inf)):
            segments = plan_segments(costs)
        graph = with_replicas(graph, alone(layers), _copies(cut, segments))
        placement = _placed(graph, cut, segments, context)
        total_ns = sum(segment.choice.cost_ns for segment in segments)
        kind = "one rectangular window per layer" if self.parallel_windows else "one position a step"
        method = f"least writing and computing time of each layer, arrays shared without waste, over {kind} and any cut"
        # No segment writes a layer's tiles in less time, and its arrays share all steps at best evenly.
        bound_ns = (1 - ROUNDING) * sum(least_ns for _, least_ns in windows)
        certificate = Certificate("pass_time_ns", math.ceil(total_ns), math.floor(bound_ns), method)
        return graph.replace(placement=replace(placement, certificates=(certificate,)))

    def _fits(self, layers: Sequence[TiledLayer], context: PassContext) -> bool:
        if not layers:
            return True
        assert context.chips is not None
        groups = layer_groups(layers, context.one_position) if self.share_cells else alone(layers)
        single = single_replicas(layer_kinds(groups, context.target, None, windows=False), context.target)
        return single.packing.arrays <= context.chips * context.target.chip.arrays


@dataclass(frozen=True, eq=False)
class _Prices:
    """Costs of cells and steps: ``write_ns`` [levels] to write and erase a cell, ``interval_ns`` per step."""

    target: Target
    arrays: int
    write_ns: NDArray[np.float64]
    interval_ns: float

    @classmethod
    def of(cls, layers: Sequence[TiledLayer], context: PassContext) -> _Prices:
        assert context.chips is not None
        assert context.batch is not None
        target, spec = context.target, context.target.write_verify
        if spec is None:
            raise UsageError(
                f"target {target.name} does not say what writing takes, so there is no best cut into segments; give it "
                "a [write_verify] section, or as many chips as the network needs"
            )
        cell_ns = LevelWrites.and_back(target.cell, spec).time_ns(spec) / (spec.cells_at_once * context.chips)
        return cls(target, context.chips * target.chip.arrays, cell_ns, context.batch * step_ns(layers, target))


def _cheapest_window(layer: TiledLayer, prices: _Prices, windows: bool) -> tuple[ReplicaOption, float]:
    """Return the window with the least time if no array ever waited, and that time in nanoseconds."""
    limits = tile_limits(prices.target, layer.slices)
    lines, turns = layer.slices * prices.target.array.lines_per_pair, LineTurns.of(prices.target)
    table = useful_windows(layer.geometry, *limits, lines, turns)
    write_ns = float(sums_of_weights(layer, prices.write_ns).sum())
    least_ns = table.outputs * write_ns + prices.interval_ns / prices.arrays * table.work
    if not windows:
        least_ns = np.where(table.outputs == 1, least_ns, np.inf)
    best = int(np.argmin(least_ns))
    return option_of(table, best, layer.geometry, limits[0], lines, turns), float(least_ns[best])


def _cut_layer(layer: TiledLayer, option: ReplicaOption, prices: _Prices) -> CutLayer:
    """The tiles of a replica, column by column: row tiles of one column, whose sums are joined, follow each other."""
    cut = option.cut
    column = layer.slices * prices.target.array.lines_per_pair
    heights, widths = np.diff(cut.rows), np.diff(cut.columns) * column
    write_ns = sums_of_tiles(sums_of_weights(layer, prices.write_ns), option.unrolling, cut)
    order = _column_order(option)
    every = np.stack(np.broadcast_arrays(heights[None, :, None], widths[None, None, :], write_ns)[:2], axis=-1)
    sizes, size = np.unique(every.reshape(-1, 2)[order], axis=0, return_inverse=True)
    named = tuple((int(height), int(width)) for height, width in sizes)
    return CutLayer(option, named, size.ravel(), write_ns.ravel()[order])


def _column_order(option: ReplicaOption) -> NDArray[np.int64]:
    """Map the position in the line of tiles to the number in the tile table, which lists tiles row by row."""
    rows, columns = len(option.cut.rows) - 1, len(option.cut.columns) - 1
    return np.arange(option.tiles).reshape(option.unrolling.matrices, rows, columns).transpose(0, 2, 1).ravel()


def _copies(cut: Sequence[CutLayer], segments: Sequence[PlannedSegment]) -> list[tuple[Replica, ...]]:
    """The replicas of each layer; a layer in several segments has one."""
    counts = {
        stretch.layer: copies
        for segment in segments
        for stretch, copies in zip(segment.stretches, segment.choice.copies, strict=True)
    }
    return [Choice(layer.option, counts[number]).replicas for number, layer in enumerate(cut)]


def _segment_of_tiles(
    cut: Sequence[CutLayer], segments: Sequence[PlannedSegment], tiles: TileTable
) -> NDArray[np.int64]:
    """Segment of each row of the tile table."""
    found = []
    for number, layer in enumerate(cut):
        ends = [
            (stretch.end, place)
            for place, segment in enumerate(segments)
            for stretch in segment.stretches
            if stretch.layer == number
        ]
        edges, places = np.array(ends).T
        of_copy = np.empty(layer.tiles, np.int64)
        line = places[np.searchsorted(edges, np.arange(layer.tiles), side="right")]
        of_copy[_column_order(layer.option)] = line
        found.append(np.tile(of_copy, int((tiles.layer == number).sum()) // layer.tiles))
    return np.concatenate(found)


def _placed(
    graph: Graph, cut: Sequence[CutLayer], segments: Sequence[PlannedSegment], context: PassContext
) -> Placement:
    """All tiles in their segments and arrays."""
    assert context.chips is not None
    assert context.batch is not None
    layers, array = mapped_layers(graph), context.target.array
    tiles = TileTable.of(layers)
    segment = _segment_of_tiles(cut, segments, tiles)
    sizes = np.stack([tiles.heights, tiles.widths(column_lines(layers, context.target))], axis=1)
    loads, places = tile_loads(layers, tiles, context.target), np.empty((len(tiles), 3), np.int64)
    order = np.argsort(segment, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(segment[order])) + 1):
        shapes, members = group_tiles(sizes[rows, 0], sizes[rows, 1], loads[rows])
        packing = shortest_packing(
            shapes, (array.input_lines, array.output_lines), context.chips * context.target.chip.arrays
        )
        assert packing is not None, "planned segments fit"
        places[rows] = packing.expand(members, len(rows))
    tiles = tiles.with_columns(segment=segment, array=places[:, 0], input_line=places[:, 1], output_line=places[:, 2])
    planned = tuple(Segment(item.choice.interval) for item in segments)
    return Placement(
        chips=context.chips,
        tiles=tiles,
        initiation_interval_steps=sum(item.initiation_interval_steps for item in planned),
        crossing_values=Traffic(graph, tiles).crossing(places[:, 0] // context.target.chip.arrays),
        segments=planned,
        batch=context.batch,
    )
