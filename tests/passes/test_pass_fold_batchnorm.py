"""Folding batch normalisation and per-channel arithmetic into the layer before."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import batchnorm, dyadic, float_model, node
from onnx import TensorProto

from memcompile.ir.graph import Graph, LinearLayer
from memcompile.verify.interpreter import Interpreter

RNG = np.random.default_rng(11)
# Not powers of two: folding must get ordinary numbers right too.
SCALE = RNG.uniform(0.5, 2.0, 3).astype(np.float32)
CONV = {"w": dyadic(RNG, (3, 2, 2, 2)), "b": dyadic(RNG, (3,))}
NORM = {
    "n_gamma": SCALE,
    "n_beta": RNG.normal(size=3).astype(np.float32),
    "n_mean": RNG.normal(size=3).astype(np.float32),
    "n_variance": RNG.uniform(0.5, 2.0, 3).astype(np.float32),
}
IMAGES = {"x": models.images((3, 2, 4, 4))}
VECTORS = {"x": models.images((3, 6))}
SEQUENCES = {"x": models.images((3, 5, 6))}


def fold(model: onnx.ModelProto, feeds: stages.Feeds) -> Graph:
    """The graph after the pass, checked against onnxruntime."""
    graph = stages.after("fold_batchnorm", model, feeds)
    stages.assert_matches(graph, model, feeds)
    return graph


def conv_then(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **constants: Any) -> onnx.ModelProto:
    """Conv ``x`` to ``c`` [N, 3, 3, 3] with a bias, then these nodes."""
    weights = {key: np.asarray(value, np.float32) for key, value in constants.items()}
    return float_model([node("Conv", "x w b", "c"), *nodes], ("N", 2, 4, 4), {**CONV, **NORM, **weights}, outputs)


def gemm_then(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Gemm ``x`` [N, 6] to ``g`` [N, 3], then these nodes."""
    weights = {key: np.asarray(value, np.float32) for key, value in constants.items()}
    own = {"w": dyadic(np.random.default_rng(12), (6, 3)), "b": CONV["b"]}
    return float_model([node("Gemm", "x w b", "g"), *nodes], ("N", 6), {**own, **NORM, **weights})


def test_batchnorm_after_conv() -> None:
    graph = fold(conv_then(batchnorm("c", "n", "y")), IMAGES)
    assert stages.kinds(graph) == ["LinearLayer"]
    layer = graph.nodes[0]
    assert isinstance(layer, LinearLayer)
    factor = NORM["n_gamma"].astype(np.float64) / np.sqrt(NORM["n_variance"] + models.EPSILON)
    assert np.allclose(layer.weight, CONV["w"] * factor[:, None, None, None], rtol=1e-6)
    assert np.allclose(layer.bias, (CONV["b"] - NORM["n_mean"]) * factor + NORM["n_beta"], rtol=1e-5, atol=1e-6)
    assert not graph.constants, "nobody reads the parameters any more"


def test_batchnorm_with_default_epsilon() -> None:
    normal = node("BatchNormalization", "c n_gamma n_beta n_mean n_variance", "y")
    assert stages.kinds(fold(conv_then(normal, n_variance=np.full(3, 1e-5)), IMAGES)) == ["LinearLayer"]


def test_batchnorm_after_conv_without_bias() -> None:
    model = float_model([node("Conv", "x w", "c"), batchnorm("c", "n", "y")], ("N", 2, 4, 4), {**CONV, **NORM})
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer"]


def test_batchnorm_after_grouped_conv() -> None:
    weights = {"w": dyadic(RNG, (4, 1, 2, 2)), **models.batchnorm_weights(RNG, "n", 4)}
    model = float_model([node("Conv", "x w", "c", group=2), batchnorm("c", "n", "y")], ("N", 2, 4, 4), weights)
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer"]


def test_batchnorm_after_gemm() -> None:
    assert stages.kinds(fold(gemm_then(batchnorm("g", "n", "y")), VECTORS)) == ["LinearLayer"]


