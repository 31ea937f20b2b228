"""Graphs of layers ready to be mapped, made without a model, and the passes that map them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, PairedLayer, TensorType
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.passes.place import Place
from memcompile.passes.replicate import Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.verify.verifier import find_violations


def paired(name: str, reads: str, makes: str, geometry: Geometry, target: Target, slices: int) -> PairedLayer:
    """A layer of few weights that are not zero, such that layers of other names do not share its cells."""
    cells = np.zeros((2, slices, geometry.groups, geometry.group_rows, geometry.group_columns), np.uint8)
    digits = np.random.default_rng(zlib.crc32(name.encode())).integers(0, target.signed_levels + 1, 8)
    first = cells[0].reshape(-1)[:8]
    first[:] = digits[: len(first)]
    return PairedLayer(
        name=name,
        inputs=(reads,),
        outputs=(makes,),
        geometry=geometry,
        quantizer=InputQuantizer(1.0, target.input.bits, False, target.input.bits_per_phase),
        scale=np.ones(geometry.out_channels, np.float32),
        bias=np.zeros(geometry.out_channels, np.float32),
        base=target.slice_base(),
        cells=cells,
    )


def image_of(geometry: Geometry) -> TensorType:
    """The type of an input that fits a layer."""
    if geometry.layout == "channels_first":
        return TensorType("float32", (None, geometry.in_channels, *geometry.input_size))
    return TensorType("float32", (None, *geometry.input_size, geometry.in_channels))


def chain(geometries: Sequence[Geometry], target: Target, slices: int = 1) -> Graph:
    """Layers that read each other's output."""
    nodes = tuple(paired(f"layer{n}", f"v{n}", f"v{n + 1}", item, target, slices) for n, item in enumerate(geometries))
    return Graph(
        name="net",
        inputs=("v0",),
        outputs=(f"v{len(geometries)}",),
        nodes=nodes,
        constants={},
        types={"v0": image_of(geometries[0]) if geometries else TensorType("float32", (None, 1))},
        observed_shapes={},
        opsets=(("", 13),),
    )


def context_of(target: Target, slices: int = 1, chips: int | None = None) -> PassContext:
    return PassContext(target=target, calibration={}, slices=slices, chips=chips, effort="fast")


def mapped(graph: Graph, context: PassContext, replicate: Replicate | None = None) -> Graph:
    """All mapping passes; the graph must break no rule after any of them."""
    for item in (TileMatrices(), replicate or Replicate(), Place(), Schedule()):
        graph = item.run(graph, context)
        assert find_violations(graph, context.target) == []
    return graph


def conv(size: int, kernel: int, channels: int, kernels: int, stride: int = 1, pad: int = 0) -> Geometry:
    return Geometry(
        channels,
        kernels,
        (kernel, kernel),
        (size, size),
        strides=(stride, stride),
        dilations=(1, 1),
        pads_begin=(pad, pad),
        pads_end=(pad, pad),
    )


def dense(inputs: int, outputs: int) -> Geometry:
    return Geometry(inputs, outputs, layout="channels_last")


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Convolutions with any stride, dilation, padding and groups, and matrix products."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 5))
    rank = draw(st.integers(1, 2))
    axis = st.tuples(st.integers(1, 3), st.integers(0, 6), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1))
    axes = [draw(axis) for _ in range(rank)]
    kernel, extra, strides, dilations, pads = zip(*axes, strict=True)
    size = tuple(d * (k - 1) + 1 + e for k, e, d in zip(kernel, extra, dilations, strict=True))
    return Geometry(inputs, outputs, kernel, size, groups, strides, dilations, pads, pads)
