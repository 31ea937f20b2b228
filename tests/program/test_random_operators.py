"""Operators that draw random numbers: named in the report, not counted as quantisation noise."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from memcompile.cli.main import main
from memcompile.pipelines import compile_model
from memcompile.program.flow import program_flow
from memcompile.program.random_operators import random_values

X = models.images((20, 10), seed=19)
FAST = ("replicate.objective=arrays", "replicate.effort=fast")


def noisy(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Dense layers ``c`` and ``y`` with nodes between them that make ``r`` from ``c``; ``plain`` stays the same."""
    rng = np.random.default_rng(6)
    weights = {
        "w": models.dyadic(rng, (6, 10)).T,
        "v": models.dyadic(rng, (3, 6)).T,
        "share": np.array(0.5, np.float32),
        "yes": np.array(True),
        "no": np.array(False),
    }
    chain = [
        models.node("MatMul", "x w", "c"),
        models.node("Relu", "c", "plain"),
        models.node("Sigmoid", "c", "p"),
        *nodes,
        models.node("MatMul", "r v", "y"),
    ]
    return models.make(
        chain,
        {"x": (TensorProto.FLOAT, ("N", 10))},
        {"y": (TensorProto.FLOAT, ("N", 3)), "plain": (TensorProto.FLOAT, ("N", 6))},
        {key: value for key, value in weights.items() if any(key in node.input for node in chain)},
        opset=15,
    )


def added(op_type: str, inputs: str = "c", **attributes: object) -> list[onnx.NodeProto]:
    return [
        helper.make_node(op_type, inputs.split(), ["drawn"], name=f"{op_type}_drawn", **attributes),
        models.node("Add", "c drawn", "r"),
    ]


def in_branch() -> list[onnx.NodeProto]:
    branch = [models.node("RandomNormalLike", "c", "inner")]
    graph = helper.make_graph(branch, "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])
    return [helper.make_node("If", ["yes"], ["r"], name="If_drawn", then_branch=graph, else_branch=graph)]


RANDOM = {
    "RandomNormal": added("RandomNormal", "", shape=[1, 6]),
    "RandomUniform": added("RandomUniform", "", shape=[1, 6]),
    "RandomNormalLike": added("RandomNormalLike"),
    "RandomUniformLike": added("RandomUniformLike"),
    "Bernoulli": added("Bernoulli", "p"),
    "a seed of its own": added("RandomNormalLike", seed=3.0),
    "Multinomial": [
        models.node("Multinomial", "p", "picked", sample_size=6, dtype=TensorProto.INT64),
        models.node("Cast", "picked", "r", to=TensorProto.FLOAT),
    ],
    "Dropout that trains": [models.node("Dropout", "c share yes", "r")],
    "in a branch": in_branch(),
}
STILL = {
    "Dropout": [models.node("Dropout", "c", "r")],
    "Dropout that does not train": [models.node("Dropout", "c share no", "r")],
}


@pytest.mark.parametrize("name", [*RANDOM, *STILL])
def test_random_operators_are_named_and_not_compared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for
    nodes = (RANDOM | STILL)[name]
    (tmp_path / "m.onnx").write_bytes(noisy(*nodes).SerializeToString())
    np.savez(tmp_path / "x.npz", x=X)
    assert main(["m.onnx", "--data", "x.npz", "--effort", "fast", "-o", "p.mcp", "--json", "f.json"]) == 0
    facts = json.loads((tmp_path / "f.json").read_text())
    warnings = [text for text in facts["warnings"] if "draws random numbers" in text]
    out = " ".join(capsys.readouterr().out.split())
    if name in STILL:
        assert not warnings
        assert facts["outputs_not_compared"] == {}
        assert facts["output_sqnr_db"].keys() == {"y", "plain"}
        return
    kind, label = nodes[0].op_type, nodes[0].name
    if name == "in a branch":  # its condition is constant, so that the branch is written out
        kind, label = "RandomNormalLike", "If_drawn/RandomNormalLike_inner"
    assert facts["output_sqnr_db"].keys() == {"plain"}
    assert facts["output_sqnr_db"]["plain"] > 15
    why = f"it depends on random numbers of {kind} {label!r}"
    assert facts["outputs_not_compared"] == {"y": why}
    assert f"output y is not compared: {why}" in out
    (warning,) = warnings
    assert f"operator {kind} {label!r}" in warning
    assert warning.endswith(": y")
    # The layer behind it has no ratio, and is not called exact either.
    assert [(layer["sqnr_db"] is None, layer["exact"]) for layer in facts["layers"]] == [(False, False), (True, False)]


def test_randomness_goes_on_through_layers(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(noisy(*added("RandomNormalLike")).SerializeToString())
    flow = program_flow(compile_model(tmp_path / "m.onnx", settings=FAST).program)
    found = random_values(flow)
    assert {value for value in found if value in ("c", "plain", "drawn", "r", "y")} == {"drawn", "r", "y"}


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([models.node("Relu", "c", "l"), models.node("NonZero", "l", "z")], "its shape depends on the data"),
        ([models.node("Log", "c", "l"), models.node("Identity", "l", "z")], "not finite"),
        ([models.node("Greater", "c c", "z")], ""),
    ],
)
def test_what_cannot_be_compared_is_not_called_exact(nodes: list[onnx.NodeProto], why: str, tmp_path: Path) -> None:
    from memcompile.report.evaluation import measure_quality  # noqa: PLC0415

    rng = np.random.default_rng(7)
    graph = helper.make_graph(
        [models.node("MatMul", "x w", "c"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 10))],
        [onnx.ValueInfoProto(name="z"), onnx.ValueInfoProto(name="c")],
        [onnx.numpy_helper.from_array(rng.standard_normal((10, 6)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "x.npz", x=X)
    compilation = compile_model(tmp_path / "m.onnx", data=tmp_path / "x.npz", settings=FAST)
    quality = measure_quality(compilation.program, compilation.model, compilation.dataset)
    assert ("z" in quality.outputs) == (why == "")
    assert why in quality.not_compared.get("z", "")
