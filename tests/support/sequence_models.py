"""Small networks whose values are sequences, maps and optionals, before, between and behind crossbar layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import models
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(TENSOR)
OPTIONAL = helper.make_optional_type_proto(TENSOR)
NAMES = ["eel", "cat", "dog"]
"""Classes, not in alphabetical order."""

Outputs = dict[str, onnx.TypeProto | tuple[int, Sequence[int | str]]]


def build(nodes: Sequence[onnx.NodeProto], outputs: Outputs, batch: int | str = "N", **weights: Any) -> onnx.ModelProto:
    """A model with input ``x`` [batch, 10] and weights ``w`` [10, 6], ``v`` [6, 3] where they are read."""
    rng = np.random.default_rng(3)
    known = {"w": models.dyadic(rng, (6, 10)).T, "v": models.dyadic(rng, (3, 6)).T, **weights}
    read = {value for node in nodes for value in node.input} | {"c", "w"}
    graph = helper.make_graph(
        list(nodes),
        "sequences",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 10))],
        [
            helper.make_tensor_value_info(name, *kind)
            if isinstance(kind, tuple)
            else helper.make_value_info(name, kind)
            for name, kind in outputs.items()
        ],
        [numpy_helper.from_array(np.array(value, order="C"), key) for key, value in known.items() if key in read],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def first_layer(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A dense layer that makes ``c`` [N, 6], and what follows."""
    return [models.node("MatMul", "x w", "c"), *nodes]


def split(axis: int, sizes: Sequence[int] | int | None = None, keepdims: int = 1) -> onnx.ModelProto:
    """The layer's output as a sequence."""
    more = {} if sizes is None else {"sizes": np.array(sizes, np.int64)}
    inputs = "c" if sizes is None else "c sizes"
    node = models.node("SplitToSequence", inputs, "s", axis=axis, keepdims=keepdims)
    return build(first_layer(node), {"s": SEQUENCE}, **more)


def fixed_batch() -> onnx.ModelProto:
    """Even parts of a fixed batch of 3 images."""
    node = models.node("SplitToSequence", "c sizes", "s", axis=1)
    return build(first_layer(node), {"s": SEQUENCE}, batch=3, sizes=np.array([2, 2, 2]))


def across() -> onnx.ModelProto:
    """A sequence that passes a crossbar layer, which reads one of its elements."""
    nodes = first_layer(
        models.node("SplitToSequence", "c sizes", "s", axis=1),
        models.node("SequenceAt", "s one", "e"),
        models.node("Gemm", "e u", "g"),
        models.node("SequenceInsert", "s g zero", "s2"),
        models.node("SequenceErase", "s2 one", "s3"),
        models.node("ConcatFromSequence", "s3", "k", axis=1),
        models.node("MatMul", "k t", "y"),
        models.node("SequenceLength", "s3", "length"),
    )
    rng = np.random.default_rng(4)
    weights = {
        "sizes": np.array([2, 4]),
        "one": np.int64(1),
        "zero": np.int64(0),
        "u": models.dyadic(rng, (4, 5)),
        "t": models.dyadic(rng, (9, 3)),
    }
    outputs: Outputs = {"y": (TensorProto.FLOAT, ("N", 3)), "length": (TensorProto.INT64, ())}
    return build(nodes, outputs, **weights)


def optional_across() -> onnx.ModelProto:
    """An optional that passes a crossbar layer, one that holds nothing, and one of a sequence."""
    nodes = first_layer(
        models.node("Optional", "c", "o"),
        models.node("OptionalHasElement", "o", "there"),
        models.node("MatMul", "c v", "d"),
        models.node("OptionalGetElement", "o", "e"),
        models.node("Concat", "e d", "y", axis=1),
        helper.make_node("Optional", [], ["nothing"], type=TENSOR),
        models.node("SequenceConstruct", "c d", "s"),
        models.node("Optional", "s", "of_sequence"),
    )
    outputs: Outputs = {
        "y": (TensorProto.FLOAT, ("N", 9)),
        "o": OPTIONAL,
        "there": (TensorProto.BOOL, ()),
        "nothing": OPTIONAL,
        "of_sequence": helper.make_optional_type_proto(SEQUENCE),
    }
    return build(nodes, outputs)


