"""Layers with equal options together, and the plan the search starts from: one replica of each layer, in few arrays."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import Target
from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.exact import pack_exactly
from memcompile.passes.packing.first_fit import Packing, TileShape, pack
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.search.explore_windows import ReplicaOption, explore_windows
from memcompile.passes.search.layer_groups import LayerGroup
from memcompile.passes.search.problem import Choice, LayerKind, WindowPlan, shapes_of

EXACT_ARRAYS = 32
EXACT_TILES = 200
EXACT_LIMIT = 1.0
WINDOWS, TILES = 64, 16
"""Divisions of an interval by narrow tiles where output lines take turns."""


def layer_kinds(
    groups: Sequence[LayerGroup],
    target: Target,
    arrays: int | None,
    windows: bool,
    one_position: Container[str] = (),
    interval: int | None = None,
) -> list[LayerKind]:
    """Groups of equal geometry and slices together, with their options; the replica as tiled comes first.

    Options larger than ``arrays`` arrays are left out; None leaves out all that need more crossings
    than the replica as tiled. Without ``windows``, and for layers named in ``one_position``, a step yields one output
    position. Where output lines take turns, narrow tiles take fewer steps and divide a given ``interval`` more finely:
    one holds ``WINDOWS`` windows of some, or ``TILES`` tiles with all windows of an image.
    """
    turns = LineTurns.of(target)
    members: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        layer, single = group.first, not windows or group.first.name in one_position
        key = (layer.geometry, layer.slices, layer.unrolling, layer.cut, single, *group.others)
        members.setdefault(key, []).append(number)
    kinds = []
    for numbers in members.values():
        group = groups[numbers[0]]
        layer, single = group.first, not windows or group.first.name in one_position
        lines = layer.slices * target.array.lines_per_pair
        tiled = ReplicaOption.of(layer.unrolling, layer.cut, lines, turns)
        rows, columns = tile_limits(target, layer.slices)
        narrower = _narrower(group, interval, turns, lines, columns) if interval else ()
        most = tiled.crossings if arrays is None else arrays * target.array.crossings
        options = explore_windows(layer.geometry, rows, columns, lines, most, turns, narrower, group.others)
        options = tuple(item for item in options if not single or item.unrolling.window_outputs == 1)
        same = [option for option in options if option.unrolling != tiled.unrolling or option.cut != tiled.cut]
        of_all = tuple(replace(option, windows=group.windows(option.unrolling)) for option in (tiled, *same))
        kinds.append(LayerKind(tuple(numbers), of_all))
    return kinds


def _narrower(group: LayerGroup, interval: int, turns: LineTurns, lines: int, columns: int) -> tuple[int, ...]:
    """Columns, fewer than an array has, at which the windows of a layer are cut as well."""
    positions = sum(layer.geometry.positions for layer in group.layers)
    steps = (interval // WINDOWS, interval // (TILES * positions))
    found = [limit for most in steps for limit in turns.narrower(max(1, most), lines, columns)]
    return tuple(dict.fromkeys(found))


def single_replicas(kinds: Sequence[LayerKind], target: Target) -> WindowPlan:
    """One replica of each layer in few arrays: the options with least crossings, or as tiled."""
    lines = (target.array.input_lines, target.array.output_lines)
    plans = []
    for pick in (_fewest_crossings, _as_tiled):
        choices = tuple((Choice(pick(kind), 1),) * len(kind.members) for kind in kinds)
        shapes = shapes_of(choices)
        plans.append(WindowPlan(tuple(kinds), choices, fewest_arrays(shapes, lines)))
    return min(plans, key=lambda plan: (plan.packing.arrays, plan.interval))


def fewest_arrays(shapes: Sequence[TileShape], lines: tuple[int, int]) -> Packing:
    """Pack into few arrays at any interval; few tiles exactly."""
    bound = arrays_bound(shapes, lines, None)
    packing = pack(shapes, lines, None, None, enough=bound)
    assert packing is not None, "without a limit every tile finds an array"
    if packing.arrays <= EXACT_ARRAYS and sum(shape.count for shape in shapes) <= EXACT_TILES:
        steps = sum(shape.load * shape.count for shape in shapes)
        for arrays in range(bound, packing.arrays):
            exact = pack_exactly(shapes, lines, arrays, steps, EXACT_LIMIT)
            if exact.packing is not None:
                return exact.packing
    return packing


def _fewest_crossings(kind: LayerKind) -> ReplicaOption:
    return min(kind.options, key=lambda option: option.crossings)


def _as_tiled(kind: LayerKind) -> ReplicaOption:
    return kind.options[0]
