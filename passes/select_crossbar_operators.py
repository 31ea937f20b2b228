"""Decides which operators go to crossbars: linear ones with static weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.geometry import Geometry
from memcompile.ir import Graph, LinearLayer, Node, OnnxNode, read_only
from memcompile.onnx_import import LINEAR_OPERATORS
from memcompile.pass_manager import Pass, PassContext

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class SelectCrossbarOperators(Pass):
    """Turns Conv, Gemm and MatMul with static weights into crossbar layers."""

    summary: ClassVar[str] = "turn Conv, Gemm and MatMul with static weights into crossbar layers"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        changed: dict[str, Node] = {}
        for node in graph.nodes:
            if isinstance(node, OnnxNode) and reason_to_stay_digital(node, graph) is None:
                changed[node.name] = _layer(node, graph)
        return graph.map_nodes(changed)


def reason_to_stay_digital(node: OnnxNode, graph: Graph) -> str | None:
    """Why an operator is not mapped to crossbars; None if it is."""
    if node.domain or node.op_type not in LINEAR_OPERATORS:
        return "not a linear operator with weights"
    data, weight, *rest = (*node.inputs, "", "")[: max(3, len(node.inputs))]
    if weight not in graph.constants:
        return "its weights are not static"
    if data in graph.constants or data not in graph.observed_shapes:
        return "its data input is static"
    kinds = (graph.types[node.outputs[0]].dtype, str(graph.constants[weight].dtype))
    if any(kind not in _FLOATS for kind in kinds):
        return f"it computes in {kinds[0]}"
    bias = rest[0] if rest else ""
    if bias and bias not in graph.constants:
        return "its bias is not static"
    if not graph.constants[weight].size:
        return "it has no weights"
    checks = {"Conv": _conv_reason, "Gemm": _gemm_reason, "MatMul": _matmul_reason}
    return checks[node.op_type](node, graph)


def _conv_reason(node: OnnxNode, graph: Graph) -> str | None:
    shape = graph.observed_shapes[node.inputs[0]]
    if len(shape) < 3:
        return "it has no spatial axis"
    if shape[0] > _batch(graph):
        return "it works on several items per image"
    return None if min(_conv_geometry(node, graph).output_size) > 0 else "its output is empty"


def _gemm_reason(node: OnnxNode, graph: Graph) -> str | None:
    if node.attributes.get("transA", 0):
        return "its data input is transposed"
    columns = _gemm_weight(node, graph).shape[1]
    if len(node.inputs) < 3 or not node.inputs[2]:
        return None
    bias = graph.constants[node.inputs[2]]
    per_column = bias.size == 1 or bias.size == bias.shape[-1] == columns
    return None if per_column else "its bias differs from row to row"


def _matmul_reason(node: OnnxNode, graph: Graph) -> str | None:
    if len(graph.observed_shapes[node.inputs[0]]) < 2:
        return "it works on one vector for all images"
    return None if graph.constants[node.inputs[1]].ndim == 2 else "its weights are not one matrix"


def _batch(graph: Graph) -> int:
    shapes = [graph.observed_shapes[name] for name in graph.inputs]
    return max((shape[0] for shape in shapes if shape), default=1)


def _layer(node: OnnxNode, graph: Graph) -> LinearLayer:
    build = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}[node.op_type]
    geometry, weight, bias = build(node, graph)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ModelError(
            f"{graph.name}: layer {node.name!r} has weights that are NaN or infinite; train or export the model again"
        )
    return LinearLayer(
        name=node.name,
        inputs=node.inputs[:1],
        outputs=node.outputs,
        geometry=geometry,
        weight=read_only(np.ascontiguousarray(weight, np.float32)),
        bias=read_only(np.ascontiguousarray(bias, np.float32)),
        dtype=graph.types[node.outputs[0]].dtype,
    )


_Parts = tuple[Geometry, NDArray[Any], NDArray[Any]]


def _conv(node: OnnxNode, graph: Graph) -> _Parts:
    weight = graph.constants[node.inputs[1]]
    has_bias = len(node.inputs) > 2 and node.inputs[2]
    bias = graph.constants[node.inputs[2]] if has_bias else np.zeros(weight.shape[0], np.float32)
    return _conv_geometry(node, graph), weight, bias


def _conv_geometry(node: OnnxNode, graph: Graph) -> Geometry:
    shape = graph.observed_shapes[node.inputs[0]]
    weight = graph.constants[node.inputs[1]]
    kernel, size = weight.shape[2:], shape[2:]
    ones = (1,) * len(kernel)
    strides = tuple(node.attributes.get("strides", ones))
    dilations = tuple(node.attributes.get("dilations", ones))
    begin, end = _pads(node, size, kernel, strides, dilations)
    return Geometry(
        in_channels=shape[1],
        out_channels=weight.shape[0],
        kernel=kernel,
        input_size=size,
        groups=int(node.attributes.get("group", 1)),
        strides=strides,
        dilations=dilations,
        pads_begin=begin,
        pads_end=end,
    )


def _pads(
    node: OnnxNode, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis, as the ONNX operator specification defines auto_pad."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    rank = len(kernel)
    if auto in ("NOTSET", ""):
        pads = tuple(node.attributes.get("pads", (0,) * (2 * rank)))
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return (0,) * rank, (0,) * rank
    begin, end = [], []
    for length, taps, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(length / stride) - 1) * stride + dilation * (taps - 1) + 1 - length)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return tuple(begin), tuple(end)


def _gemm_weight(node: OnnxNode, graph: Graph) -> NDArray[Any]:
    weight = graph.constants[node.inputs[1]]
    return weight.T if node.attributes.get("transB", 0) else weight


def _gemm(node: OnnxNode, graph: Graph) -> _Parts:
    weight = _gemm_weight(node, graph).astype(np.float32) * np.float32(node.attributes.get("alpha", 1.0))
    bias = np.zeros(weight.shape[1], np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        given = graph.constants[node.inputs[2]].astype(np.float32)
        bias = bias + given.reshape(-1) * np.float32(node.attributes.get("beta", 1.0))
    return _vector_geometry(node, graph, weight), weight.T[:, :, None], bias


def _matmul(node: OnnxNode, graph: Graph) -> _Parts:
    weight = graph.constants[node.inputs[1]]
    return _vector_geometry(node, graph, weight), weight.T[:, :, None], np.zeros(weight.shape[1], np.float32)


def _vector_geometry(node: OnnxNode, graph: Graph, weight: NDArray[Any]) -> Geometry:
    """A matrix product as a convolution with kernel size 1 over the vectors of one image."""
    vectors = math.prod(graph.observed_shapes[node.inputs[0]][:-1])
    batch = _batch(graph)
    return Geometry(
        in_channels=weight.shape[0],
        out_channels=weight.shape[1],
        input_size=(vectors // batch if vectors % batch == 0 else vectors,),
        layout="channels_last",
    )
