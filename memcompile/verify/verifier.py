"""Checks a graph, and a mapping, against all rules; raises with every violation at once.

Each rule has a name, and a violation names the node (or the tile) and the rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ProgramError, VerificationError
from memcompile.hardware.target import LEAST_RANGE_SHARE, Target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import (
    CalibratedLayer,
    DigitalNode,
    Graph,
    IntegerLayer,
    LinearLayer,
    MappedLayer,
    Node,
    PairedLayer,
    Placement,
    QuantizedLayer,
    SlicedLayer,
    TiledLayer,
    TileTable,
    UnrolledLayer,
    read_values,
)
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.quantizers import ExactInput
from memcompile.ir.sharing import holders
from memcompile.program.flow import program_flow
from memcompile.program.line_corrections import count_places
from memcompile.program.program import Program
from memcompile.timing.dataflow_steps import Flow, alike_copies
from memcompile.timing.timetable import column_lines
from memcompile.verify.schedule_rules import schedule_violations
from memcompile.verify.segment_rules import Stage, chip_violations, segment_violations
from memcompile.verify.violation import Violation

LEVEL_TYPES = (np.int8, np.int16, np.int32)
STEP_COLUMNS = ("start", "rhythm", "slot", "lag")
AnyLayer = LinearLayer | UnrolledLayer | IntegerLayer


def find_violations(graph: Graph, target: Target) -> list[Violation]:
    """All violations of a graph at any stage."""
    found = [*_structure(graph)]
    for node in graph.nodes:
        if isinstance(node, LinearLayer | UnrolledLayer | IntegerLayer):
            found += _layer(node, target)
    if not found and graph.placement is not None:
        found += placement_violations(graph.nodes, graph.placement, target)
        if not found and _is_scheduled(graph.placement):
            found += schedule_violations(Flow.of_graph(graph), graph.placement, target)
    return found


@dataclass(frozen=True)
class Verifier:
    """Instrument that checks the graph after every pass."""

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Raise VerificationError with all violations."""
        violations = find_violations(graph, context.target)
        if violations:
            lines = "\n".join(f"  - {violation}" for violation in violations[:50])
            raise VerificationError(
                f"after pass {name} the graph breaks {len(violations)} rules:\n{lines}", _way_round(graph)
            )


def _way_round(graph: Graph) -> str:
    """Advice on what may compile a network whose graph is broken."""
    if any(isinstance(node, TiledLayer | MappedLayer) for node in graph.nodes):
        return (
            "--set replicate.objective=arrays --set replicate.effort=fast maps one replica of each layer without a "
            "search and may do, as may another --target"
        )
    return "the same network in other operators may do, such as a graph optimiser writes, as may another --target"


def verify_program(program: Program) -> Program:
    """Check a program that came from a file.

    Raises
    ------
    ProgramError
        The program is inconsistent; all violations are listed.
    """
    found = [*_program_structure(program), *_program_arrays(program), *chip_violations(program)]
    for layer in program.layers:
        found += _layer(layer, program.target)
    if not found:
        found += placement_violations(program.stages, program.placement, program.target)
    if not found and _is_scheduled(program.placement):
        found += _program_schedule(program)
    if found:
        lines = "\n".join(f"  - {violation}" for violation in found[:50])
        raise ProgramError(f"the program breaks {len(found)} rules; compile the model again:\n{lines}")
    return program


def _program_schedule(program: Program) -> list[Violation]:
    flow = program_flow(program)
    try:
        return schedule_violations(flow, program.placement, program.target)
    except (ArithmeticError, KeyError, IndexError, TypeError, ValueError, MemoryError) as error:
        # The operators come from a file, which may hold any nonsense.
        return [Violation("digital-operators", "program", f"its operators do not fit its layers ({error})")]


def _structure(graph: Graph) -> Iterator[Violation]:
    names: set[str] = set()
    made = set(graph.inputs) | set(graph.constants)
    for node in graph.nodes:
        if node.name in names:
            yield Violation("unique-names", node.name, "another node has this name")
        names.add(node.name)
        for value in read_values(node):
            if value not in made:
                yield Violation("defined-before-use", node.name, f"reads {value!r}, which no earlier node makes")
        for value in node.outputs:
            if value and value in made:
                yield Violation("single-assignment", node.name, f"makes {value!r}, which already exists")
        made.update(value for value in node.outputs if value)
        yield from _digital(node, graph)
    for value in graph.outputs:
        if value not in made:
            yield Violation("outputs-defined", graph.name, f"output {value!r} is made by no node")


