"""Quantised operators: QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger, and float ones between Q and DQ.

All become an integer layer, which sums x * (w - w_zero) on the crossbar and keeps the
model's own scales; the zero point of the input, the bias and the rescaling are digital:
sum (x - x_zero)(w - w_zero) = sum x (w - w_zero) - x_zero * sum (w - w_zero), where the last sum
runs over the taps that do not meet padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.lower_convolutions import geometry_of
from memcompile.passes.lowering.lowering import Lowering, vector_geometry
from memcompile.verify.interpreter import apply_matrices

_BYTES = ("int8", "uint8")
# Inputs of each operator: data, their zero point, weights, their zero point.
_PLACES: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {
        "QLinearConv": (0, 2, 3, 5),
        "QLinearMatMul": (0, 2, 3, 5),
        "ConvInteger": (0, 2, 1, 3),
        "MatMulInteger": (0, 2, 1, 3),
    }
)


@dataclass(frozen=True, eq=False)
class _Product:
    """An integer product; zero points are scalars, or one number per output channel for weights.

    The zero point of the data may be a value, which DynamicQuantizeLinear makes.

    ``weight`` is [out_channels, in_channels / groups, *kernel] for convolutions and
    [rows, columns] for matrix products.
    """

    data: str
    data_zero: int | str
    weight: NDArray[np.int32]
    convolution: bool


def quantized_reason(node: OnnxNode, graph: Graph) -> str | None:
    """Return the reason why a quantised operator stays digital; None if it is mapped."""
    data, data_zero, weight, _ = _PLACES[node.op_type]
    inputs = dict(enumerate(node.inputs))
    moving = data_zero if _is_dynamic_zero(inputs.get(data_zero, ""), graph) else data
    if inputs[weight] not in graph.constants:
        return "its weights are not static"
    if inputs[data] in graph.constants or inputs[data] not in graph.observed_shapes:
        return "its data input is static"
    if any(name and name not in graph.constants for place, name in inputs.items() if place not in (data, moving)):
        return "its scales or zero points are not static"
    return _shape_reason(node, graph)


def _is_dynamic_zero(name: str, graph: Graph) -> bool:
    """Return True if a zero point is a result of DynamicQuantizeLinear."""
    producer = graph.producers.get(name)
    return isinstance(producer, OnnxNode) and producer.kind == "DynamicQuantizeLinear" and name == producer.outputs[2]


def _shape_reason(node: OnnxNode, graph: Graph) -> str | None:
    data, _, weight, _ = _PLACES[node.op_type]
    shape, weights = graph.observed_shapes[node.inputs[data]], graph.constants[node.inputs[weight]]
    if not weights.size:
        return "it has no weights"
    if node.op_type in ("QLinearMatMul", "MatMulInteger"):
        if len(shape) < 2:
            return "it works on one vector for all images"
        return None if weights.ndim == 2 else "its weights are not one matrix"
    return "it works on several items per image" if shape[0] > graph.samples else None


def lower_quantized(node: OnnxNode, graph: Graph) -> Lowering:
    """An integer layer, and for the QLinear operators the rescaling to the output's type."""
    low = Lowering(node, graph)
    data, data_zero, weight, weight_zero = _PLACES[node.op_type]
    convolution = "Conv" in node.op_type
    weights = graph.constants[node.inputs[weight]].astype(np.int32)
    zero = _constant(node, graph, weight_zero, 0).astype(np.int32)
    first = (-1,) + (1,) * (weights.ndim - 1)
    product = _Product(
        node.inputs[data],
        _data_zero(node, graph, data_zero),
        weights - zero.reshape(first if convolution and zero.size > 1 else zero.shape),
        convolution,
    )
    bias = _constant(node, graph, 8, 0) if node.op_type == "QLinearConv" else np.zeros(1, np.int32)
    value = _summed(low, product, graph.observed_shapes[product.data], bias)
    if node.op_type not in ("QLinearConv", "QLinearMatMul"):
        return low.finish(value)
    # In the order and precision in which onnxruntime computes the factor.
    factor = _constant(node, graph, 1, 1) * _constant(node, graph, 4, 1) / _constant(node, graph, 6, 1)
    value = _scaled(low, value, factor.astype(np.float32), product)
    out_zero = _constant(node, graph, 7, 0)
    one = low.constant(np.array(1, np.float32))
    value = low.operator(
        "QuantizeLinear", value, one, low.constant(out_zero.reshape(())), dtype=graph.types[node.outputs[0]].dtype
    )
    return low.finish(value)


def _constant(node: OnnxNode, graph: Graph, place: int, default: int) -> NDArray[Any]:
    """A constant input, or its default where it is left out."""
    name = node.inputs[place] if place < len(node.inputs) else ""
    return graph.constants[name] if name else np.array(default)


def _data_zero(node: OnnxNode, graph: Graph, place: int) -> int | str:
    name = node.inputs[place] if place < len(node.inputs) else ""
    return name if name and name not in graph.constants else int(_constant(node, graph, place, 0).reshape(-1)[0])


def _summed(low: Lowering, product: _Product, shape: tuple[int, ...], bias: NDArray[Any]) -> str:
    """Integer sums with the digital part added, int32."""
    geometry, kernels = _layer(low, product, shape)
    value = low.layer(product.data, shape, geometry, kernels, dtype="int32", integer=True)
    fixed = bias.astype(np.int64).reshape((-1,) + (1,) * (geometry.rank if product.convolution else 0))
    if isinstance(product.data_zero, str):
        zero = low.operator("Cast", product.data_zero, dtype="int32", to=6)
        sums = low.constant(_offset(geometry, product, kernels, 1).astype(np.int32))
        value = low.operator("Add", value, low.operator("Mul", zero, sums, dtype="int32"), dtype="int32")
    else:
        fixed = _offset(geometry, product, kernels, product.data_zero) + fixed
    if not fixed.any():
        return value
    return low.operator("Add", value, low.constant(fixed.astype(np.int32)), dtype="int32")


