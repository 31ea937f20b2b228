"""Multiply-adds by hand, and which of them are on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import node
from onnx import TensorProto, helper, numpy_helper

from memcompile.cli.main import main
from memcompile.pipelines import Compilation, compile_model
from memcompile.report.explain import Explanation
from memcompile.report.facts import program_facts

RNG = np.random.default_rng(151)


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def network(nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], weights: dict[str, Any]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "counted", [value("x", shape=shape)], [value("y")], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def contrib(op_type: str, inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), ["y"], domain="com.microsoft", name="y", **attributes)


LOOP_BODY = helper.make_graph(
    [node("MatMul", "state w", "out"), node("Identity", "go", "on")],
    "body",
    [value("i", TensorProto.INT64, ()), value("go", TensorProto.BOOL, ()), value("state")],
    [value("on", TensorProto.BOOL, ()), value("out")],
)
SCAN_BODY = helper.make_graph(
    [node("MatMul", "row w", "r"), node("Add", "r state", "next"), node("Identity", "next", "seen")],
    "body",
    [value("state", shape=[1, 4]), value("row", shape=[1, 8])],
    [value("next", shape=[1, 4]), value("seen", shape=[1, 4])],
)
ONCE_BODY = helper.make_graph(
    [node("MatMul", "state w", "next"), node("Identity", "no", "stop")],
    "body",
    [value("number", TensorProto.INT64, []), value("go_in", TensorProto.BOOL, []), value("state", shape=[1, 8])],
    [value("stop", TensorProto.BOOL, []), value("next", shape=[1, 8])],
)
COUNTED: dict[str, tuple[onnx.ModelProto, int, int]] = {
    "gemm": (network([node("Gemm", "x w", "y")], ("N", 8), {"w": floats(8, 4)}), 8 * 4, 8 * 4),
    "convolution in groups": (
        network([node("Conv", "x w", "y", group=2, pads=[1, 1, 1, 1])], ("N", 4, 5, 6), {"w": floats(6, 2, 3, 3)}),
        5 * 6 * 6 * 2 * 9, 5 * 6 * 6 * 2 * 9,
    ),
    "transposed convolution": (
        network([node("ConvTranspose", "x w", "y", strides=[2, 2])], ("N", 3, 4, 5), {"w": floats(3, 2, 3, 3)}),
        3 * 4 * 5 * 2 * 9, 3 * 4 * 5 * 2 * 9,
    ),
    "product of two values": (
        network([node("MatMul", "x w", "a"), node("Transpose", "a", "t", perm=[0, 2, 1]), node("MatMul", "a t", "y")],
                ("N", 5, 8), {"w": floats(8, 4)}),
        5 * 8 * 4 + 5 * 4 * 5, 5 * 8 * 4,
    ),
    "einsum": (
        network([node("Einsum", "x w", "y", equation="bti,hio->btho")], ("N", 3, 4), {"w": floats(2, 4, 5)}),
        3 * 2 * 4 * 5, 3 * 2 * 4 * 5,
    ),
    "multiplied and summed": (
        network([node("Mul", "x w", "p"), node("ReduceSum", "p axes", "y")], ("N", 8),
                {"w": floats(8), "axes": np.array([1])}),
        8, 8,
    ),
    "recurrent, too long for arrays": (
        network([node("Transpose", "x", "t", perm=[1, 0, 2]), node("LSTM", "t w r", "y", hidden_size=3)], ("N", 300, 5),
                {"w": floats(1, 12, 5), "r": floats(1, 12, 3)}),
        300 * 12 * (5 + 3), 0,
    ),
    "attention": (
        network([contrib("Attention", "x w b", num_heads=2)], ("N", 5, 8), {"w": floats(8, 24), "b": floats(24)}),
        5 * 8 * 24 + 2 * 5 * 5 * 8, 5 * 8 * 24,
    ),
    "weights of few bits": (
        network([contrib("MatMulNBits", "x w s", K=32, N=3, bits=4, block_size=16)], ("N", 32),
                {"w": np.ones((3, 2, 8), np.uint8), "s": np.ones(6, np.float32)}),
        32 * 3, 32 * 3,
    ),
    "body of a loop": (
        network([helper.make_node("Loop", ["six", "go", "x"], ["y"], body=LOOP_BODY, name="loop")], (1, 8),
                {"w": floats(8, 8), "six": np.array(6, np.int64), "go": np.array(True)}),
        6 * 8 * 8, 6 * 8 * 8,
    ),
    "body of a loop with many runs": (
        network([helper.make_node("Loop", ["many", "go", "x"], ["y"], body=LOOP_BODY, name="loop")], (1, 8),
                {"w": floats(8, 8), "many": np.array(600, np.int64), "go": np.array(True)}),
        600 * 8 * 8, 0,
    ),
    "body of a loop that ends by its condition": (
        network([node("ReduceSum", "x", "s", keepdims=0), node("Less", "s large", "go"),
                 helper.make_node("Loop", ["most", "go", "x"], ["y"], body=ONCE_BODY, name="loop")],
                (1, 8), {"w": floats(8, 8), "most": np.array(2**63 - 1, np.int64), "large": np.float32(1e9),
                         "no": np.array(False)}),
        8 * 8, 0,
    ),
    "body of a scan": (
        network([node("Transpose", "x", "t", perm=[1, 0, 2]),
                 helper.make_node("Scan", ["s", "t"], ["e", "y"], body=SCAN_BODY, num_scan_inputs=1, name="scan")],
                (1, 7, 8), {"w": floats(8, 4), "s": floats(1, 4)}),
        7 * 8 * 4, 7 * 8 * 4,
    ),
    "nothing to multiply": (network([node("Relu", "x", "y")], ("N", 8), {}), 0, 0),
}  # fmt: skip


def compiled(model: onnx.ModelProto, save_model: Callable[..., Path], *instruments: Any) -> Compilation:
    return compile_model(save_model(model), "ideal", instruments=instruments)


@pytest.mark.parametrize("name", COUNTED)
def test_counted_by_hand(name: str, save_model: Callable[..., Path]) -> None:
    model, total, on_arrays = COUNTED[name]
    program = compiled(model, save_model).program
    assert (program.provenance.multiply_adds, program.provenance.multiply_adds_on_arrays) == (total, on_arrays)
    share = on_arrays / total if total else None
    assert program_facts(program)["multiply_adds"] == {
        "total": total, "on_arrays": on_arrays, "share_on_arrays": share,
    }  # fmt: skip


def branches() -> onnx.ModelProto:
    """A large branch and a small one, by a condition of the input."""
    large = helper.make_graph(
        [node("Gemm", "x w1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2", "t")], "t", [], [value("t")]
    )
    small = helper.make_graph([node("Gemm", "x w3", "e")], "e", [], [value("e")])
    nodes = [node("Gemm", "x w3", "a"), node("ReduceMax", "a", "m", keepdims=0), node("Greater", "m zero", "c")]
    nodes += [node("If", "c", "b", then_branch=large, else_branch=small), node("Add", "a b", "y")]
    weights = {"w1": floats(8, 16), "w2": floats(16, 4), "w3": floats(8, 4), "zero": np.float32(0)}
    return network(nodes, ("N", 8), weights)


def test_of_two_branches_the_larger_one_counts_and_both_are_named(save_model: Callable[..., Path]) -> None:
    explanation = Explanation()
    compilation = compiled(branches(), save_model, explanation)
    total = 8 * 4 + 8 * 16 + 16 * 4
    assert compilation.program.provenance.multiply_adds == total
    assert compilation.program.provenance.multiply_adds_on_arrays == 8 * 4
    explanation.weigh(compilation.multiply_adds)
    fate = next(fate for fate in explanation.fates if fate.operator == "If")
    assert fate.share == pytest.approx((8 * 16 + 16 * 4) / total)
    for operator, count in (("Gemm_h", 8 * 16), ("Gemm_t", 16 * 4), ("Gemm_e", 8 * 4)):
        place = "else_branch" if operator == "Gemm_e" else "then_branch"
        assert f"Gemm {operator!r} in its {place} has {count / total:.1%} of the multiply-adds" in fate.why


def test_the_report_says_it(
    save_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(save_model(branches()))
    assert main([path, "-o", str(tmp_path / "p.mcp"), "--no-evaluation", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "multiply-adds    224 an image, 14.29% of them on arrays" in out
    assert "85.7%" in out
    assert main([str(save_model(COUNTED["gemm"][0])), "-o", str(tmp_path / "p.mcp"), "--no-evaluation"]) == 0
    assert "an image, " not in capsys.readouterr().out.partition("chips")[0]
