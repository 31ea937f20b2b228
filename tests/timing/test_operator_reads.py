"""Elements that operators read, checked with onnxruntime: elements that a rule leaves out may change without effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from numpy.typing import NDArray

from memcompile.frontend.importer import digital_operators
from memcompile.timing.operator_reads import REDUCTIONS, RULES, Span, operator_reads

F, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
IMAGE = (1, 3, 7, 6)
CHANNELS = {name: np.full(3, 0.5, np.float32) for name in ("gamma", "beta", "mean", "variance")}
Weights = Mapping[str, NDArray[Any]]

UNARY = (
    "Abs", "Ceil", "Celu", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
    "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh",
    "ThresholdedRelu", "Mish", "Clip", "Dropout", "Sin", "Cos",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Pow", "PRelu")


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def case(
    op_type: str,
    shapes: Sequence[tuple[int, ...]] = (IMAGE,),
    weights: Weights | None = None,
    outputs: int = 1,
    opset: int = 18,
    more: str = "",
    **attributes: Any,
) -> tuple[str, Sequence[tuple[int, ...]], Weights, int, int, str, dict[str, Any]]:
    return op_type, shapes, weights or {}, outputs, opset, more, attributes


POOLS = [
    {"kernel_shape": [3, 3], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [3, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "pads": [1, 1, 0, 2], "strides": [1, 2]},
    {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [3, 3], "ceil_mode": 1},
]
CASES = [
    *(case(name) for name in UNARY),
    case("Gelu", opset=20),
    *(case(f"com.microsoft::{name}") for name in ("Gelu", "FastGelu", "QuickGelu")),
    case("com.microsoft::BiasGelu", ((1, 5, 4),), {"b": np.ones(4, np.float32)}, more="b"),
    *(case(name, (IMAGE, IMAGE)) for name in BINARY),
    *(case(name, (IMAGE, (3, 1, 1))) for name in BINARY),
    case("Add", ((1, 3, 1, 6), (2, 1, 7, 1))),
    case("Mul", weights={"w0": np.ones((4, 1, 1, 1, 1), np.float32)}, more="w0"),
    case("BatchNormalization", weights=CHANNELS, more="gamma beta mean variance"),
    case("QuantizeLinear", weights={"s": np.float32(0.1), "z": np.uint8(9)}, more="s z"),
    *(case(name, **pool) for pool in POOLS for name in ("MaxPool", "AveragePool")),
    case("MaxPool", kernel_shape=[2, 2], dilations=[3, 2]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("MaxPool", ((1, 2, 9),), kernel_shape=[4], strides=[2]),
    case("LRN", ((1, 7, 2, 3),), size=5),
    *(case(name, axis=-1) for name in ("Softmax", "LogSoftmax", "Hardmax")),
    case("Softmax", axis=2, opset=12),
    case("Softmax", axis=2),
    case("Softmax", ((5, 4, 3),), opset=12),
    case("Softmax", ((5, 4, 3),)),
    case("LayerNormalization", ((2, 5, 4),), {"g": np.ones(4, np.float32)}, more="g"),
    case("LayerNormalization", ((3, 5, 4),), {"g": np.ones((5, 4), np.float32)}, more="g", axis=1),
    case("LayerNormalization", ((3, 5, 4),), {"g": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, 3, more="g b"),
    case("RMSNormalization", ((2, 5, 4),), {"g": np.ones(4, np.float32)}, opset=23, more="g"),
    case("InstanceNormalization", weights={"g": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, more="g b"),
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    *(case(name, axes=[2, -1], opset=11) for name in sorted(REDUCTIONS)),
    case("ReduceMean", weights={"a": ints(-1)}, more="a"),
    case("ReduceSum", weights={"a": ints(1, 2)}, more="a", keepdims=0),
    case("ReduceMax", noop_with_empty_axes=1),
    *(case(name, axis=2, keepdims=keep) for name in ("ArgMax", "ArgMin") for keep in (0, 1)),
    case("MatMul", ((2, 1, 4, 5), (3, 5, 6))),
    case("MatMul", ((4, 5), (5,))),
    case("MatMul", ((3, 4, 5), (5,))),
    case("MatMul", ((5,), (3, 5, 6))),
    case("MatMul", ((4, 5),), {"w0": np.ones((5, 3), np.float32)}, more="w0"),
    case("Gemm", ((4, 5), (5, 3), (3,))),
    case("Gemm", ((5, 4), (3, 5)), transA=1, transB=1),
    case("Gemm", ((4, 5),), {"w0": np.ones((3, 5), np.float32), "w1": np.ones(3, np.float32)}, more="w0 w1", transB=1),
    case("Transpose", perm=[2, 0, 3, 1]),
    case("Transpose"),
    case("Reshape", weights={"t": ints(0, -1, 2)}, more="t"),
    case("Flatten", axis=2),
    case("Flatten", axis=-1),
    case("Squeeze", ((1, 3, 1, 4),)),
    case("Squeeze", ((1, 3, 1, 4),), {"a": ints(-2)}, more="a"),
    case("Squeeze", ((1, 3, 1, 4),), opset=11, axes=[0]),
    case("Unsqueeze", weights={"a": ints(1, -1)}, more="a"),
    case("Concat", (IMAGE, (1, 2, 7, 6), IMAGE), axis=1),
    case("Concat", (IMAGE,), {"w0": np.ones((1, 3, 2, 6), np.float32)}, more="w0", axis=-2),
    case("Split", outputs=2, opset=13, axis=3),
    case("Split", outputs=3, axis=2, num_outputs=3),
    case("Split", weights={"n": ints(1, 5, 1)}, more="n", outputs=3, axis=-2),
    case("Split", outputs=2, opset=11, axis=2, split=[3, 4]),
    case("Slice", weights={"b": ints(1, -5), "e": ints(99, -1), "a": ints(-1, 2), "t": ints(2, 1)}, more="b e a t"),
    case("Slice", weights={"b": ints(-1), "e": ints(-99), "a": ints(2), "t": ints(-2)}, more="b e a t"),
    case("Slice", opset=9, starts=[0, 1], ends=[2, -1], axes=[1, 3]),
    case("Pad", weights={"p": ints(0, 1, 2, 0, 0, 0, -1, 3)}, more="p"),
    case("Pad", weights={"p": ints(0, 0, 2, 1, 0, 0, 1, 3)}, more="p", mode="reflect"),
    case("Pad", weights={"p": ints(0, 0, 2, 1, 0, 0, 1, 3)}, more="p", mode="edge"),
    case("Pad", opset=9, pads=[0, 0, 1, 1, 0, 0, 0, 2]),
    case("Gather", weights={"i": ints(2, 0, 2)}, more="i", axis=3),
    case("Gather", weights={"i": np.array([[1, -1]])}, more="i", axis=1),
    case("Expand", ((3, 1, 4),), {"s": ints(2, 1, 5, 1)}, more="s"),
    case("DepthToSpace", ((1, 8, 2, 3),), blocksize=2),
    case("DepthToSpace", ((1, 8, 2, 3),), blocksize=2, mode="CRD"),
    case("Resize", weights={"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 3], np.float32)}, more="r s"),
    case(
        "Resize",
        weights={"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 4], np.float32)},
        more="r s",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    case("Resize", opset=10, weights={"s": np.array([1, 1, 3, 2], np.float32)}, more="s"),
    case("Upsample", opset=9, weights={"s": np.array([1, 1, 3, 2], np.float32)}, more="s"),
]  # fmt: skip


def read_ages(ages: NDArray[np.int64], reads: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The greatest age among the elements of an input that each output element reads of it."""
    if reads is None:
        return ages
    if isinstance(reads, Span):
        return np.broadcast_to(ages.max(axis=reads.axes, keepdims=True).reshape(reads.shape), shape)
    return np.where(reads >= 0, ages.ravel()[np.maximum(reads, 0)], -1)


