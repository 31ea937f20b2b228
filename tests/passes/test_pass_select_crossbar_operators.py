"""Selection of operators for crossbar layers, whose results equal onnxruntime's."""

from __future__ import annotations

import inspect
import re
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import dyadic, float_model, make, node
from onnx import TensorProto

from memcompile.errors import ModelError
from memcompile.ir.graph import Graph, LinearLayer, OnnxNode
from memcompile.passes import select_crossbar_operators
from memcompile.passes.lowering import lower_convolutions, lower_products, lowering
from memcompile.passes.select_crossbar_operators import OPERATORS, reason_to_stay_digital

RNG = np.random.default_rng(31)
IMAGES = {"x": models.images((2, 4, 6, 6))}
VECTORS = {"x": models.images((4, 6))}
KERNELS = dyadic(RNG, (3, 4, 3, 3))
MATRIX = dyadic(RNG, (6, 4))


def select(model: onnx.ModelProto, feeds: stages.Feeds, relative: float = 1e-5) -> Graph:
    """The graph after the pass, checked against onnxruntime."""
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, model, feeds, relative)
    return graph


def only_layer(model: onnx.ModelProto, feeds: stages.Feeds, relative: float = 1e-5) -> LinearLayer:
    """The layer of a model with one operator."""
    (layer,) = select(model, feeds, relative).nodes
    assert isinstance(layer, LinearLayer)
    return layer


def conv(weights: Any = KERNELS, shape: tuple[Any, ...] = ("N", 4, 6, 6), **attributes: Any) -> onnx.ModelProto:
    """One Conv ``x`` to ``y``."""
    return float_model([node("Conv", "x w", "y", **attributes)], shape, {"w": weights})


# --- convolutions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1]},
        {"strides": [2, 1]},
        {"strides": [3, 2], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 1]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2], "strides": [2, 2]},
        {"auto_pad": "NOTSET", "pads": [0, 1, 0, 1]},
        {"auto_pad": "VALID", "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [4, 4]},
        {"kernel_shape": [3, 3]},
    ],
    ids=str,
)
def test_two_dimensional_convolution(attributes: dict[str, Any]) -> None:
    layer = only_layer(conv(**attributes), IMAGES)
    assert layer.geometry.kernel == (3, 3)


