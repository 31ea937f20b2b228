"""LSTM, GRU and RNN step by step on crossbars: what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, make, node
from onnx import TensorProto

import memcompile
from memcompile.ir.graph import LinearLayer, OnnxNode
from memcompile.passes.lowering.lower_recurrent import LONGEST
from memcompile.passes.select_crossbar_operators import reason_to_stay_digital

RNG = np.random.default_rng(101)
FLOAT = TensorProto.FLOAT
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 5, 2


def recurrent(
    kind: str, bias: bool, start: bool, steps: int = STEPS, extra: str = "", **attributes: Any
) -> tuple[onnx.ModelProto, stages.Feeds]:
    """One recurrent operator with all its outputs."""
    ways, gates = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[kind]
    weights = {"w": dyadic(RNG, (ways, gates * HIDDEN, INPUTS)), "r": dyadic(RNG, (ways, gates * HIDDEN, HIDDEN))}
    inputs = ["x", "w", "r", "b" if bias else "", extra]
    if bias:
        weights["b"] = dyadic(RNG, (ways, 2 * gates * HIDDEN))
    if start:
        weights["h"] = dyadic(RNG, (ways, BATCH, HIDDEN))
        weights["c"] = dyadic(RNG, (ways, BATCH, HIDDEN))
        inputs += ["h", "c"] if kind == "LSTM" else ["h"]
    if extra:
        weights[extra] = np.full(BATCH, steps, np.int32)
    outputs = ["y", "yh", "yc"] if kind == "LSTM" else ["y", "yh"]
    operator = onnx.helper.make_node(kind, inputs, outputs, name="cell", hidden_size=HIDDEN, **attributes)
    used = {name: value for name, value in weights.items() if name in inputs}
    model = make([operator], {"x": (FLOAT, (steps, BATCH, INPUTS))}, dict.fromkeys(outputs, (FLOAT, None)), used)
    return model, {"x": models.images((steps, BATCH, INPUTS))}


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU, linear before reset", "RNN"])
def test_matches_onnxruntime(kind: str, direction: str, bias: bool, start: bool) -> None:
    attributes = {"linear_before_reset": 1} if "," in kind else {}
    model, feeds = recurrent(kind.split(",", maxsplit=1)[0], bias, start, direction=direction, **attributes)
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, model, feeds)
    layers = [item for item in graph.nodes if isinstance(item, LinearLayer)]
    ways = 2 if direction == "bidirectional" else 1
    a_step = 2 if kind.startswith("GRU") else 1
    assert len(layers) == ways * (1 + a_step * (STEPS if start else STEPS - 1))
    assert layers[0].name == "cell"


@pytest.mark.parametrize("kind", GATES)
def test_an_exported_chip_computes_its_steps(kind: str, save_model: Callable[..., Path]) -> None:
    model, feeds = recurrent(kind, True, True)
    program = memcompile.compile(save_model(model), settings=("replicate.effort=fast",))
    exported.assert_agrees(program, feeds, seed=3)


REASONS = {
    "its sequences have lengths of their own": recurrent("LSTM", True, False, extra="lengths"),
    "it has peepholes, a clip, coupled gates or another layout": recurrent("RNN", True, False, clip=0.5),
    "its activations are not the default ones": recurrent("RNN", True, False, activations=["Relu"]),
    f"its sequence is longer than {LONGEST} steps": recurrent("GRU", True, False, steps=LONGEST + 1),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reason_to_stay_digital(reason: str) -> None:
    model, feeds = REASONS[reason]
    graph = stages.after("select_crossbar_operators", model, feeds)
    (operator,) = graph.nodes
    assert isinstance(operator, OnnxNode)
    assert reason_to_stay_digital(operator, graph) == reason


def test_an_open_sequence_stays_digital() -> None:
    model, feeds = recurrent("LSTM", True, False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "T"
    model.graph.node.insert(0, node("Identity", "x", "z"))
    model.graph.node[1].input[0] = "z"
    graph = stages.after("select_crossbar_operators", model, feeds)
    (operator,) = (item for item in graph.nodes if isinstance(item, OnnxNode) and item.op_type == "LSTM")
    assert reason_to_stay_digital(operator, graph) == "its sequence length is not static"