def _layer(low: Lowering, product: _Product, shape: tuple[int, ...]) -> tuple[Geometry, NDArray[np.int32]]:
    if product.convolution:
        return geometry_of(low.node, shape, product.weight.shape), product.weight
    rows, columns = product.weight.shape
    return vector_geometry(low.graph, shape, rows, columns), product.weight.T[:, :, None]


def _offset(geometry: Geometry, product: _Product, kernels: NDArray[np.int32], zero: int) -> NDArray[np.int64]:
    """Return the offset of an input's zero point: [columns], or [out_channels, *output_size] with padding."""
    if not product.convolution:
        columns: NDArray[np.int64] = -zero * product.weight.sum(axis=0, dtype=np.int64)
        return columns
    matrices = kernels.reshape(geometry.groups, geometry.group_columns, geometry.group_rows).transpose(0, 2, 1)
    padded = any((*geometry.pads_begin, *geometry.pads_end)) and zero != 0
    if not padded:
        sums: NDArray[np.int64] = -zero * matrices.sum(axis=1, dtype=np.int64)
        return sums.reshape(-1, *(1,) * geometry.rank)
    ones = np.ones((1, geometry.in_channels, *geometry.input_size))
    met = apply_matrices(ones, geometry, matrices.astype(np.float64))
    whole: NDArray[np.int64] = np.rint(met).astype(np.int64).reshape(geometry.out_channels, *geometry.output_size)
    return -zero * whole


def _scaled(low: Lowering, value: str, factor: NDArray[np.float32], product: _Product) -> str:
    """Integer sums times a factor, one for all or one per output channel."""
    axes = product.weight.ndim - 2 if product.convolution else 0
    per_channel = low.constant(factor.reshape(-1, *(1,) * axes) if factor.size > 1 else factor.reshape(()))
    value = low.operator("Cast", value, dtype="float32", to=1)
    return low.operator("Mul", value, per_channel, dtype="float32")


# --- float operators between DequantizeLinear and constants that were quantised --------------------


def between_quantizers(node: OnnxNode, graph: Graph) -> bool:
    """Return True if a Conv, Gemm or MatMul multiplies dequantised bytes by dequantised bytes."""
    if node.op_type == "ConvTranspose" or len(node.inputs) < 2 or node.inputs[1] not in graph.quantized:
        return False
    if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in graph.constants:
        return False
    producer = graph.producers.get(node.inputs[0])
    if not isinstance(producer, OnnxNode) or producer.domain or producer.op_type != "DequantizeLinear":
        return False
    data, *parameters = producer.inputs
    if any(name and (name not in graph.constants or graph.constants[name].size > 1) for name in parameters):
        return False
    if (
        data not in graph.types
        or graph.types[data].dtype not in _BYTES
        or graph.types[node.outputs[0]].dtype != "float32"
    ):
        return False
    plain = node.op_type != "Gemm" or not (
        node.attributes.get("transA", 0)
        or node.attributes.get("alpha", 1.0) != 1
        or node.attributes.get("beta", 1.0) != 1
    )
    quantized = graph.quantized[node.inputs[1]]
    if quantized.scale.ndim > 1:
        return False  # a scale a block of inputs
    many = quantized.scale.size > 1 or quantized.zero_point.size > 1
    rank = quantized.values.ndim
    channel_axis = 0 if node.op_type == "Conv" or node.attributes.get("transB", 0) else 1
    fits = not many or quantized.axis % rank == channel_axis
    return plain and fits and quantized.values.dtype.name in _BYTES and (node.op_type == "Conv" or rank == 2)


def largest_byte(node: OnnxNode, graph: Graph) -> int:
    """Upper bound of a weight less its zero point, for a node :func:`between_quantizers`."""
    quantized = graph.quantized[node.inputs[1]]
    values, zeros = quantized.values.astype(np.int32), quantized.zero_point.astype(np.int32)
    return int(max(values.max() - zeros.min(), zeros.max() - values.min()))


def lower_between_quantizers(node: OnnxNode, graph: Graph) -> Lowering:
    """An integer layer that reads the bytes; both scales and the bias are digital."""
    low = Lowering(node, graph)
    producer, quantized = graph.producers[node.inputs[0]], graph.quantized[node.inputs[1]]
    assert isinstance(producer, OnnxNode)
    convolution, rank = node.op_type == "Conv", quantized.values.ndim
    transposed = bool(node.attributes.get("transB", 0))
    along = [1] * rank
    along[0 if convolution or transposed else 1] = -1
    zero = quantized.zero_point.astype(np.int32)
    weight = quantized.values.astype(np.int32) - (zero.reshape(along) if zero.size > 1 else zero.reshape(()))
    product = _Product(
        producer.inputs[0],
        int(_constant(producer, graph, 2, 0).reshape(-1)[0]),
        weight.T if transposed else weight,
        convolution,
    )
    value = _summed(low, product, graph.observed_shapes[node.inputs[0]], np.zeros(1, np.int32))
    data_scale = _constant(producer, graph, 1, 1).astype(np.float32).reshape(-1)[0]
    value = _scaled(low, value, (data_scale * quantized.scale.astype(np.float32)).reshape(-1), product)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph.constants[node.inputs[2]].astype(np.float32)
        shaped = bias.reshape(-1, *(1,) * (rank - 2)) if convolution else bias
        value = low.operator("Add", value, low.constant(shaped), dtype="float32")
    return low.finish(value)