@pytest.mark.parametrize("given", CASES, ids=[f"{number}-{item[0]}" for number, item in enumerate(CASES)])
def test_what_a_rule_leaves_out_has_no_effect(given: Any) -> None:
    op_type, shapes, weights, outputs, opset, more, attributes = given
    names = [f"x{number}" for number in range(len(shapes))]
    results = [f"y{number}" for number in range(outputs)]
    domain, _, bare = op_type.rpartition("::")
    kind = {"QuantizeLinear": onnx.TensorProto.UINT8, "ArgMax": INT64, "ArgMin": INT64}.get(op_type, F)
    operator = onnx.helper.make_node(bare, [*names, *more.split()], results, domain=domain, **attributes)
    model = models.make(
        [operator],
        {name: (F, shape) for name, shape in zip(names, shapes, strict=True)},
        dict.fromkeys(results, (kind, shapes[0] if domain else None)),
        weights,
        opset,
        [(domain, 1)] if domain else [],
    )
    (node,), constants = digital_operators(model.SerializeToString(), "test")
    known = [*shapes, *(constants[name].shape for name in more.split())]
    found = operator_reads(node, known, constants)
    assert set(range(outputs)) <= set(found)

    rng = np.random.default_rng(3)
    feeds = {name: rng.uniform(0.1, 2, shape).astype(np.float32) for name, shape in zip(names, shapes, strict=True)}
    want = stages.reference(model, feeds)
    age = {name: rng.permutation(value.size).reshape(value.shape) for name, value in feeds.items()}
    local = False
    usual = [dict.fromkeys(names, limit) for limit in (2, 5, 12, 40, 90, 120)]
    sizes = {name: value.size for name, value in feeds.items()}
    # A row as a whole is rarely left alone by chance, so a single element of one input changes as well.
    for limits in (*usual, *({**sizes, name: sizes[name] - 1} for name in names)):
        changed = {name: np.where(age[name] >= limits[name], value + 17, value) for name, value in feeds.items()}
        got = stages.reference(model, changed)
        for number, name in enumerate(results):
            kept = np.ones(found[number].shape, bool)
            assert found[number].shape == want[name].shape
            for operand, reads in found[number].operands:
                kept &= read_ages(age[names[operand]], reads, kept.shape) < limits[names[operand]]
            assert np.array_equal(got[name][kept], want[name][kept])
            local |= bool(kept.any() and not kept.all())
    # A rule that claimed that everything is needed would pass above.
    assert local


