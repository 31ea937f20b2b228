"""Composite products with quantised weights: MatMulNBits, DynamicQuantizeMatMul, MatMulIntegerToFloat, QGemm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.decomposing import Decomposition, sizes_of

_NOT_STATIC = "its weights are not static"
_PACKED_BITS = (2, 4, 8)


def _input(node: OnnxNode, place: int) -> str:
    return node.inputs[place] if place < len(node.inputs) else ""


def _are_static(node: OnnxNode, graph: Graph, *places: int) -> bool:
    return all(name in graph.constants for place in places if (name := _input(node, place)))


# --- weights of few bits -----------------------------------------------------------------------


def decompose_matmul_nbits(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """MatMul with the dequantised weights, and the addition of the bias."""
    if not _are_static(node, graph, 1, 2, 3, 4):
        return _NOT_STATIC
    bits = int(node.attributes.get("bits", 4))
    if bits not in _PACKED_BITS:
        return f"its weights have {bits} bits"
    if _input(node, 4) and _input(node, 3) and graph.constants[node.inputs[3]].dtype == np.uint8:
        return "it has packed zero points and groups of inputs, which onnxruntime does not combine as documented"
    parts = Decomposition(node, graph)
    value = parts.product("MatMul", node.inputs[0], parts.constant(_dequantized(node, graph, bits).T))
    bias = _input(node, 5)
    return parts.finish(parts.operator("Add", value, bias) if bias else value)


def _dequantized(node: OnnxNode, graph: Graph, bits: int) -> NDArray[np.float32]:
    """Weights [N, K]: (number - zero point) * scale, both of which are per block of inputs."""
    inputs, outputs, block = (int(node.attributes[name]) for name in ("K", "N", "block_size"))
    blocks = -(-inputs // block)
    numbers = _unpacked(graph.constants[node.inputs[1]].reshape(outputs, -1), bits)[:, :inputs]
    scales = graph.constants[node.inputs[2]].astype(np.float32).reshape(outputs, blocks)
    name, groups = _input(node, 3), _input(node, 4)
    zeros: NDArray[Any] = np.full((outputs, blocks), 1 << (bits - 1), np.float32)
    if name and graph.constants[name].dtype == np.uint8:
        zeros = _unpacked(graph.constants[name].reshape(outputs, -1), bits)[:, :blocks]
    elif name:
        zeros = graph.constants[name].reshape(outputs, blocks)
    which = graph.constants[groups][:inputs] if groups else np.arange(inputs) // block
    dequantized: NDArray[np.float32] = numbers - zeros.astype(np.float32)[:, which]
    dequantized *= scales[:, which]
    return dequantized


def _unpacked(packed: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Integers packed in rows of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(len(packed), -1).astype(np.float32)


# --- weights of eight bits ---------------------------------------------------------------------


def decompose_dynamic_quantize_matmul(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """DynamicQuantizeLinear, MatMulInteger, and the product with both scales."""
    data, weight, scale, zero, bias = (_input(node, place) for place in range(5))
    if not _are_static(node, graph, 1, 2, 3):
        return _NOT_STATIC
    if data in graph.constants or data not in graph.observed_shapes:
        return "its data input is static"
    parts = Decomposition(node, graph)
    numbers, data_scale, data_zero = parts.values("DynamicQuantizeLinear", [data], ["uint8", "float32", "uint8"])
    parts.seen(numbers, graph.observed_shapes[data], sizes_of(graph, data))
    value = parts.product("MatMulInteger", numbers, weight, data_zero, *filter(None, [zero]), dtype="int32")
    return parts.finish(_rescaled(parts, value, (data_scale, scale), bias))


def decompose_matmul_integer_to_float(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """MatMulInteger, and the product with both scales."""
    data, weight, data_scale, scale, data_zero, zero, bias = (_input(node, place) for place in range(7))
    if not _are_static(node, graph, 1, 3, 5):
        return _NOT_STATIC
    if data_scale in graph.constants and graph.constants[data_scale].size > 1:
        return "its vectors have scales of their own"
    parts = Decomposition(node, graph)
    inputs = [data, weight, data_zero, zero]
    while not inputs[-1]:
        inputs.pop()
    value = parts.product("MatMulInteger", *inputs, dtype="int32")
    return parts.finish(_rescaled(parts, value, (data_scale, scale), bias))


def _rescaled(parts: Decomposition, value: str, scales: tuple[str, str], bias: str) -> str:
    """Integer sums times both scales, in the order and precision of onnxruntime, and the bias."""
    value = parts.operator("Cast", value, to=1)
    value = parts.operator("Mul", value, parts.operator("Mul", *scales))
    return parts.operator("Add", value, bias) if bias else value


def decompose_qgemm(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """MatMulInteger, the addition of the bias, and the rescaling to the output's type."""
    data, data_scale, data_zero, weight, scale, zero, bias, out_scale, out_zero = (
        _input(node, place) for place in range(9)
    )
    if not _are_static(node, graph, *range(1, 9)):
        return "its weights, scales or zero points are not static"
    if data not in graph.observed_shapes or data in graph.constants:
        return "its data input is static"
    parts, shape, known = Decomposition(node, graph), graph.observed_shapes[data], sizes_of(graph, data)
    numbers = data
    if node.attributes.get("transA", 0):
        numbers = parts.operator("Transpose", data, dtype=graph.types[data].dtype, perm=[1, 0])
        parts.seen(numbers, shape[::-1], known[::-1])
    matrix = graph.constants[weight]
    weights = parts.constant(matrix.T) if node.attributes.get("transB", 0) else weight
    value = parts.product("MatMulInteger", numbers, weights, data_zero, zero, dtype="int32")
    if bias:
        value = parts.operator("Add", value, bias, dtype="int32")
    value = parts.operator("Cast", value, dtype="float32", to=1)
    factor = np.float32(node.attributes.get("alpha", 1.0)) * graph.constants[data_scale] * graph.constants[scale]
    if out_scale:
        factor = factor / graph.constants[out_scale]
    value = parts.operator("Mul", value, parts.constant(factor.astype(np.float32)), dtype="float32")
    if not out_scale:
        return parts.finish(value)
    zeros = [out_zero] if out_zero else [parts.constant(np.zeros((), parts.dtype))]
    return parts.finish(parts.operator("QuantizeLinear", value, parts.constant(np.ones((), np.float32)), *zeros))


def decompose_channels_last(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """QLinearConv, between two permutations of axes where its channels are last."""
    data = node.inputs[0]
    if data not in graph.observed_shapes or data in graph.constants:
        return "its data input is static"
    parts = Decomposition(node, graph)
    attributes = {name: value for name, value in node.attributes.items() if name != "channels_last"}
    if not node.attributes.get("channels_last", 0):
        return parts.finish(parts.product("QLinearConv", *node.inputs, **attributes))
    rank = len(graph.observed_shapes[data])
    first = [0, rank - 1, *range(1, rank - 1)]
    value = parts.operator("Transpose", data, dtype=graph.types[data].dtype, perm=first)
    shape, known = graph.observed_shapes[data], sizes_of(graph, data)
    parts.seen(value, [shape[axis] for axis in first], [known[axis] for axis in first])
    value = parts.product("QLinearConv", value, *node.inputs[1:], **attributes)
    return parts.finish(parts.transposed(value, [0, *range(2, rank), 1]))