def matmul_batchnorm(shape: tuple[Any, ...], channels: int) -> onnx.ModelProto:
    rng = np.random.default_rng(13)
    weights = {"w": dyadic(rng, (6, 5)), **models.batchnorm_weights(rng, "n", channels)}
    return float_model([node("MatMul", "x w", "m"), batchnorm("m", "n", "y")], shape, weights)


def test_batchnorm_after_matmul_of_vectors() -> None:
    assert stages.kinds(fold(matmul_batchnorm(("N", 6), 5), VECTORS)) == ["LinearLayer"]


@pytest.mark.parametrize("channels", [5], ids=["as many as columns"])
def test_batchnorm_after_matmul_of_sequences_stays(channels: int) -> None:
    """Axis 1, which batch norm works on, is the sequence; here it is as long as the layer has columns."""
    assert stages.kinds(fold(matmul_batchnorm(("N", 5, 6), channels), SEQUENCES)) == [
        "LinearLayer",
        "BatchNormalization",
    ]


@pytest.mark.parametrize(
    ("operator", "operands"),
    [
        ("Mul", "c k"),
        ("Mul", "k c"),
        ("Add", "c k"),
        ("Add", "k c"),
        ("Sub", "c k"),
        ("Sub", "k c"),
        ("Div", "c k"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), (1,), ()], ids=str)
def test_arithmetic_with_a_constant_per_channel(operator: str, operands: str, shape: tuple[int, ...]) -> None:
    constant = np.resize(SCALE, shape)
    graph = fold(conv_then(node(operator, operands, "y"), k=constant), IMAGES)
    assert stages.kinds(graph) == ["LinearLayer"]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()], ids=str)
@pytest.mark.parametrize("operator", ["Mul", "Add", "Sub", "Div"])
def test_arithmetic_after_gemm(operator: str, shape: tuple[int, ...]) -> None:
    graph = fold(gemm_then(node(operator, "g k", "y"), k=np.resize(SCALE, shape)), VECTORS)
    assert stages.kinds(graph) == ["LinearLayer"]


def test_arithmetic_after_matmul_of_sequences() -> None:
    weights = {"w": dyadic(RNG, (6, 3)), "k": SCALE}
    model = float_model([node("MatMul", "x w", "m"), node("Add", "m k", "y")], ("N", 5, 6), weights)
    assert stages.kinds(fold(model, SEQUENCES)) == ["LinearLayer"]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 3), (1, 3, 3, 3), (3, 3, 1), (1, 1, 1, 1, 1)], ids=str)
def test_constant_that_is_not_per_channel_stays(shape: tuple[int, ...]) -> None:
    """After Conv [N, 3, 3, 3], a shape of (3,) broadcasts along the last axis."""
    graph = fold(conv_then(node("Mul", "c k", "y"), k=RNG.uniform(0.5, 2.0, shape)), IMAGES)
    assert stages.kinds(graph) == ["LinearLayer", "Mul"]


def test_constant_that_widens_one_channel_stays() -> None:
    weights = {"w": dyadic(RNG, (1, 2, 2, 2)), "k": dyadic(RNG, (1, 3, 1, 1))}
    model = float_model([node("Conv", "x w", "c"), node("Mul", "c k", "y")], ("N", 2, 4, 4), weights)
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer", "Mul"]


def test_constant_divided_by_the_value_stays() -> None:
    model = conv_then(node("Div", "k c", "y"), k=SCALE.reshape(3, 1, 1))
    assert stages.kinds(stages.after("fold_batchnorm", model, IMAGES)) == ["LinearLayer", "Div"]


def test_division_by_zero_stays() -> None:
    model = conv_then(node("Div", "c k", "y"), k=np.zeros((3, 1, 1)))
    assert stages.kinds(stages.after("fold_batchnorm", model, IMAGES)) == ["LinearLayer", "Div"]


def test_value_times_itself_stays() -> None:
    assert stages.kinds(fold(conv_then(node("Mul", "c c", "y")), IMAGES)) == ["LinearLayer", "Mul"]


