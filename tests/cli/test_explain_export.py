"""Reasons for the place of each operator, and conductances for real arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.cli.main import main
from memcompile.export.conductances import conductance_arrays
from memcompile.pipelines import compile_model
from memcompile.report.explain import Explanation
from memcompile.report.lookup import find_weight

QUICK = ("--set", "replicate.effort=fast", "--max-loss", "none")


def test_every_operator_is_explained() -> None:
    explanation = Explanation()
    compile_model(MODEL, instruments=(explanation,), settings=("replicate.effort=fast",))
    sides = {fate.name: (fate.side, fate.why) for fate in explanation.fates}
    assert sides["C1"] == ("analog", "linear operator with static weights")
    assert sides["relu1"] == ("digital", "not a linear operator with weights")
    assert len(sides) == 8


def test_folded_operators_are_explained(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.ones((4, 3), np.float64), "w64")
    nodes = [
        helper.make_node("Cast", ["w64"], ["w"], name="cast", to=kinds.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Add", ["y", "offset"], ["z"], name="offset_add"),
        helper.make_node("MatMul", ["z", "z_t"], ["out"], name="score"),
        helper.make_node("Transpose", ["z"], ["z_t"], name="turn"),
    ]
    offset = onnx.numpy_helper.from_array(np.ones(3, np.float32), "offset")
    nodes[3], nodes[4] = nodes[4], nodes[3]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("out", kinds.FLOAT, [None, None])],
        [weight, offset],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    explanation = Explanation()
    compile_model(path, instruments=(explanation,))
    sides = {fate.name: (fate.side, fate.why) for fate in explanation.fates}
    assert sides["cast"][0] == "folded"
    assert "compile time" in sides["cast"][1]
    assert sides["product"][0] == "analog"
    assert "merged" in sides["offset_add"][1]
    assert sides["score"] == ("digital", "its weights are not static")


def test_exported_conductances_are_what_show_says(tmp_path: Path) -> None:
    program = memcompile.compile(MODEL, slices=2, settings=("replicate.effort=fast",))
    arrays = conductance_arrays(program)
    columns = list(arrays["index_columns"])
    seen = {tuple(row[[columns.index(c) for c in ("array", "input_line", "output_line")]]) for row in arrays["index"]}
    assert len(seen) == len(arrays["index"])
    per_chip = program.target.chip.arrays
    for layer, output, kernel_input in (("C1", 3, 4), ("C3", 11, 71), ("FC", 0, 100)):
        for cell in find_weight(program, layer, output, kernel_input):
            place = (cell.chip * per_chip + cell.array, cell.input_line, cell.output_line)
            assert place in seen
            assert arrays["conductances_us"][place] == pytest.approx(cell.conductance_us)


def test_export_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(MODEL), "-o", "net.mcp", "--no-evaluation", "--explain", *QUICK]) == 0
    assert "analog" in capsys.readouterr().out
    assert main(["export", "net.mcp", "--npz", "cells.npz"]) == 0
    with np.load("cells.npz") as cells:
        assert cells["conductances_us"].shape[1:] == (16, 128)
        assert cells["conductances_us"].min() == 2.0


def test_run_says_which_method_each_layer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(MODEL), "-o", "net.mcp", "--no-evaluation", "--quiet", *QUICK]) == 0
    assert main(["run", "net.mcp", "--images", "5", "--time", "2h", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["C1", "C3", "FC"]
    assert main(["run", "net.mcp", "--time", "soon"]) == 2
    assert "is not a duration" in capsys.readouterr().err