def test_same_padding_puts_the_odd_pixel_where_the_attribute_says() -> None:
    kernels = dyadic(RNG, (3, 4, 2, 2))
    upper = only_layer(conv(kernels, auto_pad="SAME_UPPER"), IMAGES).geometry
    lower = only_layer(conv(kernels, auto_pad="SAME_LOWER"), IMAGES).geometry
    assert (upper.pads_begin, upper.pads_end) == ((0, 0), (1, 1))
    assert (lower.pads_begin, lower.pads_end) == ((1, 1), (0, 0))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_grouped_convolution(groups: int, multiplier: int) -> None:
    kernels = dyadic(RNG, (4 * multiplier, 4 // groups, 2, 3))
    layer = only_layer(conv(kernels, group=groups, pads=[0, 1, 1, 1]), IMAGES)
    assert layer.geometry.groups == groups


@pytest.mark.parametrize("rank", [1, 3])
def test_convolution_over_other_numbers_of_axes(rank: int) -> None:
    size = (5, 4, 6)[:rank]
    feeds = {"x": models.images((2, 2, *size))}
    model = conv(
        dyadic(RNG, (3, 2, *(2, 3, 2)[:rank])),
        ("N", 2, *size),
        pads=[*(1, 0, 2)[:rank], *(0, 1, 1)[:rank]],
        strides=[*(2, 1, 2)[:rank]],
    )
    assert only_layer(model, feeds).geometry.rank == rank


def test_convolution_bias() -> None:
    model = float_model([node("Conv", "x w b", "y")], ("N", 4, 6, 6), {"w": KERNELS, "b": dyadic(RNG, (3,))})
    assert only_layer(model, IMAGES).bias.any()


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, stages.Feeds]:
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))

    def axes(low: int, high: int, count: int = rank) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(count)]

    kernel, strides, dilations, size = axes(1, 3), axes(1, 3), axes(1, 2), axes(3, 7)
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    auto = draw(st.sampled_from(["", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto:
        attributes["auto_pad"] = auto
        # onnxruntime refuses dilations with SAME.
        dilations = dilations if auto == "VALID" else [1] * rank
        attributes["dilations"] = dilations
    else:
        attributes["pads"] = axes(0, 2, 2 * rank)
    reach = [dilation * (taps - 1) + 1 for dilation, taps in zip(dilations, kernel, strict=True)]
    assume(all(have >= need for have, need in zip(size, reach, strict=True)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weights = dyadic(rng, (outputs, inputs // groups, *kernel))
    return conv(weights, ("N", inputs, *size), **attributes), {"x": models.images((2, inputs, *size))}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_any_convolution_matches_onnxruntime(case: tuple[onnx.ModelProto, stages.Feeds]) -> None:
    only_layer(*case)


# --- matrix products ---------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5}, {"alpha": 2.0, "beta": 0.25}, {"beta": 0.0}], ids=str)
@pytest.mark.parametrize("bias", [None, (), (1,), (4,), (1, 1), (1, 4)], ids=str)
def test_gemm(transposed: int, factors: dict[str, float], bias: tuple[int, ...] | None) -> None:
    weights = {"w": MATRIX.T if transposed else MATRIX}
    if bias is not None:
        weights["b"] = np.resize(dyadic(RNG, (4,)), bias)
    gemm = node("Gemm", "x w" if bias is None else "x w b", "y", transB=transposed, **factors)
    layer = only_layer(float_model([gemm], ("N", 6), weights), VECTORS)
    assert layer.geometry.layout == "channels_last"


@pytest.mark.parametrize("bias", [(4, 4), (4, 1)], ids=str)
def test_a_bias_that_differs_from_row_to_row_is_added_digitally(bias: tuple[int, ...]) -> None:
    """The batch is fixed to 4, which is also the number of columns."""
    weights = {"w": MATRIX, "b": dyadic(RNG, bias)}
    graph = select(float_model([node("Gemm", "x w b", "y", beta=0.5)], (4, 6), weights), VECTORS)
    assert stages.kinds(graph) == ["LinearLayer", "Add"]


@pytest.mark.parametrize("shape", [("N", 6), ("N", 5, 6), ("N", 2, 3, 6), (4, 6), (4, 5, 6)], ids=str)
def test_matmul_on_vectors_of_any_rank(shape: tuple[Any, ...]) -> None:
    feeds = {"x": models.images((4, *shape[1:]))}
    layer = only_layer(float_model([node("MatMul", "x w", "y")], shape, {"w": MATRIX}), feeds)
    assert layer.geometry.input_size == (int(np.prod(shape[1:-1])),)


def test_matmul_after_the_batch_is_merged_with_another_axis() -> None:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    model = float_model(nodes, ("N", 5, 6), {"w": MATRIX, "shape": np.array([-1, 6], np.int64)})
    feeds = {"x": models.images((3, 5, 6))}
    layer = select(model, feeds).nodes[-1]
    assert isinstance(layer, LinearLayer)
    assert layer.geometry.input_size == (5,)


@pytest.mark.parametrize(
    ("operator", "kind", "dtype", "relative"),
    [
        # Half precision: onnxruntime rounds inside its kernels, the layer once at the end.
        ("Conv", TensorProto.FLOAT16, np.float16, 2e-3),
        ("Gemm", TensorProto.FLOAT16, np.float16, 2e-3),
        ("MatMul", TensorProto.FLOAT16, np.float16, 2e-3),
        # Layers compute in float32. onnxruntime has no Conv in double precision.
        ("Gemm", TensorProto.DOUBLE, np.float64, 1e-6),
        ("MatMul", TensorProto.DOUBLE, np.float64, 1e-6),
    ],
)
def test_other_float_types(operator: str, kind: int, dtype: type, relative: float) -> None:
    rng = np.random.default_rng(32)
    shape = (4, 6, 6) if operator == "Conv" else (6,)
    weights = {"w": rng.normal(size=(3, 4, 3, 3) if operator == "Conv" else (6, 3)).astype(dtype)}
    model = float_model([node(operator, "x w", "y")], ("N", *shape), weights, kind=kind)
    layer = only_layer(model, {"x": rng.normal(size=(2, *shape)).astype(dtype)}, relative)
    assert layer.weight.dtype == np.float32
    assert layer.dtype == np.dtype(dtype).name


def test_shared_weights_give_two_layers() -> None:
    weights = {"w": dyadic(RNG, (6, 6))}
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "y")]
    graph = select(float_model(nodes, ("N", 6), weights), VECTORS)
    assert stages.kinds(graph) == ["LinearLayer", "Relu", "LinearLayer"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["w", "b"])
def test_weights_that_are_no_numbers_are_refused(value: float, which: str) -> None:
    weights = {"w": MATRIX.copy(), "b": dyadic(RNG, (4,))}
    model = float_model([node("Gemm", "x w b", "y")], ("N", 6), weights)
    graph = stages.import_model(model, VECTORS)
    broken = graph.constants[which].copy()
    broken.flat[0] = value
    graph = graph.replace(constants={**graph.constants, which: broken})
    with pytest.raises(ModelError, match=r"Gemm_y.*NaN or infinite"):
        stages.default_pass("select_crossbar_operators").run(graph, stages.context_for(VECTORS))


# --- reasons to stay digital -------------------------------------------------------------------

INTEGERS = make(
    [node("MatMul", "x w", "y")],
    {"x": (TensorProto.INT32, ("N", 6))},
    {"y": (TensorProto.INT32, ("N", 4))},
    {"w": np.ones((6, 4), np.int32)},
)
SPLIT_BATCH = [node("Reshape", "x shape", "r"), node("Conv", "r w", "y")]
REASONS: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "not a linear operator with weights": (float_model([node("Relu", "x", "y")], ("N", 6), {}), VECTORS),
    "its weights are not static": (float_model([node("MatMul", "x x", "y")], (6, 6), {}), {"x": models.images((6, 6))}),
    "its data input is static": (
        float_model([node("MatMul", "k w", "m"), node("Add", "x m", "y")], ("N", 4), {"k": MATRIX.T, "w": MATRIX}),
        {"x": models.images((4, 4))},
    ),
    "it computes in int32": (INTEGERS, {"x": np.ones((2, 6), np.int32)}),
    "its bias is not static": (
        float_model([node("ReduceMax", "x", "b", axes=[0, 2, 3], keepdims=0), node("Conv", "x w b", "y")],
                    ("N", 4, 6, 6), {"w": dyadic(RNG, (4, 4, 3, 3))}),
        IMAGES,
    ),
    "it has no weights": (
        float_model([node("MatMul", "x w", "y")], ("N", 6), {"w": np.zeros((6, 0), np.float32)}),
        VECTORS,
    ),
    "it works on several items per image": (
        float_model(SPLIT_BATCH, ("N", 4, 6, 6),
                    {"w": dyadic(RNG, (3, 2, 3, 3)), "shape": np.array([-1, 2, 6, 6], np.int64)}),
        IMAGES,
    ),
    "its input holds no values": (
        float_model([node("Slice", "x zero zero", "e"), node("MatMul", "e w", "y")], ("N", 6),
                    {"w": MATRIX, "zero": np.array([0], np.int64)}),
        VECTORS,
    ),
    "its weights and its data broadcast against each other": (
        float_model([node("MatMul", "x w", "y")], ("N", 1, 2, 5, 6), {"w": dyadic(RNG, (3, 1, 6, 4))}),
        {"x": models.images((2, 1, 2, 5, 6))},
    ),
}  # fmt: skip
# onnxruntime refuses such models today, so that only the graph can be made to look like one.
SHAPES = {"it has no spatial axis": (2, 4), "its output is empty": (2, 4, 2, 6)}


# Old operator sets, in which the digital operators that some layers need are other ones.
OLD = {
    "its operator set is older than 5": (node("ConvTranspose", "x w", "y"), (4, 3, 3, 3), 4),
    "its operator set is older than 7": (node("Gemm", "x w", "y", transA=1), (6, 2), 6),
}


def last_linear(graph: Graph) -> OnnxNode:
    found = [item for item in graph.nodes if item.kind in OPERATORS] or graph.nodes
    assert isinstance(found[-1], OnnxNode)
    return found[-1]


@pytest.mark.parametrize("reason", REASONS)
def test_reason_to_stay_digital(reason: str) -> None:
    model, feeds = REASONS[reason]
    graph = stages.import_model(model, feeds)
    assert reason_to_stay_digital(last_linear(graph), graph) == reason
    assert last_linear(select(model, feeds)).kind == last_linear(graph).kind or reason == "its data input is static"


@pytest.mark.parametrize("reason", SHAPES)
def test_reason_given_by_an_odd_shape(reason: str) -> None:
    graph = stages.import_model(conv(), IMAGES)
    graph = stages.replaced(graph, observed_shapes={"x": SHAPES[reason]})
    assert reason_to_stay_digital(last_linear(graph), graph) == reason


@pytest.mark.parametrize("reason", OLD)
def test_reason_given_by_an_old_operator_set(reason: str) -> None:
    operator, weights, version = OLD[reason]
    shape = (2, 4, 6, 6) if operator.op_type == "ConvTranspose" else (6, 3)
    model = float_model([operator], shape, {"w": dyadic(RNG, weights)})
    graph = stages.import_model(model, {"x": models.images(shape)})
    assert reason_to_stay_digital(last_linear(graph), graph) is None
    old = stages.replaced(graph, opsets=(("", version),))
    assert reason_to_stay_digital(last_linear(old), old) == reason


def test_every_reason_is_tested() -> None:
    modules = (select_crossbar_operators, lowering, lower_convolutions, lower_products)
    source = "".join(map(inspect.getsource, modules))
    given_reasons = set(re.findall(r'(?:return|else) f?"((?:its?|not) [^"]+)"', source))
    tested = {reason.replace("int32", "{kinds[0]}") for reason in (*REASONS, *SHAPES, *OLD)}
    tested.add("its weights are in an order for one kind of processor")  # test_decomposed_operators.py
    assert given_reasons == tested


def test_operator_of_another_domain_stays_digital() -> None:
    graph = stages.import_model(conv(), IMAGES)
    foreign = stages.replaced(last_linear(graph), domain="elsewhere")
    assert reason_to_stay_digital(foreign, graph) == "not a linear operator with weights"


def test_a_mappable_operator_has_no_reason() -> None:
    graph = stages.import_model(conv(), IMAGES)
    assert reason_to_stay_digital(last_linear(graph), graph) is None