def test_two_followers_fold_one_after_the_other() -> None:
    model = conv_then(
        batchnorm("c", "n", "s"), node("Mul", "s k", "m"), node("Sub", "k m", "y"), k=SCALE.reshape(1, 3, 1, 1)
    )
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer"]


def test_shared_value_is_not_folded() -> None:
    model = conv_then(batchnorm("c", "n", "s"), node("Add", "s c", "y"))
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer", "BatchNormalization", "Add"]


def test_value_that_is_an_output_is_not_folded() -> None:
    model = conv_then(batchnorm("c", "n", "y"), outputs=("y", "c"))
    graph = fold(model, IMAGES)
    assert stages.kinds(graph) == ["LinearLayer", "BatchNormalization"]
    assert Interpreter(graph).run(IMAGES).keys() == {"y", "c"}


def test_follower_whose_constant_is_computed_is_not_folded() -> None:
    model = conv_then(node("ReduceMax", "x", "peak", keepdims=0, axes=[0, 1, 2, 3]), node("Mul", "c peak", "y"))
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer", "ReduceMax", "Mul"]


def test_relu_in_between_is_not_skipped() -> None:
    model = conv_then(node("Relu", "c", "r"), batchnorm("r", "n", "y"))
    assert stages.kinds(fold(model, IMAGES)) == ["LinearLayer", "Relu", "BatchNormalization"]


@pytest.mark.parametrize("outputs", ["y", "y running_mean running_variance"])
def test_batchnorm_in_training_mode_stays(outputs: str) -> None:
    normal = batchnorm("c", "n", "y running_mean running_variance", training_mode=1)
    graph = stages.after("select_crossbar_operators", conv_then(normal), IMAGES)
    follower = stages.replaced(graph.nodes[1], outputs=tuple(outputs.split(" ")))
    graph = graph.map_nodes({follower.name: follower})
    result = stages.default_pass("fold_batchnorm").run(graph, stages.context_for(IMAGES))
    assert stages.kinds(result) == ["LinearLayer", "BatchNormalization"]


def test_batchnorm_with_parameters_per_position_stays() -> None:
    """Before opset 9, spatial = 0 means a parameter per activation."""
    rng = np.random.default_rng(14)
    weights = {
        **CONV,
        **{key: rng.uniform(0.5, 1.0, (3, 3, 3)).astype(np.float32) for key in NORM},
    }
    nodes = [node("Conv", "x w b", "c"), batchnorm("c", "n", "y", spatial=0)]
    model = float_model(nodes, (1, 2, 4, 4), weights, opset=8)
    graph = fold(model, {"x": IMAGES["x"][:1]})
    assert stages.kinds(graph) == ["LinearLayer", "BatchNormalization"]


def test_operator_of_another_domain_stays() -> None:
    model = conv_then(node("Mul", "c k", "y"), k=SCALE.reshape(3, 1, 1))
    graph = stages.after("select_crossbar_operators", model, IMAGES)
    multiply = graph.by_name["Mul_y"]
    renamed = graph.map_nodes({multiply.name: stages.replaced(multiply, domain="elsewhere")})
    result = stages.default_pass("fold_batchnorm").run(renamed, stages.context_for(IMAGES))
    assert stages.kinds(result) == ["LinearLayer", "elsewhere::Mul"]


def test_half_precision_model() -> None:
    weights = {"w": CONV["w"].astype(np.float16), "k": SCALE.reshape(3, 1, 1).astype(np.float16)}
    nodes = [node("Conv", "x w", "c"), node("Mul", "c k", "y")]
    model = float_model(nodes, ("N", 2, 4, 4), weights, kind=TensorProto.FLOAT16)
    feeds = {"x": IMAGES["x"].astype(np.float16)}
    graph = stages.after("fold_batchnorm", model, feeds)
    assert stages.kinds(graph) == ["LinearLayer"]
    # onnxruntime rounds to 11 bits after each operator; the folded layer rounds once.
    stages.assert_matches(graph, model, feeds, relative=2e-3)
