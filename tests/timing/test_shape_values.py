"""Values that follow from shapes, compared with onnxruntime."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from numpy.typing import NDArray

from memcompile.frontend.importer import digital_operators
from memcompile.timing.shape_values import MOST_ELEMENTS, value_of

INT64, F = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
A, B = np.array([7, -3, 2]), np.array([2, 2, -3])
FLAGS = {"a": A > 0, "b": B > 0}
NUMBERS = {"a": A, "b": B}
ONE = np.array(1)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


CASES: list[tuple[str, dict[str, NDArray[Any]], dict[str, Any]]] = [
    *((name, NUMBERS, {}) for name in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater", "Min", "Max")),
    ("Div", {name: value.astype(np.float32) for name, value in NUMBERS.items()}, {}),
    ("Pow", {"a": A.astype(np.float32), "b": np.float32(2.0)}, {}),
    *((name, {**NUMBERS, "c": np.array([3, 3, 3])}, {}) for name in ("Min", "Max")),
    ("Max", {"a": A}, {}),
    ("Pow", {"a": A, "b": np.float32(2.0)}, {}),
    *((name, FLAGS, {}) for name in ("And", "Or")),
    ("Not", {"a": A > 0}, {}),
    ("Where", {"c": A > 0, **NUMBERS}, {}),
    *((name, {"a": A / 3}, {}) for name in ("Floor", "Ceil", "Neg", "Abs", "Identity")),
    ("Sqrt", {"a": np.float32(48.0)}, {}),
    ("Cast", {"a": A / 3}, {"to": INT64}),
    ("Cast", {"a": A}, {"to": F}),
    ("ConstantOfShape", {"a": ints(2, 3)}, {}),
    ("ConstantOfShape", {"a": ints(2, 3)}, {"value": onnx.numpy_helper.from_array(ints(-1))}),
    ("Range", {"a": np.array(3), "b": np.array(11), "c": np.array(3)}, {}),
    ("Range", {"a": np.float32(3.0), "b": np.float32(-1.0), "c": np.float32(-0.5)}, {}),
    ("Gather", {"a": A, "i": ints(-1)}, {}),
    ("Gather", {"a": A, "i": ONE}, {"axis": 0}),
    ("Concat", NUMBERS, {"axis": 0}),
    ("Concat", {"a": A.reshape(1, 3), "b": B.reshape(1, 3)}, {"axis": -1}),
    ("Slice", {"a": A, "s": ints(1), "e": ints(9), "x": ints(0)}, {}),
    ("Squeeze", {"a": ints(7), "x": ints(0)}, {}),
    ("Unsqueeze", {"a": np.array(7), "x": ints(0)}, {}),
    ("Reshape", {"a": A, "s": ints(3, -1)}, {}),
    ("Transpose", {"a": A.reshape(1, 3)}, {}),
    ("Expand", {"a": A.reshape(3, 1), "s": ints(2, 1, 4)}, {}),
]


@pytest.mark.parametrize("given", CASES, ids=[f"{number}-{item[0]}" for number, item in enumerate(CASES)])
def test_values_are_those_of_onnxruntime(given: Any) -> None:
    op_type, known, attributes = given
    known = {name: np.asarray(value) for name, value in known.items()}
    operator = onnx.helper.make_node(op_type, list(known), ["y"], **attributes)
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in known.items()}
    model = models.make(
        [operator],
        {name: (kinds[name], value.shape) for name, value in known.items()},
        {"y": (onnx.TensorProto.UNDEFINED, None)},
        opset=18,
    )
    (node,), _ = digital_operators(model.SerializeToString(), "test")
    before = {name: value.copy() for name, value in known.items()}
    found, want = value_of(node, [value.shape for value in known.values()], known), stages.reference(model, known)["y"]
    assert found is not None
    assert all(np.array_equal(value, before[name]) for name, value in known.items())
    assert (found.shape, found.dtype) == (want.shape, want.dtype)
    assert np.array_equal(found, want)


def node_of(op_type: str, names: str, **attributes: Any) -> Any:
    graph = onnx.GraphProto(node=[onnx.helper.make_node(op_type, names.split(), ["y"], **attributes)])
    (node,), _ = digital_operators(onnx.ModelProto(graph=graph).SerializeToString(), "test")
    return node


def test_shapes_are_values_where_they_are_known() -> None:
    assert value_of(node_of("Shape", "x"), [(1, 5, 7)], {}).tolist() == [1, 5, 7]  # type: ignore[union-attr]
    assert value_of(node_of("Shape", "x", start=-2), [(1, 5, 7)], {}).tolist() == [5, 7]  # type: ignore[union-attr]
    assert value_of(node_of("Size", "x"), [(1, 5, 7)], {}) == 35
    assert value_of(node_of("Shape", "x"), [None], {}) is None


FAR = MOST_ELEMENTS + 1
UNKNOWN: list[tuple[str, str, dict[str, NDArray[Any]], dict[str, Any]]] = [
    ("Add", "a x", NUMBERS, {}),
    ("Div", "a b", {"a": A, "b": A * 0}, {}),
    ("Reshape", "a b", {"a": A, "b": ints(2, 2)}, {}),
    ("Gather", "a b", {"a": A, "b": ints(5)}, {}),
    ("Det", "a", NUMBERS, {}),
    ("Add", "a b", {"a": np.zeros((200, 1), np.int64), "b": np.zeros((1, 200), np.int64)}, {}),
    ("ConstantOfShape", "a", {"a": ints(FAR)}, {}),
    ("Expand", "a b", {"a": ints(1), "b": ints(FAR)}, {}),
    ("Range", "a b c", {"a": np.array(0), "b": np.array(FAR), "c": ONE}, {}),
    ("Range", "a b c", {"a": np.array(0), "b": np.array(FAR), "c": np.array(0)}, {}),
    ("Neg", "a", {"a": np.zeros(FAR, np.int64)}, {}),
    ("Gather", "a b", {"a": np.zeros((1, 200)), "b": np.zeros(200, np.int64)}, {}),
]


@pytest.mark.parametrize("given", UNKNOWN, ids=[f"{number}-{item[0]}" for number, item in enumerate(UNKNOWN)])
def test_what_is_wrong_large_or_data_is_not_followed(given: Any) -> None:
    op_type, names, known, attributes = given
    shapes = [known[name].shape if name in known else (3,) for name in names.split()]
    assert value_of(node_of(op_type, names, **attributes), shapes, known) is None
