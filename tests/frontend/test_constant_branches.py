"""Branches whose condition is the same for all inputs are written out; others stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, node
from onnx import TensorProto, helper, numpy_helper

from memcompile.ir.graph import Graph, LinearLayer
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

RNG = np.random.default_rng(149)
WEIGHTS: dict[str, Any] = {
    "w": dyadic(RNG, (8, 4)),
    "v": dyadic(RNG, (8, 4)),
    "yes": np.array(True),
    "no": np.array([False]),
    "zero": np.float32(0),
    "one": np.array(1, np.int64),
    "eight": np.array(8, np.int64),
    "three": np.array(3, np.int64),
}
X = {"x": models.images((3, 8))}


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(nodes: Sequence[onnx.NodeProto], outputs: str, weights: dict[str, Any] | None = None) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(list(nodes), "branch", [], [value(name) for name in outputs.split()], tensors)


def choose(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, outputs: str = "y") -> onnx.NodeProto:
    return node("If", condition, outputs, then_branch=then, else_branch=other)


def network(*nodes: onnx.NodeProto, outputs: str = "y") -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "branches",
        [value("x", shape=["N", 8])],
        [value(name) for name in outputs.split()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


THEN, ELSE = branch([node("Gemm", "x w", "t")], "t"), branch([node("Gemm", "x v", "e")], "e")
SHAPE = [node("Shape", "x", "s"), node("Gather", "s one", "d"), node("Equal", "d eight", "c")]


def clash() -> onnx.ModelProto:
    """Both operators and an outer value use the same names."""
    own = dyadic(RNG, (8, 4))
    first = branch([node("MatMul", "t u", "q"), node("Relu", "q", "r")], "r", {"u": own})
    second = branch([node("MatMul", "t u", "q"), node("Neg", "q", "r")], "r", {"u": 2 * own})
    nodes = [node("Abs", "x", "t"), choose("yes", first, second, "y1"), choose("no", first, second, "y2")]
    return network(*nodes, node("Add", "y1 y2", "y"))


def nested(inner_condition: str, *before: onnx.NodeProto) -> onnx.ModelProto:
    inner = choose(
        inner_condition, branch([node("MatMul", "a w", "r")], "r"), branch([node("MatMul", "a v", "r")], "r"), "q"
    )
    return network(*before, choose("yes", branch([node("Relu", "x", "a"), inner, node("Neg", "q", "t")], "t"), ELSE))


def looped() -> onnx.ModelProto:
    """A body in the branch reads a value that the branch makes."""
    body = helper.make_graph(
        [node("Add", "sum t", "out"), node("Identity", "go", "on")],
        "body",
        [value("i", TensorProto.INT64, ()), value("go", TensorProto.BOOL, ()), value("sum")],
        [value("on", TensorProto.BOOL, ()), value("out")],
    )
    loop = helper.make_node("Loop", ["three", "yes", "t"], ["l"], body=body, name="loop")
    return network(choose("yes", branch([node("MatMul", "x w", "t"), loop], "l"), ELSE))


LARGEST = [node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m zero", "c")]
INLINED: dict[str, tuple[onnx.ModelProto, int]] = {
    "true": (network(choose("yes", THEN, ELSE)), 1),
    "false": (network(choose("no", THEN, ELSE)), 1),
    "computed from constants": (network(node("Not", "yes", "c"), choose("c", THEN, ELSE)), 1),
    "from a static size": (network(*SHAPE, choose("c", THEN, ELSE)), 1),
    "names that clash": (clash(), 2),
    "a layer within": (network(choose("no", ELSE, branch([node("Gemm", "x w", "t"), node("Relu", "t", "r")], "r"))), 1),
    "nested": (nested("no"), 1),
    "nested in one that stays": (nested("c", *LARGEST), 0),
    "body that reads the branch's value": (looped(), 1),
    "one after the other": (
        network(choose("yes", THEN, ELSE, "z"), choose("no", ELSE, branch([node("Relu", "z", "r")], "r"))), 1,
    ),
    "a constant and an outer product as results": (
        network(choose("yes", branch([node("MatMul", "x w", "t")], "t k", {"k": dyadic(RNG, (2, 2))}),
                       branch([node("MatMul", "x v", "t")], "t k", {"k": dyadic(RNG, (2, 2))}), "y z"),
                outputs="y z"), 1,
    ),
}  # fmt: skip


def kinds(graph: Graph) -> list[str]:
    return [kind for kind in stages.kinds(graph) if kind == "If"]


@pytest.mark.parametrize("name", INLINED)
def test_the_branch_taken_is_written_out(name: str) -> None:
    model, layers = INLINED[name]
    graph = stages.after("remove_dead_nodes", model, X)
    stages.assert_matches(graph, model, X)
    assert sum(isinstance(item, LinearLayer) for item in graph.nodes) == layers
    assert len(kinds(graph)) == (name == "nested in one that stays")


@pytest.mark.parametrize("name", INLINED)
def test_programs_are_compared_with_the_model(name: str, save_model: Callable[..., Path]) -> None:
    """Although onnxruntime cannot show what operators in branches make."""
    compilation = compile_model(save_model(INLINED[name][0]), "ideal", settings=("replicate.effort=fast",))
    emulator = Emulator(compilation.program)
    for output, want in stages.reference(INLINED[name][0], X).items():
        np.testing.assert_allclose(emulator.run(X)[output], want, rtol=1e-5, atol=1e-6)


OPEN_SIZE = [node("Shape", "x", "s"), node("ReduceMax", "s", "d", keepdims=0), node("Equal", "d eight", "c")]
STAYING: dict[str, onnx.ModelProto] = {
    "of the input": network(*LARGEST, choose("c", THEN, ELSE)),
    "of a size that is free": network(*OPEN_SIZE, choose("c", THEN, ELSE)),
    "drawn at random": network(
        helper.make_node("RandomUniform", [], ["r"], shape=[1]), node("Greater", "r zero", "c"), choose("c", THEN, THEN)
    ),
}


@pytest.mark.parametrize("name", STAYING)
def test_a_condition_that_may_change_stays(name: str) -> None:
    graph = stages.after("remove_dead_nodes", STAYING[name], X)
    stages.assert_matches(graph, STAYING[name], X)
    assert kinds(graph) == ["If"]