def mapped() -> onnx.ModelProto:
    """SequenceMap, which onnxruntime writes out, on a sequence that passes a crossbar layer."""
    body = helper.make_graph(
        [models.node("Relu", "element", "positive")],
        "body",
        [helper.make_tensor_value_info("element", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("positive", TensorProto.FLOAT, None)],
    )
    nodes = first_layer(
        models.node("SplitToSequence", "c sizes", "s", axis=1),
        models.node("MatMul", "c v", "d"),
        models.node("SequenceMap", "s", "s2", body=body),
        models.node("ConcatFromSequence", "s2", "k", axis=1),
        models.node("Concat", "k d", "y", axis=1),
    )
    return build(nodes, {"y": (TensorProto.FLOAT, ("N", 9)), "s2": SEQUENCE}, sizes=np.array([1, 3, 2]))


def looped() -> onnx.ModelProto:
    """A Loop that collects a sequence, which passes a crossbar layer; and an empty sequence."""
    body = helper.make_graph(
        [
            models.node("SequenceInsert", "collected c", "longer"),
            models.node("Identity", "go", "go_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_value_info("collected", SEQUENCE),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()), helper.make_value_info("longer", SEQUENCE)],
    )
    nodes = first_layer(
        helper.make_node("SequenceEmpty", [], ["empty"]),
        models.node("Loop", "turns yes empty", "s", body=body),
        models.node("MatMul", "c v", "d"),
        models.node("SequenceAt", "s one", "e"),
        models.node("Concat", "e d", "y", axis=1),
    )
    weights = {"turns": np.int64(3), "yes": np.array(True), "one": np.int64(1)}
    return build(nodes, {"y": (TensorProto.FLOAT, ("N", 9)), "s": SEQUENCE, "empty": SEQUENCE}, **weights)


def zipmap(by_name: bool = False, classes: Sequence[int] = (0, 1, 2)) -> onnx.ModelProto:
    """A classifier as scikit-learn's exporter ends it: the label, and a map of probabilities for each sample."""
    keys: dict[str, Any] = {"classlabels_strings": NAMES} if by_name else {"classlabels_int64s": list(classes)}
    table = np.array(NAMES, object) if by_name else np.array(classes, np.int64)
    nodes = first_layer(
        models.node("Relu", "c", "r"),
        models.node("MatMul", "r v", "logits"),
        models.node("Softmax", "logits", "p"),
        models.node("ArgMax", "p", "place", axis=1, keepdims=0),
        models.node("Gather", "classes place", "label"),
        helper.make_node("ZipMap", ["p"], ["probability"], name="zipmap", domain="ai.onnx.ml", **keys),
    )
    key = TensorProto.STRING if by_name else TensorProto.INT64
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, TENSOR))
    return build(nodes, {"label": (key, ("N",)), "probability": maps}, classes=table)


def static_sequence() -> onnx.ModelProto:
    """A weight that is an element of a sequence of constants."""
    nodes = [
        models.node("SplitToSequence", "all_weights", "parts", axis=1),
        models.node("SequenceAt", "parts two", "weight"),
        models.node("MatMul", "x weight", "y"),
    ]
    weights = {"all_weights": models.dyadic(np.random.default_rng(5), (10, 4)), "two": np.int64(2)}
    return build(nodes, {"y": (TensorProto.FLOAT, ("N", 1))}, **weights)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "an element for each image": lambda: split(0, 1),
    "an element for each image, its axis dropped": lambda: split(0, keepdims=0),
    "even parts": lambda: split(1, [2, 2, 2]),
    "uneven parts": lambda: split(1, [1, 3, 2]),
    "a part for each channel": lambda: split(1, keepdims=0),
    "even parts of a fixed batch": fixed_batch,
    "across": across,
    "optional": optional_across,
    "SequenceMap": mapped,
    "Loop": looped,
    "ZipMap": zipmap,
    "ZipMap of names": lambda: zipmap(by_name=True),
}
