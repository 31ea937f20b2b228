"""Loops with a known number of runs: written out, they compute what onnxruntime does, on shared cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, make, node
from onnx import TensorProto, helper

import memcompile
from memcompile.frontend.constant_loops import LONGEST
from memcompile.ir.graph import LinearLayer, OnnxNode

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(77)
STEPS, SIZE = 3, 4
WEIGHTS = {"w": dyadic(RNG, (SIZE, SIZE)), "v": dyadic(RNG, (SIZE, SIZE))}
COUNT = {"times": np.array(STEPS, np.int64), "go": np.array(True)}


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(
    nodes: Sequence[onnx.NodeProto], inputs: str, outputs: str, constants: dict[str, Any] | None = None
) -> onnx.GraphProto:
    """A body; ``run`` counts, ``goes`` and ``goes_on`` are conditions, all else are floats of any shape."""
    kinds = {"run": (INT, ()), "goes": (BOOL, ()), "goes_on": (BOOL, ()), "first": (BOOL, ())}
    return helper.make_graph(
        list(nodes),
        "body",
        [value(name, *kinds.get(name, (FLOAT, None))) for name in inputs.split()],
        [value(name, *kinds.get(name, (FLOAT, None))) for name in outputs.split()],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )


CELL = (node("MatMul", "h w", "p"), node("Tanh", "p", "n"))
GOES = node("Identity", "goes", "goes_on")


def looping(inner: onnx.GraphProto, inputs: str = "times go x", outputs: str = "y", opset: int = 17) -> onnx.ModelProto:
    loop = helper.make_node("Loop", ["" if one == "-" else one for one in inputs.split()], outputs.split(), body=inner)
    return model_of([loop], outputs, opset)


def model_of(nodes: Sequence[onnx.NodeProto], outputs: str, opset: int = 17) -> onnx.ModelProto:
    wanted = dict.fromkeys(outputs.split(), (FLOAT, None))
    return make(list(nodes), {"x": (FLOAT, ("N", SIZE))}, wanted, {**WEIGHTS, **COUNT}, opset=opset)


def scanning(rows: int = STEPS, **attributes: Any) -> onnx.ModelProto:
    """A Scan over the rows [steps, 1, size] of a constant, with the state [1, size]."""
    inner = body(
        (node("MatMul", "row v", "q"), node("MatMul", "h w", "r"), node("Add", "q r", "s"), node("Tanh", "s", "n"),
         node("Identity", "n", "seen")),
        "h row",
        "n seen",
    )  # fmt: skip
    scan = helper.make_node("Scan", ["x", "rows"], ["y", "all"], body=inner, num_scan_inputs=1, **attributes)
    rows_of = {"rows": models.images((rows, 1, SIZE), seed=3)}
    outputs = {"y": (FLOAT, None), "all": (FLOAT, None)}
    return make([scan], {"x": (FLOAT, (1, SIZE))}, outputs, {**WEIGHTS, **rows_of})


NESTED = body(
    (helper.make_node("Loop", ["two", "goes", "h"], ["n"], body=body((*CELL, GOES), "run goes h", "goes_on n")), GOES),
    "run goes h",
    "goes_on n",
    {"two": np.array(2, np.int64)},
)
LOOPS: dict[str, onnx.ModelProto] = {
    "state": looping(body((*CELL, GOES), "run goes h", "goes_on n")),
    "all states": looping(body((*CELL, GOES, node("Identity", "n", "seen")), "run goes h", "goes_on n seen"),
                          outputs="y all"),
    "all states, axes as attribute": looping(
        body((*CELL, GOES, node("Identity", "n", "seen")), "run goes h", "goes_on n seen"), outputs="y all", opset=11),
    "without a condition": looping(body((*CELL, node("Identity", "first", "goes_on")), "run goes h", "goes_on n",
                                        {"first": np.array(True)}), "times - x"),
    "weights in the body": looping(body((node("MatMul", "h own", "n"), GOES), "run goes h", "goes_on n",
                                        {"own": WEIGHTS["v"]})),
    "weights handed on": looping(body((node("MatMul", "h u", "n"), node("Identity", "u", "same"), GOES), "run goes h u",
                                      "goes_on n same"), "times go x w", "y z"),
    "number of the run": looping(body((*CELL[:1], node("Cast", "run", "t", to=FLOAT), node("Add", "p t", "n"), GOES),
                                      "run goes h", "goes_on n")),
    "states that change places": looping(body((node("MatMul", "h w", "n"), node("Identity", "g", "m"), GOES),
                                              "run goes g h", "goes_on n m"), "times go x x", "y z"),
    "loop in a loop": looping(NESTED),
    "scan": scanning(),
    "scan backward": scanning(scan_input_directions=[1], scan_output_directions=[1]),
    "scan along other axes": scanning(scan_output_axes=[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_matches_onnxruntime(name: str) -> None:
    model = LOOPS[name]
    shape = [size.dim_value or 3 for size in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": models.images(shape)}
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, model, feeds)
    assert sum(isinstance(item, LinearLayer) for item in graph.nodes) >= STEPS
    assert not any(isinstance(item, OnnxNode) and item.op_type in ("Loop", "Scan") for item in graph.nodes)


COUNTING = (*CELL, node("Add", "c one", "d"), node("Less", "d three", "goes_on"))
DIGITAL: dict[str, onnx.ModelProto] = {
    "by its condition alone": looping(body(COUNTING, "run goes h c", "goes_on n d",
                                           {"one": np.float32(1), "three": np.float32(3)}), "- go x x0", "y z"),
    "no products": looping(body((node("Tanh", "h", "n"), GOES), "run goes h", "goes_on n")),
    "too many runs": looping(body((*CELL, GOES), "run goes h", "goes_on n"), "many go x"),
}  # fmt: skip
for _model in DIGITAL.values():
    _model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(LONGEST + 1, np.int64), "many"))
    _model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "x0"))


@pytest.mark.parametrize("name", DIGITAL)
def test_others_stay_digital(name: str) -> None:
    model, feeds = DIGITAL[name], {"x": models.images((1, SIZE))}
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, model, feeds)
    assert any(isinstance(item, OnnxNode) and item.op_type == "Loop" for item in graph.nodes)


def test_a_graph_grows_to_a_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop inside has two runs of three operators, the one outside three runs of two."""
    model, feeds = LOOPS["loop in a loop"], {"x": models.images((3, SIZE))}
    for most, loops in ((5, 1), (7, 3), (14, 2), (30, 0)):
        monkeypatch.setattr("memcompile.frontend.constant_loops.MOST_OPERATORS", most)
        graph = stages.import_model(model, feeds)
        assert sum(isinstance(item, OnnxNode) and item.op_type == "Loop" for item in graph.nodes) == loops, most


def test_runs_share_the_cells_of_their_weights() -> None:
    program = memcompile.compile(LOOPS["state"], objective="arrays", settings=("replicate.effort=fast",))
    assert len({layer.shares_with for layer in program.layers}) == 1
    assert len(program.layers) == STEPS
    assert program.cells_used == 2 * SIZE * SIZE