def _digital(node: Node, graph: Graph) -> Iterator[Violation]:
    if not isinstance(node, DigitalNode):
        return
    made = {value for inner in node.nodes for value in inner.outputs}
    known = made | set(node.inputs) | set(graph.constants)
    for inner in node.nodes:
        for value in read_values(inner):
            if value not in known:
                yield Violation("digital-inputs", node.name, f"its operator {inner.name} reads unknown {value!r}")
    for value in node.outputs:
        if value not in made:
            yield Violation("digital-outputs", node.name, f"output {value!r} is made by none of its operators")


def _program_structure(program: Program) -> Iterator[Violation]:
    made = set(program.inputs) | set(program.constants)
    names: set[str] = set()
    for stage in program.stages:
        if stage.name in names:
            yield Violation("unique-names", stage.name, "another stage has this name")
        names.add(stage.name)
        for value in stage.inputs:
            if value not in made:
                yield Violation("defined-before-use", stage.name, f"reads {value!r}, which no earlier stage makes")
        for value in stage.outputs:
            if value in made:
                yield Violation("single-assignment", stage.name, f"makes {value!r}, which already exists")
        made.update(stage.outputs)
    for value in program.outputs:
        if value not in made:
            yield Violation("outputs-defined", "program", f"output {value!r} is made by no stage")


def _program_arrays(program: Program) -> Iterator[Violation]:
    for column in ("array", *STEP_COLUMNS):
        if (getattr(program.placement.tiles, column) < 0).any():
            yield Violation("placed-and-scheduled", "tile table", f"column {column} is not set for every tile")
    yield from _calibration(program)
    if program.chip is None:
        return
    array, conductances_us = program.target.array, program.chip.conductances_us
    shape = (int(program.placement.tiles.array.max(initial=-1)) + 1, array.input_lines, array.cell_columns)
    if conductances_us.shape != shape:
        yield Violation("chip-shape", "chip", f"conductances have shape {conductances_us.shape}, the arrays {shape}")
    elif not (np.isfinite(conductances_us).all() and (conductances_us >= 0).all()):
        yield Violation("chip-conductances", "chip", "a conductance is negative, NaN or infinite")


def _calibration(program: Program) -> Iterator[Violation]:
    """Violations of the corrections of lines."""
    if program.calibration is None:
        return
    found = program.calibration.layers
    if len(found) != len(program.layers):
        what = f"corrections are there for {len(found)} layers, the program has {len(program.layers)}"
        yield Violation("calibration-shape", "calibration", what)
        return
    for layer, corrections in zip(program.layers, found, strict=True):
        shape = (count_places(layer), layer.geometry.out_channels)
        for name, array in (("gain", corrections.gain), ("offset", corrections.offset)):
            if array.shape != shape or array.dtype != np.float32:
                what = f"the {name} of its lines is {array.dtype} {array.shape}, not float32 {shape}"
                yield Violation("calibration-shape", layer.name, what)
            elif not np.isfinite(array).all():
                yield Violation("calibration-finite", layer.name, f"a line's {name} is NaN or infinite")


def _layer(layer: AnyLayer, target: Target) -> Iterator[Violation]:
    geometry = layer.geometry
    if len(layer.inputs) != 1 or len(layer.outputs) != 1:
        yield Violation(
            "one-value-in-and-out", layer.name, f"has {len(layer.inputs)} inputs, {len(layer.outputs)} outputs"
        )
    broken = list(_geometry(layer.name, geometry))
    if broken:
        yield from broken
        return
    shape = (geometry.groups, geometry.group_rows, geometry.group_columns)
    for name, array, dtype, wanted in _arrays(layer, shape, target.cell.continuous):
        if array.shape != wanted:
            yield Violation("array-shapes", layer.name, f"{name} has shape {array.shape}, its geometry says {wanted}")
            return
        if array.dtype != dtype:
            yield Violation("array-types", layer.name, f"{name} is {array.dtype}, not {np.dtype(dtype)}")
            return
    if isinstance(layer, CalibratedLayer | IntegerLayer):
        yield from _quantizer(layer, target)
    if isinstance(layer, IntegerLayer):
        yield from _levels(layer, target)
    if isinstance(layer, TiledLayer):
        yield from _cut(layer.name, layer.cut.rows, layer.unrolling.rows, "rows")
        yield from _cut(layer.name, layer.cut.columns, layer.unrolling.columns, "columns")
    if isinstance(layer, MappedLayer):
        yield from _replicas(layer)
        yield from _range(layer, target)


