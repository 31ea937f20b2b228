"""Attention and QAttention: the projection of its input is a product with static weights."""

from __future__ import annotations

import numpy as np

from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.decomposing import Decomposition

_CONTRIB = "com.microsoft"
_HANDED_ON = ("num_heads", "unidirectional", "mask_filter_value", "scale")


def decompose_attention(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """The projection to queries, keys and values, and MultiHeadAttention of these."""
    data, weight, bias, mask, *others = (*node.inputs, "", "", "")
    if weight not in graph.constants:
        return "its weights are not static"
    if any(others[1:]) or others[0] or any(node.outputs[1:]) or node.attributes.get("do_rotary", 0):
        return "it has a past, an additive bias or rotary positions"
    parts = Decomposition(node, graph)
    value = parts.product("MatMul", data, weight)
    if bias:
        value = parts.operator("Add", value, bias)
    return _attended(parts, value, graph.constants[weight].shape[1], mask)


def decompose_quantized_attention(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """The projection of bytes as integer sums, rescaled, and MultiHeadAttention."""
    data, weight, bias, data_scale, scale, mask, data_zero, zero, past = (*node.inputs, *("",) * 9)[:9]
    if any(name not in graph.constants for name in (weight, scale, *filter(None, [zero]))):
        return "its weights are not static"
    if past or any(node.outputs[1:]) or node.attributes.get("do_rotary", 0):
        return "it has a past or rotary positions"
    parts = Decomposition(node, graph)
    inputs = [data, weight, data_zero, zero]
    while not inputs[-1]:
        inputs.pop()
    value = parts.operator("Cast", parts.product("MatMulInteger", *inputs, dtype="int32"), to=1)
    value = parts.operator("Mul", value, parts.operator("Mul", data_scale, scale))
    value = parts.operator("Add", value, bias)
    return _attended(parts, value, graph.constants[weight].shape[1], mask)


def _attended(parts: Decomposition, value: str, columns: int, mask: str) -> Decomposition | str:
    sizes = list(parts.node.attributes.get("qkv_hidden_sizes", ())) or [columns // 3] * 3
    heads = []
    for begin, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        places = parts.constant(np.arange(begin, begin + size, dtype=np.int64))
        heads.append(parts.operator("Gather", value, places, axis=2))
    attributes = {name: parts.node.attributes[name] for name in _HANDED_ON if name in parts.node.attributes}
    inputs = [*heads, *(("", mask) if mask else ())]
    (result,) = parts.values("MultiHeadAttention", inputs, [parts.dtype], domain=_CONTRIB, **attributes)
    return parts.finish(result)
