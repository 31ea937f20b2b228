"""Deterministic text of a graph: one line a node, arrays as shape and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import (
    CalibratedLayer,
    DigitalNode,
    Graph,
    IntegerLayer,
    LinearLayer,
    MappedLayer,
    Node,
    OnnxNode,
    PairedLayer,
    Placement,
    QuantizedLayer,
    SlicedLayer,
    TiledLayer,
    UnrolledLayer,
)
from memcompile.ir.quantizers import ExactInput, InputQuantizer

SMALL = 4


def array_text(array: NDArray[Any]) -> str:
    """``float32[8,9]#1f0c9a2e``, or the values themselves if they are few."""
    if array.dtype != object and array.size <= SMALL:
        return f"{array.dtype}{array.tolist()}".replace(" ", "")
    digest = hashlib.sha256(
        repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    )
    return f"{array.dtype}[{','.join(map(str, array.shape))}]#{digest.hexdigest()[:8]}"


def print_graph(graph: Graph) -> str:
    """The whole graph as text, ending with a line break."""
    lines = [f"graph {graph.name}"]
    lines += [f"  input {name}: {graph.types[name]}" for name in graph.inputs]
    lines += [f"  constant {name}: {array_text(array)}" for name, array in sorted(graph.constants.items())]
    for node in graph.nodes:
        lines += [f"  {line}" for line in _node_lines(node)]
    lines += [f"  output {name}" for name in graph.outputs]
    if graph.placement is not None:
        lines += [f"  {line}" for line in _placement_lines(graph.placement)]
    return "\n".join(lines) + "\n"


def _node_lines(node: Node) -> list[str]:
    head = f"{', '.join(node.outputs)} = {node.kind} {node.name}({', '.join(node.inputs)})"
    if isinstance(node, OnnxNode):
        attributes = ", ".join(f"{name}={_attribute(value)}" for name, value in sorted(node.attributes.items()))
        captures = f" captures({', '.join(node.captures)})" if node.captures else ""
        return [head + (f" {{{attributes}}}" if attributes else "") + captures]
    if isinstance(node, DigitalNode):
        return [head, *(f"  {line}" for inner in node.nodes for line in _node_lines(inner))]
    return [head, *(f"  {fact}" for fact in _facts(node))]


def _attribute(value: object) -> str:
    return array_text(value) if isinstance(value, np.ndarray) else repr(value).replace(" ", "")


def _facts(node: Node) -> Iterable[str]:
    if isinstance(node, LinearLayer | UnrolledLayer | IntegerLayer):
        yield _geometry(node.geometry)
        yield from _weights(node)
        yield f"bias {array_text(node.bias)}"
    if isinstance(node, TiledLayer):
        yield (
            f"window {list(node.unrolling.window)} bundle {node.unrolling.bundle} "
            f"cut rows {list(node.cut.rows)} columns {list(node.cut.columns)}"
        )
    if isinstance(node, MappedLayer):
        if node.range_share is not None:
            yield f"converter range {node.range_share:.9g} of the largest current"
        if node.shares_with:
            numbers = ", ".join(str(replica.number) for replica in node.replicas)
            yield f"shares cells with {node.shares_with}: replicas {numbers}"
        for copy, replica in enumerate(node.replicas):
            yield (
                f"replica {copy}: window {list(replica.unrolling.window)} bundle {replica.unrolling.bundle} "
                f"cut rows {list(replica.cut.rows)} columns {list(replica.cut.columns)} "
                f"windows {array_text(replica.windows)}"
            )


def _weights(layer: LinearLayer | UnrolledLayer | IntegerLayer) -> Iterable[str]:
    if isinstance(layer, CalibratedLayer | IntegerLayer):
        yield _input(layer.quantizer)
    if isinstance(layer, LinearLayer):
        yield f"weight {array_text(layer.weight)}"
    if isinstance(layer, UnrolledLayer):
        yield f"matrix {array_text(layer.matrix)}"
    if isinstance(layer, QuantizedLayer):
        yield f"levels {array_text(layer.levels)}"
    if isinstance(layer, SlicedLayer):
        yield f"digits of base {layer.base} {array_text(layer.digits)}"
    if isinstance(layer, PairedLayer):
        yield f"cells, pairs of base {layer.base} {array_text(layer.cells)}"
    if isinstance(layer, IntegerLayer):
        yield f"scale {array_text(layer.scale)}"


def _input(quantizer: InputQuantizer | ExactInput) -> str:
    if isinstance(quantizer, ExactInput):
        return "input exact"
    at_once = f", {quantizer.bits_per_phase} a phase" if quantizer.bits_per_phase > 1 else ""
    sign = "signed" if quantizer.signed else "unsigned"
    return f"input {sign} {quantizer.bits} bits{at_once}, step {quantizer.scale:.9g}"


def _geometry(geometry: Geometry) -> str:
    return (
        f"{geometry.in_channels} -> {geometry.out_channels} channels, kernel {list(geometry.kernel)}, "
        f"{list(geometry.input_size)} -> {list(geometry.output_size)}, groups {geometry.groups}, "
        f"strides {list(geometry.strides)}, dilations {list(geometry.dilations)}, "
        f"pads {list(geometry.pads_begin)} {list(geometry.pads_end)}, {geometry.layout}"
    )


def _placement_lines(placement: Placement) -> Iterable[str]:
    yield f"placement on {placement.chips} chips"
    for certificate in placement.certificates:
        yield f"  {certificate.quantity} {certificate.value}, bound {certificate.bound}: {certificate.method}"
        if certificate.limited_by:
            yield f"    limited by {certificate.limited_by}"
    yield (
        f"  interval {placement.initiation_interval_steps}, latency {placement.latency_steps} steps, "
        f"pipelined {placement.pipelined_latency_steps}, "
        f"{placement.crossing_values} values cross chips"
    )
    for number, segment in enumerate(placement.segments):
        yield (
            f"  segment {number}: interval {segment.initiation_interval_steps}, latency {segment.latency_steps} steps, "
            f"pipelined {segment.pipelined_latency_steps}, written anew for each {placement.batch} images"
        )
    for rhythm, window, steps in placement.pauses.tolist():
        yield f"  rhythm {rhythm} pauses {steps} steps before window {window}"
    tiles = placement.tiles
    for i in range(len(tiles)):
        segment_of_tile = f"segment {tiles.segment[i]} " if placement.segments else ""
        yield (
            f"  tile layer {tiles.layer[i]} replica {tiles.replica[i]} matrix {tiles.matrix[i]} "
            f"rows {tiles.row_begin[i]}:{tiles.row_end[i]} columns {tiles.column_begin[i]}:{tiles.column_end[i]} "
            f"at {segment_of_tile}array {tiles.array[i]} lines {tiles.input_line[i]},{tiles.output_line[i]} "
            f"start {tiles.start[i]} rhythm {tiles.rhythm[i]} slot {tiles.slot[i]} lag {tiles.lag[i]}"
        )
