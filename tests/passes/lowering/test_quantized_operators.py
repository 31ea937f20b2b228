"""Quantised operators keep their own numbers on crossbars, and say so where the target cannot hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import numpy as np
import onnx
import pytest
import stages
from factories import make_target
from models import make, node
from onnx import TensorProto

from memcompile.ir.graph import LinearLayer, OnnxNode
from memcompile.passes.select_crossbar_operators import reason_to_stay_digital
from memcompile.pipelines import compile_model
from memcompile.report.explain import Explanation
from memcompile.runtime.emulator import Emulator
from memcompile.verify.interpreter import Interpreter

RNG = np.random.default_rng(97)
UINT8, INT8, INT32, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.FLOAT
NUMPY = {UINT8: np.uint8, INT8: np.int8}


def numbers(kind: int, shape: tuple[int, ...]) -> np.ndarray:
    low = -128 if kind == INT8 else 0
    return RNG.integers(low, low + 256, shape).astype(NUMPY[kind])


def scalar(kind: int, value: int) -> np.ndarray:
    return np.array(value, NUMPY[kind])


def qlinear_conv(
    kind: int = UINT8, zero: int = 3, weight_kind: int = INT8, per_channel: bool = True, **attributes: Any
) -> tuple[onnx.ModelProto, stages.Feeds]:
    groups = attributes.get("group", 1)
    weights = {
        "xs": np.array(0.02, np.float32),
        "xz": scalar(kind, zero),
        "w": numbers(weight_kind, (6, 4 // groups, 3, 3)),
        "ws": RNG.uniform(0.001, 0.01, 6).astype(np.float32) if per_channel else np.array(0.004, np.float32),
        "wz": np.zeros(6, np.int8) if per_channel else scalar(weight_kind, 0 if weight_kind == INT8 else 131),
        "ys": np.array(0.1, np.float32),
        "yz": scalar(kind, 100 if kind == UINT8 else -7),
        "b": RNG.integers(-3000, 3000, 6).astype(np.int32),
    }
    operator = node("QLinearConv", "x xs xz w ws wz ys yz b", "y", **attributes)
    shape = ("N", 4, 6, 6)
    return make([operator], {"x": (kind, shape)}, {"y": (kind, None)}, weights), {"x": numbers(kind, (3, 4, 6, 6))}


def qlinear_matmul() -> tuple[onnx.ModelProto, stages.Feeds]:
    weights = {
        "xs": np.array(0.02, np.float32), "xz": scalar(INT8, -5), "w": numbers(INT8, (9, 4)),
        "ws": np.array(0.01, np.float32), "wz": scalar(INT8, 2), "ys": np.array(0.2, np.float32), "yz": scalar(INT8, 9),
    }  # fmt: skip
    operator = node("QLinearMatMul", "x xs xz w ws wz ys yz", "y")
    return make([operator], {"x": (INT8, ("N", 9))}, {"y": (INT8, None)}, weights), {"x": numbers(INT8, (5, 9))}


def conv_integer(zero: int) -> tuple[onnx.ModelProto, stages.Feeds]:
    weights = {"w": numbers(UINT8, (3, 2, 3)), "xz": scalar(UINT8, zero), "wz": scalar(UINT8, 120)}
    operator = node("ConvInteger", "x w xz wz", "y", pads=[2, 1], strides=[2])
    shape = {"x": (UINT8, ("N", 2, 9))}
    return make([operator], shape, {"y": (INT32, None)}, weights), {"x": numbers(UINT8, (2, 2, 9))}


def matmul_integer(zeros: bool) -> tuple[onnx.ModelProto, stages.Feeds]:
    weights = {"w": numbers(INT8, (7, 5))}
    if zeros:
        weights |= {"xz": scalar(UINT8, 9), "wz": np.array([1, -1, 0, 5, 3], np.int8)}
    operator = node("MatMulInteger", "x w xz wz" if zeros else "x w", "y")
    return make([operator], {"x": (UINT8, ("N", 7))}, {"y": (INT32, None)}, weights), {"x": numbers(UINT8, (4, 7))}


CASES: dict[str, tuple[onnx.ModelProto, stages.Feeds]] = {
    "QLinearConv": qlinear_conv(),
    "QLinearConv, padded": qlinear_conv(pads=[1, 0, 2, 1], strides=[2, 1]),
    "QLinearConv, groups": qlinear_conv(group=2, dilations=[2, 1], pads=[2, 1, 2, 1]),
    "QLinearConv, signed": qlinear_conv(INT8, -3, pads=[1, 1, 1, 1]),
    "QLinearConv, unsigned weights": qlinear_conv(UINT8, 0, UINT8, per_channel=False),
    "QLinearMatMul": qlinear_matmul(),
    "ConvInteger": conv_integer(0),
    "ConvInteger, zero point": conv_integer(7),
    "MatMulInteger": matmul_integer(False),
    "MatMulInteger, zero points": matmul_integer(True),
}
EXACT = [name for name in CASES if "Integer" in name]


def assert_close(got: np.ndarray, want: np.ndarray, name: str) -> None:
    """Sums of whole numbers are exact; a rescaled one may round the other way, by one level."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    difference = np.abs(got.astype(np.int64) - want.astype(np.int64))
    assert difference.max() <= (0 if name in EXACT else 1)
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("name", CASES)
def test_selection_keeps_what_they_compute(name: str) -> None:
    model, feeds = CASES[name]
    graph = stages.after("select_crossbar_operators", model, feeds)
    (layer,) = (item for item in graph.nodes if isinstance(item, LinearLayer))
    assert layer.integer
    assert np.array_equal(layer.weight, np.rint(layer.weight))
    assert_close(Interpreter(graph).run(feeds)["y"], stages.reference(stages.exact(model), feeds)["y"], name)


