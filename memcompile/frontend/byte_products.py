"""Products of bytes in the form that onnxruntime computes exactly on every processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from memcompile.frontend.validation import is_elsewhere, unused_name

_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class _Places:
    """Input numbers of an operator; that of data's zero point is None where the operator quantises data itself."""

    data: int
    data_zero: int | None
    weight: int
    zero: int


_PRODUCTS: Mapping[tuple[str, str], _Places] = MappingProxyType(
    {
        ("", "ConvInteger"): _Places(0, 2, 1, 3),
        ("", "MatMulInteger"): _Places(0, 2, 1, 3),
        ("", "QLinearConv"): _Places(0, 2, 3, 5),
        ("", "QLinearMatMul"): _Places(0, 2, 3, 5),
        (_CONTRIB, "DynamicQuantizeMatMul"): _Places(0, None, 1, 3),
        (_CONTRIB, "MatMulIntegerToFloat"): _Places(0, 4, 1, 5),
        (_CONTRIB, "QAttention"): _Places(0, 6, 1, 7),
        (_CONTRIB, "QGemm"): _Places(0, 2, 3, 5),
        (_CONTRIB, "QLinearConv"): _Places(0, 2, 3, 5),
    }
)


def use_unsigned_weights(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Turn signed weights that are multiplied with unsigned bytes into unsigned ones, with zero points 128 higher.

    On processors without instructions for such products onnxruntime adds two of them in 16 bits, which overflow; its
    products of unsigned bytes are exact everywhere. The ONNX specification allows no overflow.

    Parameters
    ----------
    model
        Changed in place.
    arrays
        Initializers whose values the model leaves out, by name.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    unsigned = _unsigned_values(model.graph, initializers)
    taken = {*initializers, *(value for node in model.graph.node for value in node.output)}
    shifted: dict[str, str] = {}
    for node in model.graph.node:
        places = _PRODUCTS.get((node.domain, node.op_type))
        if places is None or not _is_mixed(node, places, initializers, unsigned):
            continue
        node.input.extend([""] * (places.zero + 1 - len(node.input)))
        for place in (places.weight, places.zero):
            name = node.input[place]
            if name not in shifted:
                shifted[name] = unused_name(f"{name}/unsigned", taken)
                values = _values(initializers[name], arrays) if name else np.zeros((), np.int8)
                tensor = onnx.numpy_helper.from_array(values.view(np.uint8) ^ np.uint8(128), shifted[name])
                model.graph.initializer.append(tensor)
            node.input[place] = shifted[name]


def _unsigned_values(graph: onnx.GraphProto, initializers: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Values that are known to be unsigned bytes."""
    found = {value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    found |= {name for name, tensor in initializers.items() if tensor.data_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            found |= {node.output[0], *node.output[2:]}
        elif node.op_type == "QuantizeLinear" and (len(node.input) < 3 or node.input[2] in found):
            found.add(node.output[0])
    return found


def _is_mixed(
    node: onnx.NodeProto, places: _Places, initializers: Mapping[str, onnx.TensorProto], unsigned: set[str]
) -> bool:
    """Return True if a product is one of unsigned data with signed initializers."""
    inputs = dict(enumerate(node.input))
    data = [inputs.get(place, "") for place in (places.data, places.data_zero) if place is not None]
    if places.data_zero is not None and unsigned.isdisjoint(data):
        return False
    weights = [inputs.get(places.weight, ""), *filter(None, [inputs.get(places.zero, "")])]
    return all(name in initializers and initializers[name].data_type == onnx.TensorProto.INT8 for name in weights)


def _values(tensor: onnx.TensorProto, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    values: NDArray[Any] = arrays[tensor.name] if is_elsewhere(tensor) else onnx.numpy_helper.to_array(tensor)
    return np.ascontiguousarray(values).reshape(values.shape)


def integer_product_model(matrices: NDArray[np.int8], zero_point: int) -> bytes:
    """A model that multiplies vectors with integer matrices.

    Its output int32 [matrices, items, columns] is (x - zero_point) @ matrices, for an input ``x``
    of uint8 [matrices, items, rows] and ``matrices`` of [matrices, rows, columns].
    """
    count, rows, columns = matrices.shape
    # A single matrix without the leading axis is what onnxruntime rearranges ahead of time.
    weights = matrices[0] if count == 1 else matrices
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "weights", "zero_point"], ["y"])],
        "integer_product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [count, None, rows])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [count, None, columns])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(weights), "weights"),
            onnx.numpy_helper.from_array(np.array(zero_point, np.uint8), "zero_point"),
        ],
    )
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=7, producer_name="memcompile")
    return bytes(model.SerializeToString(deterministic=True))