def test_every_rule_is_tested_but_those_of_booleans() -> None:
    booleans = {"And", "Or", "Not", "Xor", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    assert set(RULES) - {item[0] for item in CASES} == booleans | {"Cast", "DequantizeLinear", "DynamicQuantizeLinear"}


def test_a_range_over_all_elements_keeps_their_shape() -> None:
    names = ("y", "s", "z")
    operator = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], names)
    kinds = {"y": (onnx.TensorProto.UINT8, None), "s": (F, None), "z": (onnx.TensorProto.UINT8, None)}
    model = models.make([operator], {"x": (F, IMAGE)}, kinds)
    (node,), constants = digital_operators(model.SerializeToString(), "test")
    found = operator_reads(node, [IMAGE], constants)
    want = stages.reference(model, {"x": np.ones(IMAGE, np.float32)})
    assert [found[number].shape for number in range(3)] == [want[name].shape for name in names]
    assert all(reads.operands[0][1].axes == (0, 1, 2, 3) for reads in found.values())


def test_rows_of_a_table_depend_on_their_places_alone() -> None:
    operator = onnx.helper.make_node("Gather", ["table", "x"], ["y"], axis=1)
    model = models.make([operator], {"x": (INT64, (2, 3))}, {"y": (F, None)}, {"table": np.ones((4, 9, 5), np.float32)})
    (node,), constants = digital_operators(model.SerializeToString(), "test")
    (found,) = operator_reads(node, [(4, 9, 5), (2, 3)], constants).values()
    ((number, places),) = found.operands
    assert (number, found.shape) == (1, (4, 2, 3, 5))
    assert np.array_equal(places, np.broadcast_to(np.arange(6).reshape(1, 2, 3, 1), found.shape))


@pytest.mark.parametrize("name", ["Einsum", "LpNormalization", "MeanVarianceNormalization"])
def test_an_operator_without_a_rule_depends_on_everything(name: str) -> None:
    attributes = {"equation": "abcd->ba"} if name == "Einsum" else {}
    operator = onnx.helper.make_node(name, ["x"], ["y"], **attributes)
    model = models.make([operator], {"x": (F, IMAGE)}, {"y": (F, None)})
    (node,), constants = digital_operators(model.SerializeToString(), "test")
    assert operator_reads(node, [IMAGE], constants) == {}


def test_what_is_not_known_at_compile_time_depends_on_everything() -> None:
    model = models.make(
        [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (F, IMAGE), "shape": (onnx.TensorProto.INT64, (2,))},
        {"y": (F, (None, None))},
    )
    (node,), constants = digital_operators(model.SerializeToString(), "test")
    assert operator_reads(node, [IMAGE, (2,)], constants) == {}
    assert operator_reads(node, [None, (2,)], constants) == {}
