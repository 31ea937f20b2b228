"""Chooses the number of chips and the copies of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memcompile.errors import CapacityError
from memcompile.ir import (
    Certificate,
    Graph,
    MappedLayer,
    Placement,
    Replica,
    TiledLayer,
    TileTable,
    carry,
    read_only,
)
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.copies import CopyDemand, CopyPlan, shapes_of, shortest_interval
from memcompile.passes.packing import Packing, pack
from memcompile.passes.packing_bounds import arrays_bound
from memcompile.target import Target


@dataclass(frozen=True)
class Replicate(Pass):
    """Gives each layer as many copies as shorten the interval between images.

    Without a budget the network gets as many chips as one copy of it needs; arrays that one copy
    leaves free on those chips hold further copies. The windows of a layer go round its copies, so
    that neighbouring windows are worked on at once.

    Raises
    ------
    CapacityError
        One copy does not fit the budget.
    """

    summary: ClassVar[str] = "choose chips and copies of each layer for a short interval"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        layers = [node for node in graph.nodes if isinstance(node, TiledLayer)]
        demands = [CopyDemand.of(layer.unrolling, layer.cut, layer.slices) for layer in layers]
        chips, plan = plan_copies(layers, demands, context.target, context.chips)
        changed = {
            layer.name: carry(MappedLayer, layer, replicas=share_windows(layer, copies))
            for layer, copies in zip(layers, plan.copies, strict=True)
        }
        graph = graph.map_nodes(changed)
        tiles = TileTable.of(node for node in graph.nodes if isinstance(node, MappedLayer))
        method = "dual feasible functions over one copy or more of each layer, one tile a step per array"
        certificates = (
            (Certificate("initiation_interval", plan.interval, plan.interval_bound, method),) if layers else ()
        )
        placement = Placement(
            chips=chips,
            tiles=tiles,
            certificates=certificates,
            initiation_interval_steps=plan.interval,
        )
        return graph.replace(placement=placement)


def share_windows(layer: TiledLayer, copies: int) -> tuple[Replica, ...]:
    """Copies of a layer; copy r works on windows r, r + copies, r + 2 copies, ..."""
    windows = np.arange(layer.unrolling.windows, dtype=np.int32)
    return tuple(
        Replica(layer.unrolling, layer.cut, read_only(np.ascontiguousarray(windows[copy::copies])))
        for copy in range(copies)
    )


def plan_copies(
    layers: Sequence[TiledLayer], demands: Sequence[CopyDemand], target: Target, chips: int | None
) -> tuple[int, CopyPlan]:
    """Number of chips, and copies per layer.

    Raises
    ------
    CapacityError
        One copy does not fit ``chips``.
    """
    if not layers:
        return 0, CopyPlan((), 0, 0, 0)
    lines = (target.array.input_lines, target.array.output_lines)
    shapes = shapes_of(demands, [1] * len(demands))
    fewest = arrays_bound(shapes, lines, None)
    single = pack(shapes, lines, None, None, enough=fewest)
    assert single is not None, "without a limit every tile finds an array"
    if chips is None:
        chips = -(-single.arrays // target.chip.arrays)
    if single.arrays > chips * target.chip.arrays:
        raise CapacityError(capacity_message(layers, demands, target, chips, single))
    return chips, shortest_interval(demands, lines, chips * target.chip.arrays, single)


def capacity_message(
    layers: Sequence[TiledLayer], demands: Sequence[CopyDemand], target: Target, chips: int, single: Packing
) -> str:
    """What is needed, what is there, which layers take most and what would help."""
    per_chip = target.chip.arrays
    needed = -(-single.arrays // per_chip)
    lines = (target.array.input_lines, target.array.output_lines)
    sizes = [(arrays_bound(shapes_of([demand], [1]), lines, None), number) for number, demand in enumerate(demands)]
    largest = sorted(sizes, key=lambda item: (-item[0], item[1]))[:3]
    named = ", ".join(f"{layers[number].name} ({arrays} arrays)" for arrays, number in largest)
    fewer_slices = ", fewer --slices" if any(layer.slices > 1 for layer in layers) else ""
    have = f"{chips} chip has" if chips == 1 else f"{chips} chips have"
    return (
        f"needs {single.arrays} arrays, {have} {chips * per_chip} ({per_chip} arrays of "
        f"{lines[0]} x {lines[1]} cells on a chip of {target.name}); largest layers: {named}; "
        f"use --chips {needed}{fewer_slices}, a target with larger arrays, or a smaller network"
    )
