"""Products inside the bodies of If, Loop and Scan, with the shapes of what they multiply."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from memcompile.frontend.importer import ModelFile, operators_of, with_constant_control_flow
from memcompile.frontend.model_runs import guarded
from memcompile.frontend.observed_values import PRODUCTS
from memcompile.frontend.validation import is_elsewhere, subgraphs
from memcompile.ir.graph import OnnxNode

UNLIMITED = 1 << 31
"""Number of runs from which on a loop ends by its condition alone."""

Shape = tuple[int, ...]
Sizes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Body:
    """One body of an operator.

    Attributes
    ----------
    owner, kind, part
        Name and kind of the operator, and the attribute that holds the body.
    times
        Runs of the body in one run of its owner; 1 where their number depends on the inputs.
    products
        Its operators that multiply, each with the shapes of its operands; no shapes where they are not known.
    inner
        Bodies of its operators.
    """

    owner: str
    kind: str
    part: str
    times: int
    products: tuple[tuple[OnnxNode, tuple[Shape, ...]], ...]
    inner: tuple[Body, ...]


def find_bodies(file: ModelFile, sample: Mapping[str, NDArray[Any]]) -> tuple[Body, ...]:
    """Bodies that hold products, in the order of the operators of the main graph.

    Shapes are those that onnx infers for inputs like the sample. They serve to count operations and nothing else.

    Raises
    ------
    ModelError
        A limit is broken.
    """
    file = with_constant_control_flow(file, sample)
    if not any(_has_products(graph) for node in file.model.graph.node for graph in _graphs(node)):
        return ()
    inputs = {name: list(np.shape(value)) for name, value in sample.items()}
    arguments = (file.model, inputs)
    shapes = guarded(_inferred, arguments, file.limits, file.name, "inferring shapes")
    return _bodies(file.model.graph, "", [], shapes)


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for item in node.attribute for graph in subgraphs(item)]


def _has_products(graph: onnx.GraphProto) -> bool:
    return any(node.op_type in PRODUCTS or any(map(_has_products, _graphs(node))) for node in graph.node)


def _inferred(model: onnx.ModelProto, inputs: Sizes) -> dict[str, dict[str, list[int]]]:
    """Static shapes of values, by place of their graph; only those already known where onnx cannot infer more."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, inputs.get(value.name, ()), strict=False):
            dim.dim_value = size
    with contextlib.suppress(Exception):  # onnx raises its own and protobuf's kinds; what the model says is left
        fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    return dict(_known(fixed.graph, "", {}))


def _known(graph: onnx.GraphProto, place: str, outer: Sizes) -> Iterator[tuple[str, dict[str, list[int]]]]:
    shapes = dict(outer)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
            if min(sizes, default=0) >= 0:
                shapes[value.name] = sizes
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    yield place, {name: list(sizes) for name, sizes in shapes.items()}
    for number, node in enumerate(graph.node):
        for part, inner in enumerate(_graphs(node)):
            yield from _known(inner, f"{place}/{number}.{part}", shapes)


def _bodies(
    graph: onnx.GraphProto, place: str, constants: Sequence[onnx.TensorProto], shapes: Mapping[str, Sizes]
) -> tuple[Body, ...]:
    constants = [*constants, *graph.initializer]
    names = [operator.name for operator in operators_of(graph)]
    found = []
    for number, node in enumerate(graph.node):
        parts = [item.name for item in node.attribute for _ in subgraphs(item)]
        for part, inner in enumerate(_graphs(node)):
            if not _has_products(inner):
                continue
            here = f"{place}/{number}.{part}"
            products = tuple(
                (operator, _operands(operator, shapes[here]))
                for operator in operators_of(inner)
                if operator.op_type in PRODUCTS
            )
            times = _times(node, constants, shapes[place])
            below = _bodies(inner, here, constants, shapes)
            found.append(Body(names[number], node.op_type, parts[part], times, products, below))
    return tuple(found)


def _operands(operator: OnnxNode, shapes: Sizes) -> tuple[Shape, ...]:
    """Shapes of both operands; data of unknown shape count as one vector for a matrix."""
    names = [operator.inputs[place] for place in PRODUCTS[operator.op_type] if place < len(operator.inputs)]
    known = [shapes.get(name) for name in names]
    if len(known) == 2 and known[0] is None and known[1] is not None and len(known[1]) == 2:
        rows = known[1][1 if operator.attributes.get("transB", 0) else 0]
        known[0] = [rows, 1] if operator.attributes.get("transA", 0) else [1, rows]
    return tuple(tuple(sizes) for sizes in known if sizes is not None) if None not in known else ()


def _times(node: onnx.NodeProto, constants: Sequence[onnx.TensorProto], shapes: Sizes) -> int:
    """Iterations of a body where their number is static, else 1."""
    if node.op_type == "Loop":
        count = next(
            (tensor for tensor in constants if tensor.name == node.input[0] and not is_elsewhere(tensor)), None
        )
        times = max(int(onnx.numpy_helper.to_array(count).reshape(-1)[0]), 1) if count is not None else 1
        return times if times < UNLIMITED else 1
    if node.op_type == "Scan":
        attributes = {item.name: item for item in node.attribute}
        scanned = attributes["num_scan_inputs"].i if "num_scan_inputs" in attributes else 0
        axis = next(iter(attributes["scan_input_axes"].ints), 0) if "scan_input_axes" in attributes else 0
        sizes = shapes.get(node.input[len(node.input) - scanned]) if scanned else None
        return max(sizes[axis], 1) if sizes and -len(sizes) <= axis < len(sizes) else 1
    return 1
