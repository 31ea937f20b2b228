"""ONNX's own backend test suite on the target ``ideal``: what onnxruntime passes, memcompile passes."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.backend.backend as reference
import pytest
from models import float_model, make, node
from onnx import TensorProto, helper
from onnx.backend.test import runner
from onnx.backend.test.loader import load_model_tests

from memcompile.atomic import write_atomically
from memcompile.errors import DataError, ModelError, UsageError
from memcompile.export import backend

pytestmark = pytest.mark.usefixtures("plain_kernels")

# Nothing of the suite is skipped: what onnxruntime's own backend fails is the only thing not asked for.
CHUNKS = 16
LEAST = 1_500
"""Tests that onnxruntime 1.18 and later pass, at least; fewer mean that the suite was not found."""


KEPT: list[Path] = []
"""Folder of what is kept between runs."""


@pytest.fixture(autouse=True, scope="module")
def _kept(request: pytest.FixtureRequest) -> None:
    KEPT[:] = [request.config.cache.mkdir("onnx_suite")]


@cache
def suite() -> runner.Runner:
    """The suite; its tests ask the runner for the backend when they run."""
    make = runner.load_model_tests
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own data overflow on purpose
        patch.setattr(runner, "load_model_tests", lambda kind: node_cases() if kind == "node" else make(kind=kind))
        return runner.Runner(backend.IdealBackend)


def node_cases() -> list[Any]:
    """Tests of single operators, whose data ONNX computes number by number in Python: once for each of its versions."""
    kept = KEPT[0] / f"onnx-{onnx.__version__}-numpy-{np.__version__}.pickle"
    if kept.exists():
        found: list[Any] = pickle.loads(kept.read_bytes())
        return found
    made: list[Any] = load_model_tests(kind="node")
    write_atomically(kept, pickle.dumps(made))
    return made


def cases(*categories: str) -> dict[str, Callable[[None], None]]:
    """Tests for the CPU by name."""
    return {
        name: item.func
        for category in categories
        for name, item in suite()._test_items[f"{category}Model"].items()
        if name.endswith("_cpu")
    }


class Reference(reference.OnnxRuntimeBackend):
    """onnxruntime's own backend on one thread; idle ones would wait in loops."""

    @classmethod
    def prepare(cls, model: Any, device: str | None = None, **options: Any) -> Any:
        return super().prepare(model, device, **{"intra_op_num_threads": 1, **options})


def passes(test: Callable[[None], None], kind: Any) -> str | None:
    """None if a test passes on a backend, or what it says."""
    suite().backend = kind
    try:
        test(None)
    except Exception as error:  # tests fail with whatever the backend raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def compare(tests: dict[str, Callable[[None], None]]) -> int:
    """Run tests on both backends; returns how many both pass."""
    passed, failed = 0, []
    for name, test in tests.items():
        if passes(test, Reference) is not None:
            continue
        said = passes(test, backend.IdealBackend)
        passed += said is None
        failed += [f"{name}: {said}"] if said else []
    assert not failed, "\n".join(failed)
    return passed


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_onnxruntime_passes_passes(chunk: int) -> None:
    tests = cases("Node", "Simple", "PyTorchConverted", "PyTorchOperator")
    passed = compare({name: tests[name] for name in sorted(tests)[chunk::CHUNKS]})
    assert passed > LEAST // CHUNKS * 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "zfnet512"],
)
def test_whole_networks_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))  # where the suite keeps its inputs
    assert compare({name: cases("Real")[f"test_{name}_cpu"]}) == 1


# --- the interface -----------------------------------------------------------------------------

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8


def product() -> onnx.ModelProto:
    """``x`` times a static matrix, for any number of rows."""
    return float_model([node("MatMul", "x w", "y")], ("N", 4), {"w": WEIGHTS})


def test_linear_operators_go_through_crossbars() -> None:
    rep = backend.prepare(product())
    x = np.eye(4, dtype=np.float32)
    (y,) = rep.run([x])
    assert np.array_equal(y, WEIGHTS)
    (layer,) = rep.program([x]).layers
    assert layer.name == "MatMul_y"
    assert len(rep.program([x]).placement.tiles) == 1


def test_other_shapes_are_compiled_when_they_come() -> None:
    rep = backend.prepare(product())
    one = rep.program(np.ones((1, 4), np.float32))
    assert rep.program([np.zeros((1, 4), np.float32)]) is one
    assert rep.program({"x": np.zeros((2, 4), np.float32)}) is not one


def test_inputs_may_be_given_in_order_by_name_or_alone() -> None:
    x = np.ones((2, 4), np.float32)
    for inputs in ([x], {"x": x}, x):
        assert np.array_equal(backend.run_model(product(), inputs)[0], x @ WEIGHTS)


def test_wrong_inputs_are_named() -> None:
    x = np.ones((2, 4), np.float32)
    with pytest.raises(DataError, match="2 inputs are given, the model has 1: x"):
        backend.run_model(product(), [x, x])
    with pytest.raises(DataError, match="inputs z are given, the model has x"):
        backend.run_model(product(), {"z": x})
    with pytest.raises(ModelError, match="onnxruntime cannot run"):
        backend.run_model(product(), [x[:, :3]])


def test_one_operator() -> None:
    x = np.array([[-1.0, 2.0]], np.float32)
    assert np.array_equal(backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x])[0], np.maximum(x, 0))
    clip = helper.make_node("Clip", ["x", "", "top"], ["y"])
    assert np.array_equal(backend.run_node(clip, [x, np.float32(1)], opset_version=13)[0], np.minimum(x, 1))


def test_only_the_cpu() -> None:
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(UsageError, match="no device 'CUDA'"):
        backend.prepare(product(), "CUDA")


def test_what_onnxruntime_refuses_is_not_compatible() -> None:
    unknown = make([node("Relu", "x", "y", domain="nobody")], {"x": (TensorProto.FLOAT, (1,))}, {"y": (1, (1,))})
    unknown.opset_import.append(helper.make_opsetid("nobody", 1))
    assert not backend.is_compatible(unknown)
    assert backend.is_compatible(product())
    with pytest.raises(ModelError, match="onnxruntime cannot run"):
        backend.prepare(unknown)
