"""onnxruntime alone judges which models are valid; onnx.checker adds a reason where it refuses one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, node
from onnx import TensorProto, helper, numpy_helper

from memcompile.errors import ModelError
from memcompile.frontend.importer import read_model
from memcompile.frontend.sandbox import DEFAULT_LIMITS
from memcompile.frontend.validation import latest_operator_set
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

RNG = np.random.default_rng(139)
X = models.images((3, 8))
Change = Callable[[onnx.ModelProto], object]


def network(*nodes: onnx.NodeProto, opset: int = 17, change: Change = lambda model: None) -> onnx.ModelProto:
    """A product and whatever follows it; the output has no shape, as onnxruntime writes it."""
    weights = {"w": dyadic(RNG, (8, 4)), "s": np.ones(4, np.float32), "b": np.full(4, 0.5, np.float32)}
    read = {"w", *(name for item in nodes for name in item.input)}
    graph = helper.make_graph(
        [node("MatMul", "x w", "a"), *nodes],
        "any",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights[name], name) for name in weights if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    change(model)
    return model


def contrib(op_type: str) -> onnx.NodeProto:
    return helper.make_node(op_type, ["a"], ["y"], domain="com.microsoft")


def only_contrib(model: onnx.ModelProto) -> None:
    model.opset_import[0].CopyFrom(helper.make_opsetid("com.microsoft", 1))


def turned_round(model: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(item.SerializeToString()) for item in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


VALID: dict[str, onnx.ModelProto] = {
    "LayerNormalization of the default domain, old operator set": network(
        node("LayerNormalization", "a s b", "y", axis=-1, epsilon=1e-5), opset=12
    ),
    "an operator that came later": network(node("ThresholdedRelu", "a", "y", alpha=0.5), opset=9),
    "no import of the operator's domain": network(contrib("Gelu")),
    "no import of the default domain": network(contrib("FastGelu"), change=only_contrib),
    "operators in any order": network(node("Neg", "a", "n"), node("Relu", "n", "y"), change=turned_round),
    "operator sets in a file of version 2": network(
        node("Relu", "a", "y"), change=lambda model: setattr(model, "ir_version", 2)
    ),
    "a Constant that reads what is not there": network(
        helper.make_node("Constant", ["nothing"], ["c"], value=numpy_helper.from_array(np.ones(4, np.float32))),
        node("Add", "a c", "y"),
    ),
    "a graph without a name": network(node("Relu", "a", "y"), change=lambda model: model.graph.ClearField("name")),
}


@pytest.mark.parametrize("name", VALID)
def test_what_onnxruntime_runs_compiles(name: str, save_model: Callable[..., Path]) -> None:
    model = VALID[name]
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    path = save_model(model)
    program = compile_model(path, "ideal", limits=DEFAULT_LIMITS).program
    assert len(program.layers) == 1
    want = stages.reference(model, {"x": X})["y"]
    assert np.abs(Emulator.ideal(program).run(X)["y"] - want).max() <= 1e-5 * np.abs(want).max()


def test_a_cycle_is_refused_with_both_reasons(save_model: Callable[..., Path]) -> None:
    model = network(node("Add", "a z", "y"), node("Neg", "y", "z"))
    with pytest.raises(ModelError, match=r"onnxruntime cannot run .*; it is not valid ONNX: .*; export it again"):
        read_model(save_model(model))


@pytest.mark.parametrize(("domain", "known"), [("", True), ("com.microsoft", True), ("of.nobody", False)])
def test_latest_operator_set_is_the_last_that_onnxruntime_takes(domain: str, known: bool) -> None:
    latest = latest_operator_set(domain)
    assert (latest is not None) == known
    if latest is None or domain:
        return
    assert stages.reference(network(node("Relu", "a", "y"), opset=latest), {"x": X})
    with pytest.raises(Exception, match=r"(?i)opset"):
        stages.reference(network(node("Relu", "a", "y"), opset=latest + 1), {"x": X})


def test_an_operator_of_an_unknown_domain_is_refused(save_model: Callable[..., Path]) -> None:
    model = network(helper.make_node("Anything", ["a"], ["y"], domain="of.nobody"))
    with pytest.raises(ModelError, match=r"onnxruntime cannot run .*Anything"):
        read_model(save_model(model))
