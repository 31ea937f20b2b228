"""Inputs that are made constants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import memcompile
from memcompile.cli.main import main
from memcompile.cli.values import input_words
from memcompile.data.source import read_source
from memcompile.errors import UsageError
from memcompile.exploration.runs.study import Study
from memcompile.frontend.sources import open_network
from memcompile.hardware.target import load_target
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

FAST, SLOW = 16000, 8000


def branch(weight: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    return helper.make_graph([models.node("MatMul", f"x {weight}", "b")], "branch", [], [out])


def network() -> onnx.ModelProto:
    """A layer for each sampling rate, as voice detectors have them, and a gain of three elements."""
    rng = np.random.default_rng(0)
    weights = {name: models.dyadic(rng, (6, 3)) for name in ("fast", "slow")} | {"rate": np.array(FAST)}
    nodes = [
        models.node("Equal", "sr rate", "is_fast"),
        models.node("If", "is_fast", "h", then_branch=branch("fast"), else_branch=branch("slow")),
        models.node("Mul", "h gain", "y"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6]),
        helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        helper.make_tensor_value_info("gain", TensorProto.FLOAT, [3]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "rates", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FROZEN: Mapping[str, Any] = {"sr": SLOW, "gain": [1.0, 2.0, -1.0]}


@pytest.mark.parametrize(("rate", "layer"), [(FAST, "fast"), (SLOW, "slow")])
def test_the_branch_that_runs_is_compiled(rate: int, layer: str) -> None:
    model = network()
    compiled = compile_model(model, "ideal", frozen_inputs={"sr": rate, "gain": [1, 2, -1]})
    program = compiled.program
    assert list(program.inputs) == ["x"]
    assert program.provenance.options["freeze"] == f"sr={rate} gain=1.0,2.0,-1.0"
    (only,) = program.layers
    (weight,) = (numpy_helper.to_array(item) for item in model.graph.initializer if item.name == layer)
    assert (only.geometry.in_channels, only.geometry.out_channels) == weight.shape
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    feeds: dict[str, NDArray[Any]] = {"x": x, "sr": np.array(rate), "gain": np.array([1, 2, -1], np.float32)}
    want = stages.reference(model, feeds)["y"]
    got = Emulator(program).run({"x": x})["y"]
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
    assert not any("decides which branches run" in warning for warning in compiled.warnings)


def test_an_input_that_decides_between_branches_is_named() -> None:
    compiled = compile_model(network(), "ideal")
    assert not compiled.program.layers
    (warning,) = (text for text in compiled.warnings if "decides which branches run" in text)
    assert warning.startswith("input 'sr' ")
    assert "--freeze sr=VALUE" in warning


def test_a_number_fills_all_elements_and_open_sizes_are_one() -> None:
    model = models.make(
        [models.node("Add", "x a", "s"), models.node("Add", "s b", "t"), models.node("Add", "t c", "y")],
        {
            "x": (TensorProto.FLOAT, ("N", 4)),
            "a": (TensorProto.FLOAT, (2, 1, 4)),
            "b": (TensorProto.FLOAT, ("M", 1)),
            "c": (TensorProto.FLOAT, ("K", 1, 4)),
        },
        {"y": (TensorProto.FLOAT, None)},
    )
    file = open_network(model, frozen_inputs={"a": 2, "b": [0.1], "c": list(range(8))})
    found = {item.name: numpy_helper.to_array(item) for item in file.model.graph.initializer}
    assert {name: value.shape for name, value in found.items()} == {"a": (2, 1, 4), "b": (1, 1), "c": (2, 1, 4)}
    assert np.all(found["a"] == 2)
    assert found["b"] == np.float32(0.1)
    assert found["c"].reshape(-1).tolist() == list(range(8))
    assert list(file.inputs) == ["x"]
    assert file.frozen.startswith("a=2.0,2.0,")


def test_many_values_are_told_apart() -> None:
    model = models.make(
        [models.node("Add", "x a", "y")],
        {"x": (TensorProto.FLOAT, ("N", 20)), "a": (TensorProto.FLOAT, (20,))},
        {"y": (TensorProto.FLOAT, None)},
    )
    ones = np.ones(20)
    texts = {open_network(model, frozen_inputs={"a": values}).frozen for values in (ones, [*ones[1:], 2.0])}
    assert len(texts) == 2
    assert all(text.startswith("a=20 values of digest ") for text in texts)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1}, "the model has no input 'rate' to freeze; its inputs are x, sr, gain"),
        ({"sr": 0.5}, r"input 'sr' is int64\[\], and 0.5 is not of this type"),
        ({"sr": np.nan}, "and nan is not of this type"),
        ({"sr": 2.0**70}, "is not of this type"),
        ({"sr": "fast"}, "and 'fast' is not of this type"),
        ({"sr": [1, 2]}, r"--freeze gives 2 values of shape \[2\]"),
        ({"gain": [1, 2]}, r"input 'gain' is float32\[3\]; --freeze gives 2 values of shape \[2\]"),
        ({"gain": [[1, 2, 3], [4, 5, 6]]}, r"--freeze gives 6 values of shape \[2, 3\]"),
        ({"x": 0, "sr": 1, "gain": 1}, r"--freeze makes all inputs constants \(x, sr, gain\)"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_network(network(), frozen_inputs=values)


def test_a_program_is_measured_against_the_same_network() -> None:
    x = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    program = memcompile.compile(network(), "ideal", data={"x": x}, frozen_inputs=FROZEN)
    found = memcompile.evaluate(program, network(), {"x": x}, frozen_inputs=FROZEN, chips=1)
    assert found is not None
    with pytest.raises(UsageError, match="the network has inputs sr, gain, which the program has not"):
        memcompile.evaluate(program, network(), {"x": x}, chips=1)


def test_points_of_other_constants_are_other_points() -> None:
    x = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    targets = {"ideal": load_target("ideal")}
    digests = set()
    for rate in (FAST, SLOW):
        source = read_source(network(), data={"x": x}, frozen_inputs={**FROZEN, "sr": rate})
        study = Study.of(source, targets, images=None, seed=0, calibrate=True)
        assert study.frozen == source.model.frozen
        digests.add(study.digest)
    assert len(digests) == 2


def test_commands_that_are_printed_repeat_the_options_of_inputs() -> None:
    options = {"frozen_inputs": {"sr": 16000.0, "gain": [1.0, 0.1]}, "input_shapes": {"x": (1, 3)}}
    words = ["--freeze", "sr=16000", "--freeze", "gain=1,0.1", "--input-shape", "x=1,3"]
    assert input_words(options) == words


def test_the_command_line_takes_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    arguments = "m.onnx --target ideal --no-evaluation --html none --quiet -o o.mcp --freeze gain=1,2,-1 --freeze"
    assert main([*arguments.split(), "sr=16000"]) == 0
    assert memcompile.load(tmp_path / "o.mcp").provenance.options["freeze"] == "sr=16000 gain=1.0,2.0,-1.0"
    capsys.readouterr()
    assert main([*arguments.split(), "sr=fast"]) == 2
    assert "'sr=fast' is not of the form INPUT=16000 or INPUT=1,2,.." in capsys.readouterr().err
