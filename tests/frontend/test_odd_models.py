"""Any network that onnxruntime runs is compiled, however odd; what is digital stays exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exported
import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, make, node
from onnx import TensorProto, helper

import memcompile
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import evaluate
from memcompile.report.facts import facts_json, program_facts

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(71)
W, V = dyadic(RNG, (6, 3)), dyadic(RNG, (3, 3))
X = {"x": models.images((8, 6))}


@dataclass
class Odd:
    """A model, its data, its crossbar layers, and whether its outputs come out exact."""

    nodes: list[onnx.NodeProto]
    outputs: dict[str, Any]
    weights: dict[str, np.ndarray] = field(default_factory=lambda: {"w": W, "v": V})
    inputs: dict[str, Any] = field(default_factory=lambda: {"x": (FLOAT, ("N", 6))})
    feeds: dict[str, np.ndarray] = field(default_factory=lambda: X)
    layers: tuple[str, ...] = ("MatMul_a",)
    exact: tuple[str, ...] = ()


PRODUCT = node("MatMul", "x w", "a")
BRANCH = {
    name: helper.make_graph(
        [helper.make_node(kind, ["a"], ["r"])], name, [], [helper.make_tensor_value_info("r", FLOAT, ["N", 3])]
    )
    for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
}
MODELS: dict[str, Odd] = {
    "an output is an input": Odd([PRODUCT], {"a": (FLOAT, ("N", 3)), "x": (FLOAT, ("N", 6))}, exact=("x",)),
    "an output is constant": Odd([PRODUCT], {"a": (FLOAT, ("N", 3)), "w": (FLOAT, (6, 3))}, exact=("w",)),
    "nothing depends on the input": Odd([PRODUCT], {"w": (FLOAT, (6, 3))}, layers=(), exact=("w",)),
    "no layers": Odd([node("Relu", "x", "y")], {"y": (FLOAT, ("N", 6))}, {}, layers=(), exact=("y",)),
    "fixed batch": Odd(
        [node("Relu", "x", "r"), node("MatMul", "r w", "a")], {"a": (FLOAT, (8, 3))}, inputs={"x": (FLOAT, (8, 6))}
    ),
    "two inputs": Odd(
        [PRODUCT, node("Add", "a z", "y")],
        {"y": (FLOAT, ("N", 3))},
        inputs={"x": (FLOAT, ("N", 6)), "z": (FLOAT, ("N", 3))},
        feeds={**X, "z": models.images((8, 3))},
    ),
    "embedding": Odd(
        [node("Gather", "table x", "g", axis=0), node("MatMul", "g w", "a")],
        {"a": (FLOAT, ("N", 5, 3))},
        {"w": W, "table": dyadic(RNG, (4, 6))},
        {"x": (TensorProto.INT64, ("N", 5))},
        {"x": RNG.integers(0, 4, (8, 5))},
    ),
    "pixels as bytes": Odd(
        [node("Cast", "x", "f", to=FLOAT), node("MatMul", "f w", "a")],
        {"a": (FLOAT, ("N", 3))},
        inputs={"x": (TensorProto.UINT8, ("N", 6))},
        feeds={"x": RNG.integers(0, 255, (8, 6)).astype(np.uint8)},
    ),
    "one vector without a batch": Odd(
        [node("MatMul", "x w", "y")],
        {"y": (FLOAT, (3,))},
        inputs={"x": (FLOAT, (6,))},
        feeds={"x": models.images((6,))},
        layers=("MatMul_y",),
    ),
    "weights that callers may override": Odd(
        [PRODUCT], {"a": (FLOAT, ("N", 3))}, inputs={"x": (FLOAT, ("N", 6)), "w": (FLOAT, (6, 3))}
    ),
    "one weight in two layers": Odd(
        [PRODUCT, node("MatMul", "a v", "b"), node("MatMul", "b v", "y")],
        {"y": (FLOAT, ("N", 3))},
        layers=("MatMul_a", "MatMul_b", "MatMul_y"),
    ),
    "the batch merged with another axis": Odd(
        [node("Reshape", "x s", "r"), node("MatMul", "r v", "a"), node("Reshape", "a t", "y")],
        {"y": (FLOAT, ("N", 6))},
        {"v": V, "s": np.array([-1, 3], np.int64), "t": np.array([-1, 6], np.int64)},
    ),
    "the batch on another axis": Odd(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("MatMul", "t w", "a"),
            node("Transpose", "a", "y", perm=[1, 0, 2]),
        ],
        {"y": (FLOAT, ("N", 5, 3))},
        inputs={"x": (FLOAT, ("N", 5, 6))},
        feeds={"x": models.images((8, 5, 6))},
    ),
    "classes instead of scores": Odd(
        [PRODUCT, node("ArgMax", "a", "y", axis=1, keepdims=0)], {"y": (TensorProto.INT64, ("N",))}
    ),
    "truth values": Odd(
        [PRODUCT, node("Greater", "a zero", "y")],
        {"y": (TensorProto.BOOL, ("N", 3))},
        {"w": W, "zero": np.array(0, np.float32)},
    ),
    "a size that data decide": Odd(
        [node("Conv", "x k", "c")],
        {"c": (FLOAT, ("N", 3, None, None))},
        {"k": dyadic(RNG, (3, 1, 3, 3))},
        {"x": (FLOAT, ("N", 1, "H", "W"))},
        {"x": models.images((8, 1, 5, 7))},
        ("Conv_c",),
    ),
    "a sequence inside a group": Odd(
        [PRODUCT, node("SequenceConstruct", "a a", "s"), node("ConcatFromSequence", "s", "y", axis=1)],
        {"y": (FLOAT, ("N", 6))},
    ),
    "a branch": Odd(
        [
            PRODUCT,
            node("ReduceMax", "x", "peak", keepdims=0, axes=[0, 1]),
            node("Greater", "peak zero", "yes"),
            helper.make_node("If", ["yes"], ["y"], name="choice", **BRANCH),
        ],
        {"y": (FLOAT, ("N", 3))},
        {"w": W, "zero": np.array(0, np.float32)},
    ),
    "operators without names": Odd(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y"])],
        {"y": (FLOAT, ("N", 3))},
        layers=("a", "y"),
    ),
    "an operator named like the result of another": Odd(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="y"),
            helper.make_node("MatMul", ["a", "v"], ["y"]),
        ],
        {"y": (FLOAT, ("N", 3))},
        layers=("y", "y_2"),
    ),
    "weights of zero": Odd([PRODUCT], {"a": (FLOAT, ("N", 3))}, {"w": 0 * W}, exact=("a",)),
    "very small weights": Odd([PRODUCT], {"a": (FLOAT, ("N", 3))}, {"w": W * np.float32(1e-37)}),
    "very large weights": Odd([PRODUCT], {"a": (FLOAT, ("N", 3))}, {"w": W * np.float32(1e37)}),
    "data of zero": Odd([PRODUCT], {"a": (FLOAT, ("N", 3))}, feeds={"x": 0 * X["x"]}, exact=("a",)),
}


def model_of(odd: Odd) -> onnx.ModelProto:
    read = {name: value for name, value in odd.weights.items() if name in str(odd.nodes) or name in odd.outputs}
    return make(odd.nodes, odd.inputs, odd.outputs, read)


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


@pytest.mark.parametrize("name", MODELS)
def test_odd_model_compiles_and_runs(name: str, save_model: Callable[..., Path], tmp_path: Path) -> None:
    odd = MODELS[name]
    np.savez(tmp_path / "d.npz", **odd.feeds)
    compilation = compile_model(save_model(model_of(odd)), data=tmp_path / "d.npz")
    program = compilation.program
    assert tuple(layer.name for layer in program.layers) == odd.layers
    want = stages.reference(model_of(odd), odd.feeds)
    got = memcompile.Emulator.ideal(program).run(odd.feeds)
    assert list(got) == list(want)
    for output, value in want.items():
        have = got[output]
        assert have.dtype == value.dtype
        if output in odd.exact:
            assert np.array_equal(have, value)
        else:
            # Up to three layers of 8-bit inputs; the weights have 15 levels and lose nothing.
            assert stages.signal_to_noise_db(value, have) > 30
    memcompile.Emulator(program, seed=1).run(odd.feeds)
    exported.assert_agrees(program, odd.feeds, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_odd_model_is_evaluated_and_reported(name: str, save_model: Callable[..., Path], tmp_path: Path) -> None:
    odd = MODELS[name]
    np.savez(tmp_path / "d.npz", **odd.feeds)
    compilation = compile_model(save_model(model_of(odd)), data=tmp_path / "d.npz")
    evaluation = evaluate(compilation.program, compilation.model, compilation.dataset, seeds=1)
    assert evaluation.quality is not None
    assert evaluation.quality.outputs.keys() <= set(odd.outputs)
    assert facts_json(program_facts(compilation.program, evaluation))


def test_a_fixed_batch_larger_than_the_made_up_samples(save_model: Callable[..., Path]) -> None:
    nodes = [node("Relu", "x", "r"), node("MatMul", "r w", "a")]
    path = save_model(make(nodes, {"x": (FLOAT, (16, 6))}, {"a": (FLOAT, (16, 3))}, {"w": W}))
    compilation = compile_model(path)
    assert evaluate(compilation.program, compilation.model, compilation.dataset, seeds=1).quality is not None


@pytest.mark.parametrize("field", ["shape", "type"])
def test_an_output_needs_no_declared_shape_or_type(field: str, save_model: Callable[..., Path]) -> None:
    model = make([PRODUCT], {"x": (FLOAT, ("N", 6))}, {"a": (FLOAT, ("N", 3))}, {"w": W})
    value = model.graph.output[0]
    value.ClearField("type") if field == "type" else value.type.tensor_type.ClearField("shape")
    program = compile_model(save_model(model), "ideal").program
    assert np.array_equal(memcompile.Emulator(program).run(X)["a"], X["x"] @ W)
