"""Gemm and MatMul with a static matrix, or a stack of them, on either side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.lowering import (
    Lowering,
    float_reason,
    opset,
    reshaped,
    swapped,
    transposed,
    vector_geometry,
)


def _sides(node: OnnxNode, graph: Graph) -> tuple[str, str, bool]:
    """Data, weights, and whether the weights stand on the left."""
    left, right = node.inputs[:2]
    on_the_left = left in graph.constants and right not in graph.constants
    return (right, left, True) if on_the_left else (left, right, False)


def product_reason(node: OnnxNode, graph: Graph) -> str | None:
    """Return the reason why a Gemm or MatMul stays digital; None if it is mapped."""
    data, weight, on_the_left = _sides(node, graph)
    reason = float_reason(node, graph, data, weight)
    if reason is not None:
        return reason
    matrices = graph.constants[weight].shape
    if node.op_type == "Gemm":
        plain = not on_the_left and not node.attributes.get("transA", 0) and _folded_bias(node, graph) is not None
        return None if plain or opset(graph) >= 7 else "its operator set is older than 7"
    if len(matrices) == 2:
        return None
    return None if _arrangement(graph, data, matrices) else "its weights and its data broadcast against each other"


def lower_matmul(node: OnnxNode, graph: Graph) -> Lowering:
    """MatMul; weights on the left are taken as (X^T A^T)^T."""
    low = Lowering(node, graph)
    data, weight, on_the_left = _sides(node, graph)
    dtype = graph.types[node.outputs[0]].dtype
    matrices, shape = graph.constants[weight].astype(np.float32, copy=False), graph.observed_shapes[data]
    multiply = _plain
    if matrices.ndim > 2:
        arrangement = _arrangement(graph, data, matrices.shape)
        multiply = {"single": _plain, "shared": _shared, "paired": _paired}[str(arrangement)]
    if not on_the_left:
        return low.finish(multiply(low, data, shape, matrices, dtype)[0])
    turned = swapped(low, data, len(shape), dtype)
    value, rank = multiply(low, turned, (*shape[:-2], shape[-1], shape[-2]), matrices.swapaxes(-1, -2), dtype)
    return low.finish(swapped(low, value, rank, dtype))


def _arrangement(graph: Graph, data: str, matrices: Sequence[int]) -> str | None:
    """Return how a stack of matrices pairs with its data: single matrix, shared data, or paired; None if otherwise."""
    stack, shape = tuple(matrices[:-2]), graph.observed_shapes[data]
    if math.prod(stack) == 1 and len(shape) >= len(matrices):
        return "single"
    known = graph.types[data].shape
    # A free axis was seen with one item, which does not mean that it always has one.
    fixed = [
        size if size > 1 or (len(known) == len(shape) and known[axis] == 1) else None
        for axis, size in enumerate(shape[:-2])
    ]
    own = fixed[-len(stack) :]
    if len(fixed) - len(own) > 1:
        return None
    if all(size == 1 for size in own):
        return "shared"
    return "paired" if tuple(own) == stack else None


def _plain(
    low: Lowering, data: str, shape: tuple[int, ...], matrices: NDArray[np.float32], dtype: str
) -> tuple[str, int]:
    """Data [..., vectors, rows] times one matrix; returns the result and its rank."""
    rows, columns = matrices.shape[-2:]
    matrix = matrices.reshape(rows, columns)
    geometry = vector_geometry(low.graph, shape, rows, columns)
    return low.layer(data, shape, geometry, matrix.T[:, :, None], dtype=dtype), len(shape)


def _shared(
    low: Lowering, data: str, shape: tuple[int, ...], matrices: NDArray[np.float32], dtype: str
) -> tuple[str, int]:
    """All matrices of the stack side by side as the columns of one layer."""
    stack, (rows, columns) = matrices.shape[:-2], matrices.shape[-2:]
    many = math.prod(stack)
    wide = matrices.reshape(many, rows, columns).transpose(1, 0, 2).reshape(rows, many * columns)
    geometry = vector_geometry(low.graph, shape, rows, many * columns)
    value = low.layer(data, shape, geometry, wide.T[:, :, None], dtype=dtype)
    vectors = shape[-2]
    outer = shape[: len(shape) - 2 - min(len(stack), len(shape) - 2)]
    # The first size is the batch, if there is one; it stays open.
    sizes = [-1, vectors, *stack, columns] if outer else [-1, *stack, columns]
    value = reshaped(low, value, sizes, dtype)
    first = len(outer)
    axes = [*range(first), *range(first + 1, first + 1 + len(stack)), first, len(sizes) - 1]
    return transposed(low, value, axes, dtype), len(sizes)


def _paired(
    low: Lowering, data: str, shape: tuple[int, ...], matrices: NDArray[np.float32], dtype: str
) -> tuple[str, int]:
    """Own data for each matrix: a grouped layer with one group per matrix."""
    stack, (rows, columns) = matrices.shape[:-2], matrices.shape[-2:]
    many, vectors, rank = math.prod(stack), shape[-2], len(shape)
    outer = shape[: rank - 2 - len(stack)]
    images = outer[0] if outer else 1
    value = swapped(low, data, rank, dtype)
    value = reshaped(low, value, [-1 if outer else 1, many * rows, vectors], dtype)
    geometry = Geometry(many * rows, many * columns, input_size=(vectors,), groups=many)
    weight = matrices.reshape(many, rows, columns).transpose(0, 2, 1).reshape(many * columns, rows, 1)
    value = low.layer(value, (images, many * rows, vectors), geometry, weight, dtype=dtype)
    value = reshaped(low, value, [*([-1] if outer else []), *stack, columns, vectors], dtype)
    return swapped(low, value, rank, dtype), rank


def _folded_bias(node: OnnxNode, graph: Graph) -> NDArray[np.float32] | None:
    """The product beta * C where it is static with one number per column; None where it has to be added digitally."""
    transposed_weight = node.attributes.get("transB", 0)
    columns = graph.constants[node.inputs[1]].shape[0 if transposed_weight else 1]
    if len(node.inputs) < 3 or not node.inputs[2]:
        return np.zeros(columns, np.float32)
    given = graph.constants.get(node.inputs[2])
    if given is None or not (given.size == 1 or given.size == given.shape[-1] == columns):
        return None
    beta = np.float32(node.attributes.get("beta", 1.0))
    return np.zeros(columns, np.float32) + given.astype(np.float32).reshape(-1) * beta


def lower_gemm(node: OnnxNode, graph: Graph) -> Lowering:
    """Layer of alpha * A' * B' + beta * C; weights on the left are taken as (B'^T A'^T)^T."""
    low = Lowering(node, graph)
    data, weight, on_the_left = _sides(node, graph)
    dtype, shape = graph.types[node.outputs[0]].dtype, graph.observed_shapes[data]
    trans_a, trans_b = (bool(node.attributes.get(name, 0)) for name in ("transA", "transB"))
    matrix = graph.constants[weight].astype(np.float32) * np.float32(node.attributes.get("alpha", 1.0))
    if not trans_a if on_the_left else trans_b:
        matrix = matrix.T
    if (not trans_b) if on_the_left else trans_a:
        data, shape = swapped(low, data, 2, dtype), shape[::-1]
    if len(shape) == 1 and not on_the_left:
        # onnxruntime takes a vector for a row; where Squeeze drops a batch of one, larger batches keep their axis.
        data, shape = reshaped(low, data, [-1, shape[0]], dtype), (1, shape[0])
    bias = None if on_the_left else _folded_bias(node, graph)
    geometry = vector_geometry(graph, shape, *matrix.shape)
    value = low.layer(data, shape, geometry, matrix.T[:, :, None], bias, dtype=dtype)
    if on_the_left:
        value = swapped(low, value, 2, dtype)
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        value = low.operator("Add", value, _offset(low, node, graph, dtype), dtype=dtype)
    return low.finish(value)


def _offset(low: Lowering, node: OnnxNode, graph: Graph, dtype: str) -> str:
    """The product beta * C as a value."""
    beta, name = np.float32(node.attributes.get("beta", 1.0)), node.inputs[2]
    if name in graph.constants:
        return low.constant((graph.constants[name] * beta).astype(dtype))
    return name if beta == 1 else low.operator("Mul", name, low.constant(np.array(beta, dtype)), dtype=dtype)
