"""Small programs made by hand, without the passes: random layers, trivially placed. Random convolutions, unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray

from memcompile.hardware.target import Target, load_target, parse_target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import Cut, MappedLayer, Placement, Replica, Segment, TensorType, TileTable
from memcompile.ir.quantizers import InputQuantizer
from memcompile.program.program import DigitalStage, Program, Provenance, Stage
from memcompile.timing.timetable import column_lines, tile_loads, tile_turns


def make_target(**sections: dict[str, Any]) -> Target:
    """The reference chip with some values of some sections replaced."""
    values = load_target("yao2020").model_dump()
    for section, changes in sections.items():
        values[section] = {**(values.get(section) or {}), **changes}
    return parse_target(values, "test target")


def target_without_errors() -> Target:
    """The reference chip with cells that hold and read what they are told."""
    return make_target(
        programming={"sigma_us": 0.0},
        read_noise={"sigma_us": 0.0},
        faults={"stuck_low_share": 0.0, "stuck_high_share": 0.0},
    )


def random_cut(rng: np.random.Generator, size: int, limit: int) -> tuple[int, ...]:
    """Uneven tile edges, no tile larger than ``limit``."""
    edges = [0]
    while edges[-1] < size:
        edges.append(min(size, edges[-1] + int(rng.integers(1, limit + 1))))
    return tuple(edges)


def cells_of(weights: NDArray[np.int64], slices: int, target: Target) -> NDArray[np.uint8]:
    """Cell levels [2, slices, ...] of integer weights in balanced digits."""
    base, limit = target.slice_base(), target.signed_levels
    digits = []
    rest = weights.astype(np.int64)
    for _ in range(slices):
        digit = (rest + limit) % base - limit
        digits.append(digit)
        rest = (rest - digit) // base
    assert not rest.any()
    stacked = np.stack(digits)
    return np.stack([np.maximum(stacked, 0), np.maximum(-stacked, 0)]).astype(np.uint8)


def random_layer(
    rng: np.random.Generator,
    geometry: Geometry,
    target: Target,
    *,
    name: str = "layer",
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    slices: int = 1,
    signed: bool = False,
    scale: float = 1.0,
    unrollings: Sequence[Unrolling] | None = None,
) -> MappedLayer:
    """A layer with random weights; copies with these unrollings share the windows unevenly.

    All unrollings must have the same window.
    """
    shape = (geometry.groups, geometry.group_rows, geometry.group_columns)
    limit = (target.slice_base() ** slices - 1) // 2
    weights = rng.integers(-limit, limit + 1, shape)
    unrollings = unrollings or [Unrolling.im2col(geometry)]
    edges = np.sort(rng.integers(0, unrollings[0].windows + 1, len(unrollings) - 1))
    shares = np.split(rng.permutation(unrollings[0].windows).astype(np.int32), edges)
    replicas = tuple(
        Replica(
            unrolling,
            Cut(
                random_cut(rng, unrolling.rows, target.array.driven_lines),
                random_cut(rng, unrolling.columns, target.array.output_lines // (2 * slices)),
            ),
            windows,
        )
        for unrolling, windows in zip(unrollings, shares, strict=True)
        if len(windows)
    )
    return MappedLayer(
        name=name,
        inputs=inputs,
        outputs=outputs,
        geometry=geometry,
        quantizer=InputQuantizer(scale, target.input.bits, signed, target.input.bits_per_phase),
        scale=np.full(geometry.out_channels, 2.0**-6, np.float32),
        bias=rng.integers(-4, 5, geometry.out_channels).astype(np.float32),
        base=target.slice_base(),
        cells=cells_of(weights, slices, target),
        replicas=replicas,
    )


def place_trivially(rng: np.random.Generator, layers: Sequence[MappedLayer], target: Target) -> Placement:
    """One tile an array, at random lines, each layer after the one before."""
    table = TileTable.of(layers)
    each = target.array.lines_per_pair
    room_in = target.array.input_lines - table.heights
    room_out = (target.array.output_lines - table.widths(column_lines(layers, target))) // each
    starts, turns = np.zeros(len(layers) + 1, np.int64), tile_turns(layers, table, target)
    for number, layer in enumerate(layers):
        longest = max(len(replica.windows) for replica in layer.replicas) * int(turns[table.layer == number].max())
        starts[number + 1] = starts[number] + longest + 3
    table = table.with_columns(
        array=rng.permutation(len(table)),
        input_line=rng.integers(0, room_in + 1),
        output_line=each * rng.integers(0, room_out + 1),
        start=starts[table.layer] + rng.integers(0, 3, len(table)),
        rhythm=np.zeros(len(table)),
        slot=np.zeros(len(table)),
        lag=table.layer,
    )
    chips = -(-len(table) // target.chip.arrays)
    loads = tile_loads(layers, table, target)
    return Placement(chips, table, (), int(loads.max(initial=0)), int((table.start + loads).max(initial=0)))


def in_segments(program: Program, cuts: Sequence[int], batch: int) -> Program:
    """The program with its tile table cut into segments at these rows, one tile an array in each of them."""
    table, loads = program.placement.tiles, program.tile_loads
    segment = np.searchsorted(np.array(cuts), np.arange(len(table)), side="right")
    array, start, lag = (np.zeros(len(table), np.int64) for _ in range(3))
    segments = []
    for number in range(len(cuts) + 1):
        rows = np.flatnonzero(segment == number)
        array[rows] = np.arange(len(rows))[::-1]
        length = 0
        for place, layer in enumerate(np.unique(table.layer[rows])):
            own = rows[table.layer[rows] == layer]
            start[own], lag[own] = length, place
            length += int(loads[own].max())
        segments.append(Segment(length, length, length * (int(lag[rows].max()) + 1)))
    arrays = int(array.max()) + 1
    placement = replace(
        program.placement,
        chips=-(-arrays // program.target.chip.arrays),
        tiles=table.with_columns(segment=segment, array=array, start=start, lag=lag),
        initiation_interval_steps=sum(item.initiation_interval_steps for item in segments),
        latency_steps=sum(item.latency_steps for item in segments),
        pipelined_latency_steps=sum(item.pipelined_latency_steps for item in segments),
        segments=tuple(segments),
        batch=batch,
    )
    return replace(program, placement=placement)


def make_program(
    rng: np.random.Generator,
    stages: Sequence[Stage],
    target: Target,
    inputs: dict[str, TensorType],
    outputs: tuple[str, ...] = ("y",),
    constants: dict[str, NDArray[Any]] | None = None,
) -> Program:
    """A program of these stages."""
    layers = [stage for stage in stages if isinstance(stage, MappedLayer)]
    return Program(
        target=target,
        inputs=inputs,
        outputs=outputs,
        stages=tuple(stages),
        constants=constants or {},
        placement=place_trivially(rng, layers, target),
        provenance=Provenance("test", "0" * 64, "test", {}),
    )


def layer_program(rng: np.random.Generator, layer: MappedLayer, target: Target) -> Program:
    """A program of one layer, ``x`` to ``y``, with a free batch."""
    geometry = layer.geometry
    kind = TensorType("float32", (None, geometry.in_channels, *geometry.input_size))
    if geometry.layout == "channels_last":
        kind = TensorType("float32", (None, *geometry.input_size, geometry.in_channels))
    return make_program(rng, [layer], target, {"x": kind})


def digital_stage(name: str, operator: str, value: str, result: str, rank: int) -> DigitalStage:
    """A digital stage of one ONNX operator with one input."""
    shape = [None] * rank
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, [value], [result])],
        name,
        [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return DigitalStage(name, (value,), (result,), model.SerializeToString())


def two_layer_program(rng: np.random.Generator, target: Target, batch: int | None = None) -> Program:
    """Convolution, Relu, convolution: ``x`` [images, 2, 6, 6] to ``y`` [images, 4, 2, 2]."""
    first = Geometry(2, 3, (3, 3), (6, 6), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    second = Geometry(3, 4, (3, 3), (4, 4), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    stages = [
        random_layer(rng, first, target, name="a", outputs=("h",)),
        digital_stage("relu", "Relu", "h", "r", 4),
        random_layer(rng, second, target, name="b", inputs=("r",), scale=4.0),
    ]
    return make_program(rng, stages, target, {"x": TensorType("float32", (batch, 2, 6, 6))})


def naive_sums(layer: MappedLayer, x: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Integer convolution by its definition, [batch, out_channels, *output_size]."""
    geometry = layer.geometry
    pads = [(0, 0), (0, 0), *zip(geometry.pads_begin, geometry.pads_end, strict=True)]
    padded = np.pad(x.astype(np.int64), pads)
    channels = geometry.in_channels // geometry.groups
    kernels = layer.integer_matrix().astype(np.int64)
    kernels = kernels.reshape(geometry.groups, channels, *geometry.kernel, geometry.group_columns)
    y = np.zeros((len(x), geometry.out_channels, *geometry.output_size), np.int64)
    for group in range(geometry.groups):
        inputs = slice(group * channels, (group + 1) * channels)
        outputs = slice(group * geometry.group_columns, (group + 1) * geometry.group_columns)
        for position in np.ndindex(*geometry.output_size):
            for tap in np.ndindex(*geometry.kernel):
                at = tuple(
                    p * s + t * d
                    for p, t, s, d in zip(position, tap, geometry.strides, geometry.dilations, strict=True)
                )
                values = padded[(slice(None), inputs, *at)]
                y[(slice(None), outputs, *position)] += values @ kernels[(group, slice(None), *tap)]
    return y


@st.composite
def unrollings(pick: st.DrawFn) -> Unrolling:
    """Convolutions of one or two axes, with strides, padding and groups, and random windows and bundles."""
    groups, rank = pick(st.integers(1, 3)), pick(st.integers(1, 2))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(pick(st.integers(least, most)) for _ in range(rank))

    geometry = Geometry(
        in_channels=groups * pick(st.integers(1, 2)),
        out_channels=groups,
        kernel=each(1, 3),
        input_size=each(3, 7),
        groups=groups,
        strides=each(1, 3),
        dilations=(1,) * rank,
        pads_begin=each(0, 2),
        pads_end=each(0, 2),
    )
    window = tuple(pick(st.integers(1, size)) for size in geometry.output_size)
    return Unrolling(geometry, window, pick(st.integers(1, groups)))
