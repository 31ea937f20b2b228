"""Wherever a model keeps its weights, they go to crossbars; what is in a subgraph stays digital as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, make, node
from onnx import TensorProto, helper, numpy_helper

import memcompile
from memcompile.pipelines import compile_model

FLOAT, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
W = dyadic(np.random.default_rng(9), (6, 3))
X = {"x": models.images((8, 6))}
PRODUCT = node("MatMul", "x w", "y")
Save = Callable[..., Path]


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


def model(*before: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """A product with a weight ``w`` that nodes before it make."""
    inputs, outputs = {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, ("N", 3))}
    return make([*before, PRODUCT], inputs, outputs, weights, opset=21)


def as_bfloat16(array: np.ndarray) -> onnx.TensorProto:
    """The upper halves of float32 numbers; these here lose nothing."""
    raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return helper.make_tensor("b", BF16, array.shape, raw, raw=True)


def bfloat16() -> onnx.ModelProto:
    made = model(node("Cast", "b", "w", to=FLOAT))
    made.graph.initializer.append(as_bfloat16(W))
    return made


def default_of_an_input() -> onnx.ModelProto:
    made = model(w=W)
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, W.shape))
    return made


def sparse() -> onnx.ModelProto:
    made = model()
    flat = W.reshape(-1)
    places = np.flatnonzero(flat)
    values = numpy_helper.from_array(flat[places], "w")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), W.shape)
    )
    return made


SOURCES: dict[str, onnx.ModelProto] = {
    "initializer": model(w=W),
    "Constant": model(constant("w", W)),
    "default of an input": default_of_an_input(),
    "sparse initializer": sparse(),
    "Cast from float16": model(node("Cast", "h", "w", to=FLOAT), h=W.astype(np.float16)),
    "Cast from float64": model(node("Cast", "h", "w", to=FLOAT), h=W.astype(np.float64)),
    "Cast from bfloat16": bfloat16(),
    "Transpose": model(node("Transpose", "t", "w", perm=[1, 0]), t=np.ascontiguousarray(W.T)),
    "Reshape of a constant": model(
        constant("c", W.reshape(-1)), node("Reshape", "c s", "w"), s=np.array([6, 3], np.int64)
    ),
    "DequantizeLinear": model(
        node("DequantizeLinear", "q s", "w"), q=(W * 8).astype(np.int8), s=np.array(0.125, np.float32)
    ),
    "Identity": model(node("Identity", "i", "w"), i=W),
    "a long chain": model(
        constant("c", W.T.astype(np.float16).copy()),
        node("Cast", "c", "f", to=FLOAT),
        node("Mul", "f two", "g"),
        node("Add", "g g", "h"),
        node("Div", "h four", "k"),
        node("Slice", "k zero end", "m"),
        node("Concat", "m rest", "n", axis=0),
        node("Transpose", "n", "w", perm=[1, 0]),
        two=np.array(2, np.float32),
        four=np.array(4, np.float32),
        zero=np.array([0], np.int64),
        end=np.array([2], np.int64),
        rest=np.ascontiguousarray(W.T[2:]),
    ),
}


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


def outputs(model: onnx.ModelProto, save: Save, layers: int) -> dict[str, Any]:
    """Outputs of the program for the target ``ideal``, which has so many layers."""
    program = compile_model(save(model), "ideal").program
    assert len(program.layers) == layers
    return memcompile.Emulator(program).run(X)


@pytest.mark.parametrize("name", SOURCES)
def test_weights_from_anywhere(name: str, save_model: Save) -> None:
    # All weights and inputs are small dyadic numbers: products are exact.
    assert np.array_equal(outputs(SOURCES[name], save_model, 1)["y"], X["x"] @ W)


def test_layers_of_half_precision(save_model: Save) -> None:
    nodes = [node("Cast", "x", "h", to=F16), node("MatMul", "h w", "m"), node("Cast", "m", "y", to=FLOAT)]
    made = make(nodes, {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, ("N", 3))}, {"w": W.astype(np.float16)})
    got = outputs(made, save_model, 1)["y"]
    assert np.allclose(got, stages.reference(made, X)["y"], rtol=2**-10, atol=2**-10)  # float16 has 11 significant bits


def test_weights_shared_by_layers_are_stored_once_in_memory(save_model: Save) -> None:
    nodes = [node("MatMul", "x v", "a"), node("MatMul", "a v", "b"), node("MatMul", "b w", "y")]
    square = dyadic(np.random.default_rng(2), (6, 6))
    made = make(nodes, {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, ("N", 3))}, {"v": square, "w": W})
    want = X["x"].astype(np.float64) @ square @ square @ W
    assert np.allclose(outputs(made, save_model, 3)["y"], want, rtol=1e-5)


def info(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def subgraphs() -> dict[str, onnx.NodeProto]:
    """Products inside Loop, Scan and If; ``w`` comes from outside."""
    loop = helper.make_graph(
        [node("MatMul", "v w", "m"), node("MatMul", "m u", "vo"), node("Identity", "c", "co")],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", FLOAT, ["N", 6])],
        [info("co", TensorProto.BOOL, []), info("vo", FLOAT, ["N", 6])],
    )
    scan = helper.make_graph(
        [
            node("MatMul", "row w", "m"),
            node("MatMul", "m u", "o"),
            node("Add", "s o", "so"),
            node("Identity", "o", "oo"),
        ],
        "body",
        [info("s", FLOAT, [6]), info("row", FLOAT, [6])],
        [info("so", FLOAT, [6]), info("oo", FLOAT, [6])],
    )
    branches = [
        helper.make_graph(
            [node("MatMul", "x w", "m"), node("MatMul", "m u", name)], name, [], [info(name, FLOAT, ["N", 6])]
        )
        for name in ("p", "q")
    ]
    return {
        "Loop": helper.make_node("Loop", ["n", "t", "x"], ["l"], body=loop),
        "Scan": helper.make_node("Scan", ["z", "x"], ["end", "l"], body=scan, num_scan_inputs=1),
        "If": helper.make_node("If", ["t"], ["l"], then_branch=branches[0], else_branch=branches[1]),
    }


@pytest.mark.parametrize("kind", ["Loop", "Scan", "If"])
def test_subgraphs_feed_layers(kind: str, save_model: Save) -> None:
    weights = {"w": W, "u": np.ascontiguousarray(W.T) / 8, "z": np.zeros(6, np.float32)}
    weights |= {"n": np.array(2, np.int64), "t": np.array(True)}
    nodes = [subgraphs()[kind], node("MatMul", "l w", "y")]
    made = make(nodes, {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, ("N", 3))}, weights)
    want = stages.reference(made, X)["y"]
    # The condition of the If and the runs of the Loop are constant, so that they are written out.
    layers = {"If": 3, "Loop": 5, "Scan": 1}[kind]
    assert np.allclose(outputs(made, save_model, layers)["y"], want, rtol=1e-5, atol=1e-5)


def test_layers_inside_functions_are_found(save_model: Save) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function(
        "own", "dense", ["a", "b"], ["c"], [node("MatMul", "a b", "d"), node("Relu", "d", "c")], opsets
    )
    calls = [helper.make_node("dense", ["a", "v"], ["h"], domain="own"), node("MatMul", "h w", "c")]
    outer = helper.make_function("own", "net", ["a", "v", "w"], ["c"], calls, opsets)
    square = dyadic(np.random.default_rng(2), (6, 6))
    made = make(
        [helper.make_node("net", ["x", "v", "w"], ["y"], domain="own")],
        {"x": (FLOAT, ("N", 6))},
        {"y": (FLOAT, ("N", 3))},
        {"v": square, "w": W},
        extra_opsets=[("own", 1)],
    )
    made.functions.extend([inner, outer])
    assert np.allclose(outputs(made, save_model, 2)["y"], np.maximum(X["x"] @ square, 0) @ W, rtol=1e-5)


def test_weights_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(model(w=W), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= W.nbytes
    program = compile_model(path, "ideal").program
    assert np.array_equal(memcompile.Emulator(program).run(X)["y"], X["x"] @ W)
