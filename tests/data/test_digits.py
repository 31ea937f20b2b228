"""scikit-learn's digits are the data of networks that classify them, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import make, nearest_mean, node
from numpy.typing import NDArray
from onnx import TensorProto

from memcompile.cli.main import main
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import evaluate

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Save = Callable[..., Path]
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


GEMM = node("Gemm", "x w b", "y")
SCORES = {"y": (FLOAT, ("N", 10))}


def flat(size: int, batch: Any = "N") -> dict[str, tuple[int, Any]]:
    return {"x": (FLOAT, (batch, size))}


IMAGE = [node("Reshape", "x shape", "flat"), node("Gemm", "flat w b", "y")]
SHAPE = {"shape": np.array([-1, 784], np.int64)}
CLASSIFIERS = {
    "64 values": make([GEMM], flat(64), SCORES, nearest_mean()),
    "a fixed batch": make([GEMM], flat(64, 5), {"y": (FLOAT, (5, 10))}, nearest_mean()),
    "an image": make(IMAGE, {"x": (FLOAT, ("N", 1, 28, 28))}, SCORES, {**nearest_mean(28), **SHAPE}),
    "an image without a batch": make(IMAGE, {"x": (FLOAT, (28, 28))}, SCORES, {**nearest_mean(28), **SHAPE}),
    "the label beside probabilities": make(
        [node("Gemm", "x w b", "s"), node("ArgMax", "s", "label", axis=1, keepdims=0), node("Softmax", "s", "y")],
        flat(64),
        {"label": (INT, ("N",)), **SCORES},
        nearest_mean(),
    ),
}
OTHERS = {
    "an autoencoder": make(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")],
        flat(784),
        {"y": (FLOAT, ("N", 784))},
        {"w": normal(784, 8), "v": normal(8, 784)},
    ),
    "a regression": make([node("MatMul", "x w", "y")], flat(64), {"y": (FLOAT, ("N", 1))}, {"w": normal(64, 1)}),
    "eight classes": make([node("MatMul", "x w", "y")], flat(64), {"y": (FLOAT, ("N", 8))}, {"w": normal(64, 8)}),
    "twelve classes": make([node("MatMul", "x w", "y")], flat(64), {"y": (FLOAT, ("N", 12))}, {"w": normal(64, 12)}),
    "ten numbers": make([node("MatMul", "x w", "y")], flat(64), SCORES, {"w": normal(64, 10)}),
    "ten classes in another order": make([GEMM], flat(64), SCORES, nearest_mean(roll=1)),
    "ten planes": make(
        [node("Conv", "x k", "y")], {"x": (FLOAT, ("N", 1, 8, 8))}, {"y": (FLOAT, None)}, {"k": normal(10, 1, 3, 3)}
    ),
    "whole numbers": make(
        [node("MatMul", "x w", "s"), node("ArgMax", "s", "y", axis=1)],
        flat(64),
        {"y": (INT, ("N", 1))},
        {"w": normal(64, 10)},
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_of_digits_is_scored_on_them(
    name: str, save_model: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compilation = compile_model(save_model(CLASSIFIERS[name]), "ideal")
    assert compilation.dataset.name == "digits of scikit-learn"
    evaluation = evaluate(
        compilation.program, compilation.model, compilation.dataset, images=100, seeds=1, budget=False
    )
    assert evaluation.accuracy is not None
    assert evaluation.accuracy.reference == evaluation.accuracy.ideal > 0.75
    program = str(tmp_path / "p.mcp")
    options = ["--target", "ideal", "--no-evaluation"]
    assert main([str(save_model(CLASSIFIERS[name])), "-o", program, *options]) == 0
    assert main(["run", program, "--images", "50"]) == 0
    assert "on digits of scikit-learn, 50 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_network_gets_generated_inputs(
    name: str, save_model: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = str(tmp_path / "p.mcp")
    assert main([str(save_model(OTHERS[name])), "-o", program, "--target", "hermes", "--seeds", "1"]) == 0
    assert main(["run", program]) == 0
    said = capsys.readouterr().out
    assert "no data: the input quantisers are calibrated on generated inputs" in said.replace("\n", " ")
    assert "8 samples of made-up samples" in said
    assert "digits" not in said
    assert main(["tune", program]) == 2
    assert "tuning needs real samples with labels" in capsys.readouterr().err


def test_a_network_that_takes_one_image_at_a_time(save_model: Save) -> None:
    """Although it declares an open batch."""
    nodes = [node("Reshape", "x shape", "r"), node("Gemm", "r w b", "y")]
    model = make(nodes, flat(64), SCORES, {**nearest_mean(), "shape": np.array([1, 64], np.int64)})
    compilation = compile_model(save_model(model), "ideal")
    assert compilation.program.inputs["x"].shape == (1, 64)
    assert compilation.dataset.name == "digits of scikit-learn"
