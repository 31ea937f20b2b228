"""FusedConv, FusedGemm and FusedMatMul, which onnxruntime's graph rewrites make of plain operators."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.decomposing import Decomposition, sizes_of
from memcompile.passes.lowering.lowering import opset

# Activations that are operators of the same name, with their parameters in the order of the attribute of FusedConv.
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Relu": (),
        "Sigmoid": (),
        "Tanh": (),
        "Softplus": (),
        "Softsign": (),
        "Elu": ("alpha",),
        "LeakyRelu": ("alpha",),
        "ThresholdedRelu": ("alpha",),
        "HardSigmoid": ("alpha", "beta"),
        "Clip": ("min", "max"),
    }
)
_PREFIX = "activation_"


def decompose_fused_conv(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """Conv, the addition of a fourth input, and the activation."""
    activation, given = node.attributes.get("activation", ""), node.attributes.get("activation_params", ())
    if activation and (activation not in _ACTIVATIONS or len(given) != len(_ACTIVATIONS[activation])):
        return f"its activation {activation} is not known"
    parts = Decomposition(node, graph)
    value = parts.product("Conv", *node.inputs[:3], **_without_activation(node))
    if len(node.inputs) > 3 and node.inputs[3]:
        value = parts.operator("Add", value, node.inputs[3])
    return parts.finish(_activated(parts, value, activation, dict(zip(_names(activation), given, strict=False))))


def decompose_fused_gemm(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """Gemm and the activation."""
    activation = node.attributes.get("activation", "")
    # A Gemm has no attributes for the limits of a Clip.
    if activation and (activation not in _ACTIVATIONS or activation == "Clip"):
        return f"its activation {activation} is not known"
    parts = Decomposition(node, graph)
    value = parts.product("Gemm", *node.inputs, **_without_activation(node))
    parameters = {
        name: node.attributes[_PREFIX + name] for name in _names(activation) if _PREFIX + name in node.attributes
    }
    return parts.finish(_activated(parts, value, activation, parameters))


def decompose_fused_matmul(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """MatMul of operands whose axes are exchanged, times a factor."""
    left, right = node.inputs[:2]
    on_the_left = left in graph.constants
    data, weight = (right, left) if on_the_left else (left, right)
    if weight not in graph.constants:
        return "its weights are not static"
    if data in graph.constants or data not in graph.observed_shapes:
        return "its data input is static"
    shape, known, weights = graph.observed_shapes[data], sizes_of(graph, data), graph.constants[weight]
    sides = ("B", "A") if on_the_left else ("A", "B")
    axes = [
        operand_axes(rank, *(bool(node.attributes.get(f"{word}{side}", 0)) for word in ("trans", "transBatch")))
        for rank, side in zip((len(shape), weights.ndim), sides, strict=True)
    ]
    parts = Decomposition(node, graph)
    value = parts.transposed(data, axes[0])
    if value != data:
        parts.seen(value, [shape[axis] for axis in axes[0]], [known[axis] for axis in axes[0]])
    factor = np.float32(node.attributes.get("alpha", 1.0))
    # In float32, so that half precision does not lose the product.
    matrix = parts.constant(weights.astype(np.float32).transpose(axes[1]) * factor)
    value = parts.product("MatMul", *((matrix, value) if on_the_left else (value, matrix)))
    return parts.finish(value)


def operand_axes(rank: int, swap: bool, batch_last: bool) -> list[int]:
    """Order of an operand's axes: ``swap`` exchanges the last two, after the first one went before the last."""
    axes = list(range(rank))
    if rank < 2:
        return axes
    if batch_last:
        axes = [*axes[1:-1], 0, axes[-1]]
    return [*axes[:-2], axes[-1], axes[-2]] if swap else axes


def _names(activation: str) -> tuple[str, ...]:
    return _ACTIVATIONS.get(activation, ())


def _without_activation(node: OnnxNode) -> dict[str, Any]:
    return {name: value for name, value in node.attributes.items() if not name.startswith("activation")}


def _activated(parts: Decomposition, value: str, activation: str, parameters: Mapping[str, float]) -> str:
    if not activation:
        return value
    if activation == "Clip" and opset(parts.graph) >= 11:
        limits = [parts.constant(np.array(parameters[name], parts.dtype)) for name in ("min", "max")]
        return parts.operator("Clip", value, *limits)
    attributes: dict[str, Any] = dict(parameters)
    return parts.operator(activation, value, **attributes)
