"""Values that follow from shapes alone, such as the target of a Reshape that an exporter has the network compute.

They are known for one image although the size of a batch is open, and so are the shapes behind them. Only what
exporters write for shapes is followed, in small arrays; everything else is None and stays unknown.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import OnnxNode
from memcompile.timing.operator_reads import Constants, Shape, Span, operator_reads

MOST_ELEMENTS = 1 << 14
"""Elements of a value that is followed; a shape has a few, the positions of an image some thousands."""

Value = NDArray[Any]


def _power(a: Value, b: Value) -> Value:
    """The base decides on the type, as in ONNX."""
    return np.asarray(np.power(a, b)).astype(a.dtype)


def _divided(a: Value, b: Value) -> Value:
    """Integers round towards zero, as in ONNX."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.divide(a, b)
    if not b.all():
        raise ValueError("division by zero")
    return np.trunc(np.divide(a, b)).astype(a.dtype)


ARITHMETIC: Mapping[str, Callable[..., Value]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divided,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Where": np.where,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Identity": np.array,
    "Min": lambda *values: reduce(np.minimum, values),
    "Max": lambda *values: reduce(np.maximum, values),
    "Pow": _power,
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Abs": np.abs,
}
"""Operators on numbers, element by element."""
CAST_TO = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
"""Types by their number in ONNX (``TensorProto.DataType``)."""
MOVING = {"Concat", "Expand", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move elements: of the first input, and of Concat of all."""


def value_of(node: OnnxNode, shapes: Sequence[Shape | None], known: Constants) -> Value | None:
    """Value of an operator's only output, for one image; None where it is not followed.

    Parameters
    ----------
    shapes
        Shape of each input; None where it is not known.
    known
        Values that are known, by name.
    """
    if node.domain or node.captures or len(node.outputs) != 1 or not node.inputs:
        return None
    if node.op_type in ("Shape", "Size"):
        return _of_shape(node, shapes[0])
    names = [name for name in node.inputs if name]
    if any(name not in known or known[name].size > MOST_ELEMENTS for name in names):
        return None
    try:
        with np.errstate(all="ignore"):
            return _computed(node, [known[name] for name in names])
    except (IndexError, TypeError, ValueError, OverflowError):  # the file is wrong, or it is no arithmetic of shapes
        return None


def _of_shape(node: OnnxNode, shape: Shape | None) -> Value | None:
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    return np.array(shape[slice(node.attributes.get("start", 0), node.attributes.get("end"))], np.int64)


def _computed(node: OnnxNode, values: Sequence[Value]) -> Value | None:
    if node.op_type in ARITHMETIC:
        if math.prod(np.broadcast_shapes(*(value.shape for value in values))) > MOST_ELEMENTS:
            return None
        return np.asarray(ARITHMETIC[node.op_type](*values))
    if node.op_type == "Cast":
        kind = CAST_TO.get(node.attributes["to"])
        return None if kind is None else values[0].astype(kind)
    if node.op_type == "Range":
        return _counted(*values)
    if node.op_type == "ConstantOfShape":
        return _filled(node, tuple(values[0].tolist()))
    if node.op_type in MOVING:
        return _moved(node, values)
    return None


def _filled(node: OnnxNode, shape: Shape) -> Value | None:
    if math.prod(shape) > MOST_ELEMENTS:
        return None
    fill = np.ravel(node.attributes.get("value", np.zeros(1, np.float32)))
    return np.full(shape, fill[0])


def _counted(start: Any, limit: Any, step: Any) -> Value | None:
    if not step or (limit - start) / step > MOST_ELEMENTS:
        return None
    return np.arange(start, limit, step, dtype=start.dtype)


def _moved(node: OnnxNode, values: Sequence[Value]) -> Value | None:
    """Elements at the places that the operator's rule says it reads."""
    if node.op_type == "Expand" and math.prod(values[1].tolist()) > MOST_ELEMENTS:
        return None
    controls = {} if node.op_type == "Concat" else dict(zip(node.inputs[1:], values[1:], strict=True))
    found = operator_reads(node, [value.shape for value in values], MappingProxyType(controls))
    if 0 not in found or math.prod(found[0].shape) > MOST_ELEMENTS:
        return None
    result = np.zeros(found[0].shape, values[0].dtype)
    for number, places in found[0].operands:
        if places is None or isinstance(places, Span):
            return None
        read = places >= 0
        result[read] = values[number].reshape(-1)[places[read]]
    return result
