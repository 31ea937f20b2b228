"""Evaluating operators on constants."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, float_model, make, node
from onnx import TensorProto, helper, numpy_helper

from memcompile.errors import ModelError
from memcompile.ir.graph import Graph, LinearLayer

RNG = np.random.default_rng(21)
WEIGHT = dyadic(RNG, (4, 3))
LEVELS = RNG.integers(-7, 8, (4, 3)).astype(np.int8)
X = {"x": models.images((5, 3))}


def constant(value: Any, output: str, **attributes: Any) -> onnx.NodeProto:
    """A Constant node; other attributes than ``value`` may be given instead."""
    given = attributes or {"value": numpy_helper.from_array(np.asarray(value), output)}
    return helper.make_node("Constant", [], [output], name=f"Constant_{output}", **given)


def open_model(nodes: list[onnx.NodeProto], weights: dict[str, Any], outputs: tuple[str, ...] = ("y",)) -> Any:
    """A model whose outputs are matrices of open size, without help from shape inference."""
    shapes = {name: (TensorProto.FLOAT, [None, None]) for name in outputs}
    return make(nodes, {"x": (TensorProto.FLOAT, ["N", 3])}, shapes, weights)


def fold(
    nodes: list[onnx.NodeProto], weights: dict[str, Any] | None = None, outputs: tuple[str, ...] = ("y",)
) -> Graph:
    """The graph after the pass, checked against onnxruntime."""
    model = open_model(nodes, weights or {}, outputs)
    graph = stages.after("fold_constants", model, X)
    stages.assert_matches(graph, model, X)
    return graph


CHAINS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], np.ndarray]] = {
    "Constant": ([constant(WEIGHT, "w")], {}, WEIGHT),
    "Cast": ([node("Cast", "d", "w", to=TensorProto.FLOAT)], {"d": WEIGHT.astype(np.float64)}, WEIGHT),
    "Transpose": ([node("Transpose", "t", "w")], {"t": WEIGHT.T}, WEIGHT),
    "Identity": ([node("Identity", "i", "w")], {"i": WEIGHT}, WEIGHT),
    "Reshape of a Constant": (
        [constant(np.array([4, 3]), "shape"), node("Reshape", "flat shape", "w")],
        {"flat": WEIGHT.ravel()},
        WEIGHT,
    ),
    "DequantizeLinear": (
        [node("DequantizeLinear", "q step", "w")],
        {"q": LEVELS, "step": np.array(0.25, np.float32)},
        LEVELS * np.float32(0.25),
    ),
    "DequantizeLinear per channel with zero points": (
        [node("DequantizeLinear", "q step zero", "w", axis=0)],
        {
            "q": LEVELS,
            "step": np.array([0.25, 0.5, 1, 2], np.float32),
            "zero": np.array([1, -1, 0, 2], np.int8),
        },
        (LEVELS - np.array([[1], [-1], [0], [2]])) * np.array([[0.25], [0.5], [1], [2]]),
    ),
    "DequantizeLinear, Transpose, Cast, Mul": (
        [
            node("DequantizeLinear", "q step", "f"),
            node("Transpose", "f", "t"),
            node("Cast", "t", "d", to=TensorProto.DOUBLE),
            node("Mul", "d two", "m"),
            node("Cast", "m", "u", to=TensorProto.FLOAT),
            node("Transpose", "u", "w"),
        ],
        {"q": LEVELS, "step": np.array(0.25, np.float32), "two": np.array(2.0)},
        LEVELS * 0.5,
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_weights_through_a_chain_become_constants(chain: str) -> None:
    nodes, weights, value = CHAINS[chain]
    graph = fold([*nodes, node("Gemm", "x w", "y", transB=1)], weights)
    assert stages.kinds(graph) == ["Gemm"]
    assert set(graph.constants) == {"w"}, "what the chain read is dropped"
    assert np.array_equal(graph.constants["w"], value)
    assert not graph.constants["w"].flags.writeable


@pytest.mark.parametrize("chain", CHAINS)
def test_such_weights_go_to_crossbars(chain: str) -> None:
    nodes, weights, value = CHAINS[chain]
    model = float_model([*nodes, node("Gemm", "x w", "y", transB=1)], ("N", 3), weights)
    layer = stages.after("select_crossbar_operators", model, X).nodes[0]
    assert isinstance(layer, LinearLayer)
    assert np.array_equal(layer.weight[:, :, 0], value)


def test_a_constant_that_is_an_output_is_kept() -> None:
    graph = fold([node("Neg", "k", "minus"), node("Relu", "x", "y")], {"k": WEIGHT}, outputs=("y", "minus"))
    assert stages.kinds(graph) == ["Relu"]
    assert np.array_equal(graph.constants["minus"], -WEIGHT)


def test_an_initializer_that_is_an_output_is_kept() -> None:
    assert fold([node("Relu", "x", "y")], {"k": WEIGHT}, outputs=("y", "k")).constants.keys() == {"k"}


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_operators_stay(op_type: str) -> None:
    weights = {"k": np.full((3,), 0.5, np.float32)}
    model = float_model([node(op_type, "k", "noise"), node("Add", "x noise", "y")], ("N", 3), weights)
    assert stages.kinds(stages.after("fold_constants", model, X)) == [op_type, "Add"]


def test_random_operators_without_inputs_stay() -> None:
    random = helper.make_node("RandomNormal", [], ["noise"], shape=[3])
    model = float_model([random, node("Neg", "noise", "n"), node("Add", "x n", "y")], ("N", 3), {})
    assert stages.kinds(stages.after("fold_constants", model, X)) == ["RandomNormal", "Neg", "Add"]


def test_a_random_operator_inside_a_branch_stays() -> None:
    noise = helper.make_tensor_value_info("noise", TensorProto.FLOAT, [3])
    branch = helper.make_graph([helper.make_node("RandomNormal", [], ["noise"], shape=[3])], "b", [], [noise])
    choice = helper.make_node("If", ["yes"], ["n"], name="If_n", then_branch=branch, else_branch=branch)
    model = open_model([choice, node("Add", "x n", "y")], {"yes": np.array(True)})
    assert stages.kinds(stages.after("fold_constants", model, X)) == ["RandomNormal", "Add"]


def branches(value: str) -> onnx.NodeProto:
    """If ``yes``: value + 1, else value - 1."""
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    one = constant(np.float32(1), "one")
    graphs = {
        name: helper.make_graph([one, helper.make_node(op_type, [value, "one"], ["r"])], name, [], [result])
        for name, op_type in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    return helper.make_node("If", ["yes"], ["chosen"], name="If_chosen", **graphs)


def test_a_branch_over_constants_is_folded() -> None:
    weights = {"yes": np.array(True), "k": WEIGHT}
    graph = fold([branches("k"), node("Gemm", "x chosen", "y", transB=1)], weights)
    assert stages.kinds(graph) == ["Gemm"]
    assert np.array_equal(graph.constants["chosen"], WEIGHT + 1)


def test_a_branch_that_captures_data_is_written_out_and_stays() -> None:
    graph = fold([branches("x"), node("Relu", "chosen", "y")], {"yes": np.array(False)})
    assert stages.kinds(graph) == ["Sub", "Relu"]
    assert graph.nodes[0].inputs[0] == "x"


def test_shapes_of_data_stay() -> None:
    """The batch is free, so that nothing made from a shape is constant."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "batch"),
        node("Unsqueeze", "batch axes", "b"),
        node("Concat", "b rest", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    weights = {
        "zero": np.array(0, np.int64),
        "axes": np.array([0], np.int64),
        "rest": np.array([3], np.int64),
    }
    assert stages.kinds(fold(nodes, weights)) == ["Shape", "Gather", "Unsqueeze", "Concat", "Reshape"]


def test_a_sequence_is_no_constant_but_may_lead_to_one() -> None:
    nodes = [
        node("SequenceConstruct", "k k", "s"),
        node("ConcatFromSequence", "s", "c", axis=0),
        node("Gemm", "x c", "y", transB=1),
    ]
    graph = fold(nodes, {"k": WEIGHT})
    assert stages.kinds(graph) == ["Gemm"]
    assert np.array_equal(graph.constants["c"], np.concatenate([WEIGHT, WEIGHT]))


def test_a_sequence_that_something_else_reads_stays_with_all_that_lead_to_it() -> None:
    nodes = [
        node("SequenceConstruct", "k k", "s"),
        node("SequenceInsert", "s k", "longer"),
        node("ConcatFromSequence", "s", "c", axis=0),
        node("ReduceMax", "x", "peak", keepdims=0),
        node("Cast", "peak", "i", to=TensorProto.INT64),
        node("Sub", "i i", "first"),
        node("SequenceAt", "longer first", "e"),
        node("Concat", "c e", "w", axis=0),
        node("Gemm", "x w", "y", transB=1),
    ]
    graph = fold(nodes, {"k": WEIGHT})
    assert stages.kinds(graph)[:2] == ["SequenceConstruct", "SequenceInsert"]
    assert "ConcatFromSequence" not in stages.kinds(graph)
    assert "c" in graph.constants


def test_a_graph_without_constants_is_returned_as_it_is() -> None:
    model = float_model([node("Relu", "x", "y")], ("N", 3), {})
    graph = stages.import_model(model, X)
    assert stages.default_pass("fold_constants").run(graph, stages.context_for(X)) is graph


def test_constants_that_cannot_be_evaluated_are_the_models_fault() -> None:
    """A Reshape that does not fit is found only when it is run."""
    nodes = [node("Reshape", "k shape", "r"), node("Gemm", "x r", "y", transB=1)]
    model = open_model(nodes, {"k": WEIGHT, "shape": np.array([5, 5], np.int64)})
    with pytest.raises(ModelError, match="cannot run"):
        stages.after("fold_constants", model, X)