@pytest.mark.parametrize("target", ["ideal", "yao2020"])
@pytest.mark.parametrize("name", CASES)
def test_own_scales_are_kept_where_the_slices_reach(
    name: str, target: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Three slices reach 266 at base 6, 1,687 at most; the largest byte less its zero point is 255."""
    model, feeds = CASES[name]
    np.savez(tmp_path / "d.npz", **feeds)
    explanation = Explanation()
    slices = 1 if target == "ideal" else 3
    program = compile_model(
        save_model(model), target, data=tmp_path / "d.npz", slices=slices, instruments=(explanation,)
    ).program
    want = stages.reference(stages.exact(model), feeds)["y"]
    for executor in ("fast", "literal"):
        assert_close(Emulator.ideal(program, executor=executor).run(feeds)["y"], want, name)
    exported.assert_agrees(program, feeds, seed=2)
    assert explanation.fates[0].side == "analog"
    assert explanation.fates[0].why.endswith("whole numbers and scales are the model's own")


def test_weights_that_one_slice_cannot_hold_are_requantised_and_this_is_said(
    save_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, feeds = CASES["MatMulInteger"]
    np.savez(tmp_path / "d.npz", **feeds)
    explanation = Explanation()
    program = compile_model(save_model(model), data=tmp_path / "d.npz", instruments=(explanation,)).program
    assert "weights are requantised: they reach 1" in explanation.fates[0].why
    got, want = Emulator.ideal(program).run(feeds)["y"], stages.reference(stages.exact(model), feeds)["y"]
    assert got.dtype == np.int32
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_inputs_of_fewer_bits_are_requantised_and_this_is_said(save_model: Callable[..., Path], tmp_path: Path) -> None:
    model, feeds = CASES["MatMulInteger"]
    np.savez(tmp_path / "d.npz", **feeds)
    explanation = Explanation()
    compile_model(
        save_model(model), make_target(input={"bits": 6}), data=tmp_path / "d.npz", slices=3, instruments=(explanation,)
    )
    assert "inputs are requantised: the target applies fewer than 8 bits" in explanation.fates[0].why


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Gemm"])
def test_float_operators_between_quantizers_read_the_bytes(operator: str, per_channel: bool) -> None:
    shape, matrix, axis, attributes = {
        "Conv": ((3, 4, 6, 6), (5, 4, 3, 3), 0, {"pads": [1, 1, 1, 1]}),
        "MatMul": ((3, 9), (9, 5), 1, {}),
        "Gemm": ((3, 9), (5, 9), 0, {"transB": 1}),
    }[operator]
    weights = {
        "xs": np.array(0.03, np.float32), "xz": scalar(UINT8, 12), "wq": numbers(INT8, matrix),
        "ws": RNG.uniform(0.01, 0.1, 5).astype(np.float32) if per_channel else np.array(0.02, np.float32),
        "wz": np.zeros(5, np.int8) if per_channel else scalar(INT8, 1),
        "b": RNG.uniform(-1, 1, 5).astype(np.float32),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x xs xz", "q"),
        node("DequantizeLinear", "q xs xz", "d"),
        node("DequantizeLinear", "wq ws wz", "w", axis=axis),
        node(operator, "d w" if operator == "MatMul" else "d w b", "y", **attributes),
    ]
    model = make(nodes, {"x": (FLOAT, ("N", *shape[1:]))}, {"y": (FLOAT, None)}, weights)
    feeds = {"x": RNG.uniform(-1, 6, shape).astype(np.float32)}
    graph = stages.after("remove_dead_nodes", model, feeds, slices=3)
    stages.assert_matches(graph, model, feeds)
    (layer,) = (item for item in graph.nodes if isinstance(item, LinearLayer))
    assert layer.integer
    assert layer.inputs == ("q",)
    assert "DequantizeLinear" not in stages.kinds(graph)
    (layer,) = (
        item
        for item in stages.after("remove_dead_nodes", model, feeds, slices=2).nodes
        if isinstance(item, LinearLayer)
    )
    assert not layer.integer, "two slices reach 112"


REASONS = {
    "its scales or zero points are not static": make(
        [node("ReduceMax", "x", "m", keepdims=0), node("Sub", "m m", "xz"), node("MatMulInteger", "x w xz", "y")],
        {"x": (UINT8, ("N", 7))}, {"y": (INT32, None)}, {"w": numbers(INT8, (7, 5))}, opset=18,
    ),
    "its weights are not one matrix": make(
        [node("MatMulInteger", "x w", "y")],
        {"x": (UINT8, ("N", 7))}, {"y": (INT32, None)}, {"w": numbers(INT8, (2, 7, 5))},
    ),
    "its weights are not static": make(
        [node("MatMulInteger", "x x", "y")], {"x": (UINT8, (7, 7))}, {"y": (INT32, None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_reason_to_stay_digital(reason: str) -> None:
    graph = stages.import_model(REASONS[reason], {"x": numbers(UINT8, (7, 7))})
    operator = next(item for item in graph.nodes if item.kind == "MatMulInteger")
    assert isinstance(operator, OnnxNode)
    assert reason_to_stay_digital(operator, graph) == reason
