"""Networks whose samples share a range give each sample the result that it has alone, in any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import stages
from models import make, node
from onnx import TensorProto

from memcompile.frontend.importer import read_model
from memcompile.passes.quantization.calibration_batches import calibration_batches
from memcompile.pipelines import compile_model
from memcompile.program.coupled_samples import any_couples_samples, program_couples_samples
from memcompile.report.evaluation import run_float
from memcompile.runtime.emulator import Emulator

RNG = np.random.default_rng(157)
# Samples of very different ranges.
X = (RNG.normal(size=(6, 8)) * np.array([0.01, 0.1, 1, 10, 100, 1000])[:, None]).astype(np.float32)


def dynamic(batch: str | int = "N") -> onnx.ModelProto:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "f s", "y"),
    ]
    weights = {"w": RNG.integers(0, 256, (8, 4)).astype(np.uint8)}
    shape = {"x": (TensorProto.FLOAT, (batch, 8))}
    return make(nodes, shape, {"y": (TensorProto.FLOAT, (batch, 4))}, weights)


def alone(model: onnx.ModelProto) -> np.ndarray:
    return np.concatenate([stages.reference(model, {"x": x[None]})["y"] for x in X])


def test_each_sample_has_its_own_range(save_model: Callable[..., Path]) -> None:
    model = dynamic()
    program = compile_model(save_model(model), "ideal").program
    assert program_couples_samples(program)
    for executor in ("fast", "literal"):
        assert np.array_equal(Emulator.ideal(program, executor=executor).run(X)["y"], alone(model))
    assert np.array_equal(Emulator(program, chunk=1, threads=2).run(X)["y"], alone(model))


def test_a_chunk_of_several_is_a_batch_of_onnxruntime(save_model: Callable[..., Path]) -> None:
    model = dynamic()
    program = compile_model(save_model(model), "ideal").program
    together = stages.reference(model, {"x": X})["y"]
    assert not np.array_equal(together, alone(model))
    assert np.array_equal(Emulator(program, chunk=len(X)).run(X)["y"], together)


def test_the_reference_runs_sample_by_sample_too(save_model: Callable[..., Path]) -> None:
    model = dynamic()
    assert np.array_equal(run_float(read_model(save_model(model)), {"x": X})["y"], alone(model))


def test_a_fixed_batch_has_one_range(save_model: Callable[..., Path]) -> None:
    model = dynamic(3)
    program = compile_model(save_model(model), "ideal").program
    want = np.concatenate([stages.reference(model, {"x": X[start : start + 3]})["y"] for start in (0, 3)])
    assert np.array_equal(Emulator.ideal(program).run(X)["y"], want)


def test_calibration_runs_sample_by_sample() -> None:
    graph = stages.after("group_digital", dynamic(), {"x": X})
    assert [len(batch["x"]) for batch in calibration_batches(graph, {"x": X}, 4)] == [1] * 4


def batchnorm(training: int) -> onnx.ModelProto:
    outputs = "y m v" if training else "y"
    shapes = dict.fromkeys(outputs.split(), (TensorProto.FLOAT, None))
    weights = {name: np.ones(8, np.float32) for name in "abcd"}
    nodes = [node("BatchNormalization", "x a b c d", outputs, training_mode=training)]
    return make(nodes, {"x": (TensorProto.FLOAT, ("N", 8))}, shapes, weights)


@pytest.mark.parametrize("training", [0, 1])
def test_batch_normalisation_couples_only_in_training_mode(training: int) -> None:
    graph = stages.import_model(batchnorm(training), {"x": X})
    assert any_couples_samples(graph.nodes) == bool(training)
