"""Observing a model on a sample: shapes without the memory of all values."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import float_model, make, node
from onnx import TensorProto, helper

from memcompile.frontend.model_runs import ModelRuns
from memcompile.frontend.sandbox import Limits
from memcompile.frontend.sessions import NO_WEIGHTS, open_session

MIB = 1 << 20


def runs_of(model: onnx.ModelProto, limits: Limits | None = None) -> ModelRuns:
    return ModelRuns("model.onnx", model, NO_WEIGHTS, limits)


def test_no_value_is_held_for_its_shape() -> None:
    """Forty values of 20 MiB pass through two of them."""
    names = ["x", *(f"v{number}" for number in range(39)), "y"]
    nodes = [node("Relu", read, made) for read, made in itertools.pairwise(names)]
    sample = {"x": np.ones((1, 5 * MIB), np.float32)}
    runs = runs_of(float_model(nodes, ("N", 5 * MIB), {}), Limits(memory_bytes=500 * MIB))
    _, shapes = runs.observe(names[1:], names[1:-1], sample, {})
    assert shapes == dict.fromkeys(names[1:-1], (1, 5 * MIB))


def test_shapes_in_a_model_without_operators_of_the_default_domain() -> None:
    model = make(
        [helper.make_node("FusedMatMul", ["x", "w"], ["x_shape"], domain="com.microsoft", alpha=2.0)],
        {"x": (TensorProto.FLOAT, (3, 4))},
        {"x_shape": (TensorProto.FLOAT, (3, 2))},
        {"w": np.ones((4, 2), np.float32)},
        extra_opsets=[("com.microsoft", 1)],
    )
    kept = [opset for opset in model.opset_import if opset.domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    types, shapes = runs_of(model).observe(["x_shape"], ["x_shape", "x"], {"x": np.ones((3, 4), np.float32)}, {})
    assert types == [("x_shape", "tensor(float)", (3, 2))]
    assert shapes == {"x": (3, 4), "x_shape": (3, 2)}


def test_a_session_that_cannot_be_opened_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that is no UTF-8 comes as a ValueError, on which onnxruntime would say that it tries again."""

    def refused(*_: object) -> None:
        raise ValueError("'utf-8' codec can't decode byte 0x86")

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", refused)
    with pytest.raises(ValueError, match="codec"):
        open_session(b"model")
    assert capsys.readouterr() == ("", "")