def _range(layer: MappedLayer, target: Target) -> Iterator[Violation]:
    if layer.range_share is None:
        return
    if target.adc.range != "calibrated":
        limits = f"has a converter range of its own; the target's is {target.adc.range}"
        yield Violation("converter-range", layer.name, limits)
    elif not LEAST_RANGE_SHARE <= layer.range_share <= target.adc.range_share:
        limits = f"its converter range is {layer.range_share}; it must be from {LEAST_RANGE_SHARE} to "
        limits += f"{target.adc.range_share}"
        yield Violation("converter-range", layer.name, limits)


def _geometry(where: str, geometry: Geometry) -> Iterator[Violation]:
    if min(geometry.output_size) < 1:
        yield Violation("output-size", where, f"its output has size {geometry.output_size}")
    if geometry.in_channels % geometry.groups or geometry.out_channels % geometry.groups:
        yield Violation("whole-groups", where, f"{geometry.groups} groups do not divide the channels")


def _arrays(
    layer: AnyLayer, shape: tuple[int, int, int], continuous: bool
) -> Iterator[tuple[str, NDArray[np.generic], type[np.generic], tuple[int, ...]]]:
    """Name, array, and the type and shape it must have."""
    geometry = layer.geometry
    channels = (geometry.out_channels,)
    yield "bias", layer.bias, np.float32, channels
    if isinstance(layer, LinearLayer):
        kernels = (*channels, geometry.in_channels // geometry.groups, *geometry.kernel)
        yield "weight", layer.weight, np.float32, kernels
    if isinstance(layer, UnrolledLayer):
        yield "matrix", layer.matrix, np.float32, shape
    if isinstance(layer, IntegerLayer):
        yield "scale", layer.scale, np.float32, channels
    if isinstance(layer, QuantizedLayer):
        kind = layer.levels.dtype.type if layer.levels.dtype in LEVEL_TYPES else LEVEL_TYPES[0]
        yield "levels", layer.levels, np.float32 if continuous else kind, shape
    if isinstance(layer, SlicedLayer):
        yield "digits", layer.digits, np.float32 if continuous else np.int8, (*layer.digits.shape[:1], *shape)
    if isinstance(layer, PairedLayer):
        yield "cells", layer.cells, np.float32 if continuous else np.uint8, (2, *layer.cells.shape[1:2], *shape)


def _quantizer(layer: CalibratedLayer | IntegerLayer, target: Target) -> Iterator[Violation]:
    quantizer = layer.quantizer
    if isinstance(quantizer, ExactInput) != target.cell.continuous:
        yield Violation("exact-input", layer.name, "exact inputs go with continuous cells, quantised ones with levels")
        return
    if isinstance(quantizer, ExactInput):
        return
    if quantizer.bits != target.input.bits:
        yield Violation(
            "input-bits", layer.name, f"has {quantizer.bits} input bits, the target applies {target.input.bits}"
        )
    if quantizer.bits_per_phase != target.input.bits_per_phase:
        yield Violation(
            "input-bits",
            layer.name,
            f"applies {quantizer.bits_per_phase} bits a phase, the target {target.input.bits_per_phase}",
        )
    with np.errstate(over="ignore"):
        step = np.float32(quantizer.scale)  # what inputs are divided by
    if not (np.isfinite(step) and step > 0):
        yield Violation("input-step", layer.name, f"its input step is {quantizer.scale}; it must be positive")


def _levels(layer: IntegerLayer, target: Target) -> Iterator[Violation]:
    limit = target.signed_levels
    digits = layer.digits if isinstance(layer, SlicedLayer) else np.zeros(0)
    if max(-float(digits.min(initial=0)), float(digits.max(initial=0))) > limit:
        yield Violation("digit-range", layer.name, f"a digit is beyond -{limit}..{limit}")
    if isinstance(layer, SlicedLayer | PairedLayer) and not 2 <= layer.base <= target.slice_base():
        limit_text = f"slices have base {layer.base}; the target's pairs allow 2 to {target.slice_base()}"
        yield Violation("slice-base", layer.name, limit_text)
    if isinstance(layer, PairedLayer):
        if not (layer.cells.min(initial=0) >= 0 and layer.cells.max(initial=0) <= limit):
            yield Violation("cell-levels", layer.name, f"a cell is not between level 0 and the highest level {limit}")
        if np.logical_and(layer.cells[0], layer.cells[1]).any():
            yield Violation("one-sided-pairs", layer.name, "both cells of a pair are above level 0")
    if not np.isfinite(layer.scale).all() or not np.isfinite(layer.bias).all():
        yield Violation("finite-scales", layer.name, "a scale or bias is NaN or infinite")


def _cut(where: str, edges: Sequence[int], size: int, axis: str) -> Iterator[Violation]:
    if edges[0] != 0 or edges[-1] != size or any(b <= a for a, b in itertools.pairwise(edges)):
        yield Violation("cut-covers-matrix", where, f"{axis} are cut at {list(edges)}, the matrix has {size}")


def _replicas(layer: MappedLayer) -> Iterator[Violation]:
    if not layer.replicas:
        yield Violation("has-replicas", layer.name, "no copy of the layer exists")
        return
    broken = [found for number in range(len(layer.replicas)) for found in _replica(layer, number)]
    yield from broken
    # Checked before anything as large as the output is allocated.
    most = sum(replica.windows.size * replica.unrolling.window_outputs for replica in layer.replicas)
    if not broken and most >= layer.geometry.positions:
        yield from _coverage(layer)
    elif not broken:
        what = f"{most} output positions are computed of {layer.geometry.positions}"
        yield Violation("each-output-once", layer.name, what)


def _replica(layer: MappedLayer, number: int) -> Iterator[Violation]:
    """Violations of one replica, up to the first that makes further checks meaningless."""
    replica, where = layer.replicas[number], f"{layer.name} replica {number}"
    unrolling, windows = replica.unrolling, replica.windows
    if unrolling.geometry != layer.geometry:
        yield Violation("replica-geometry", where, "is unrolled for another geometry")
        return
    size = layer.geometry.output_size
    if any(count > limit for count, limit in zip(unrolling.window, size, strict=True)):
        yield Violation("window-inside-output", where, f"window {unrolling.window} exceeds the output {size}")
        return
    yield from _cut(where, replica.cut.rows, unrolling.rows, "rows")
    yield from _cut(where, replica.cut.columns, unrolling.columns, "columns")
    if windows.dtype != np.int32 or windows.ndim != 1:
        yield Violation("array-types", where, f"windows are {windows.dtype} {windows.shape}, not a list of int32")
    elif windows.size and (windows.min() < 0 or windows.max() >= unrolling.windows):
        yield Violation("window-numbers", where, f"works on a window outside 0..{unrolling.windows - 1}")


def _coverage(layer: MappedLayer) -> Iterator[Violation]:
    counts = np.zeros(layer.geometry.positions, np.int64)
    for unrolling, copies in alike_copies(layer):
        windows = np.concatenate([layer.replicas[copy].windows for copy in copies])
        positions = unrolling.window_positions()[windows]
        counts += np.bincount(positions[positions >= 0], minlength=len(counts))
    missing, repeated = int((counts == 0).sum()), int((counts > 1).sum())
    if missing or repeated:
        yield Violation(
            "each-output-once", layer.name, f"{missing} output positions are never computed, {repeated} more than once"
        )


def placement_violations(stages: Sequence[Stage], placement: Placement, target: Target) -> list[Violation]:
    """All violations of a mapping; tiles not placed yet (-1) are left out."""
    layers = [stage for stage in stages if isinstance(stage, MappedLayer)]
    found = list(_tile_set(layers, placement))
    found += [] if found else segment_violations(stages, placement)
    found += [
        Violation("bound-below-value", item.quantity, f"the bound {item.bound} exceeds the value {item.value}")
        for item in placement.certificates
        if item.bound > item.value
    ]
    if found or not len(placement.tiles) or placement.tiles.array.min() < 0:
        return found
    widths = placement.tiles.widths(column_lines(layers, target))
    holder = holders(layers, placement.tiles)
    found += _inside(placement, widths, target)
    found += _overlaps(placement, widths, np.flatnonzero(holder == np.arange(len(holder))))
    found += _sharing(layers, placement, holder)
    return found


def _is_scheduled(placement: Placement) -> bool:
    """Return True if each of the tiles has all its steps."""
    tiles = placement.tiles
    return len(tiles) > 0 and all(getattr(tiles, column).min() >= 0 for column in ("array", *STEP_COLUMNS))


def _tile_set(layers: Sequence[MappedLayer], placement: Placement) -> Iterator[Violation]:
    wanted = TileTable.of(layers)
    for column in ("layer", "replica", "matrix", "row_begin", "row_end", "column_begin", "column_end"):
        if not np.array_equal(getattr(wanted, column), getattr(placement.tiles, column)):
            yield Violation("every-tile-once", "tile table", f"column {column} is not what the layers' cuts say")
            return


def _inside(placement: Placement, widths: NDArray[np.int32], target: Target) -> Iterator[Violation]:
    tiles, array = placement.tiles, target.array
    checks: tuple[tuple[str, NDArray[np.bool_]], ...] = (
        ("array", tiles.array >= placement.chips * target.chip.arrays),
        ("input_line", (tiles.input_line < 0) | (tiles.input_line + tiles.heights > array.input_lines)),
        ("output_line", (tiles.output_line < 0) | (tiles.output_line + widths > array.output_lines)),
    )
    for column, bad in checks:
        for tile in np.flatnonzero(bad)[:10]:
            value = int(getattr(tiles, column)[tile])
            yield Violation("tile-inside-array", f"tile {tile}", f"{column} {value} puts it outside the hardware")
    for tile in np.flatnonzero(tiles.heights > array.driven_lines)[:10]:
        what = f"has {tiles.heights[tile]} rows, the array drives {array.driven_lines} input lines at once"
        yield Violation("rows-at-once", f"tile {tile}", what)


def _sharing(layers: Sequence[MappedLayer], placement: Placement, holder: NDArray[np.int64]) -> Iterator[Violation]:
    """Violations of layers that share cells, whose tiles use those of the rows ``holder``, [tiles]."""
    names = {layer.name: layer for layer in layers}
    laid_out: dict[tuple[str, int], object] = {}
    for layer in layers:
        if not layer.shares_with:
            continue
        first, numbers = names.get(layer.shares_with), [replica.number for replica in layer.replicas]
        if first is None or first.shares_with != first.name:
            what = f"shares cells with {layer.shares_with!r}, which is no layer that does"
            yield Violation("shared-cells", layer.name, what)
        elif layer.base != first.base or not np.array_equal(layer.cells, first.cells):
            yield Violation("shared-cells", layer.name, f"has other weights than {first.name}, whose cells it uses")
        if len(set(numbers)) < len(numbers):
            yield Violation("shared-cells", layer.name, "two of its replicas use the same cells")
        kernel = replace(layer.geometry, input_size=(), pads_begin=(), pads_end=())
        for number, copy in zip(numbers, layer.replicas, strict=True):
            layout = kernel, copy.unrolling.window, copy.unrolling.bundle, copy.cut
            if laid_out.setdefault((layer.shares_with, number), layout) != layout:
                what = f"replica {number} of the layers that share cells is not laid out as in those before"
                yield Violation("shared-cells", layer.name, what)
    tiles = placement.tiles
    for column in ("row_end", "column_end", "segment", "array", "input_line", "output_line"):
        values = getattr(tiles, column)
        for tile in np.flatnonzero(values != values[holder])[:10].tolist():
            what = f"{column} {values[tile]} is not that of tile {holder[tile]}, whose cells it uses"
            yield Violation("shared-cells", f"tile {tile}", what)


def _overlaps(placement: Placement, widths: NDArray[np.int32], own: NDArray[np.int64]) -> Iterator[Violation]:
    """Pairs of tiles that share cells of an array, among the ``own`` ones, which use no other tile's cells."""
    tiles, widths = placement.tiles.take(own), widths[own]
    box = np.stack(
        [
            tiles.input_line,
            tiles.input_line + tiles.heights,
            tiles.output_line,
            tiles.output_line + widths,
        ],
        axis=1,
    )
    order, sharing = _sharing_array(tiles.segment.astype(np.int64) * (1 << 32) + tiles.array)
    box = box[order]
    found = [np.zeros((0, 2), np.int64)]
    for distance, begins in enumerate(sharing, 1):
        a, b = box[begins], box[begins + distance]
        over = (a[:, 0] < b[:, 1]) & (b[:, 0] < a[:, 1]) & (a[:, 2] < b[:, 3]) & (b[:, 2] < a[:, 3])
        found.append(np.stack([begins[over], begins[over] + distance], axis=1))
    pairs = np.concatenate(found)
    for first, second in own[order[pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]]].tolist():
        where = f"tiles {first} and {second}"
        yield Violation("no-overlap", where, f"share cells of array {placement.tiles.array[first]}")


def _sharing_array(array: NDArray[np.int64]) -> tuple[NDArray[np.int64], Iterator[NDArray[np.int64]]]:
    """Tiles in the order of their arrays, and the places in it of those that share theirs with the one 1, 2, ... on.

    All arrays together: some targets have few tiles on each of very many arrays, others thousands on one.
    """
    order = np.argsort(array, kind="stable")
    ends = np.searchsorted(array[order], array[order], side="right")

    def places() -> Iterator[NDArray[np.int64]]:
        left = np.arange(len(order))
        for distance in itertools.count(1):
            left = left[left + distance < ends[left]]
            if not len(left):
                return
            yield left

    return order, places()
