"""Signed weights of byte products become unsigned: whole sums are right on every processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import stages
from models import make, node
from onnx import TensorProto, numpy_helper

from memcompile.frontend.byte_products import use_unsigned_weights
from memcompile.frontend.importer import read_model
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

# Pairs of these products overflow 16 bits.
X = np.full((2, 64), 255, np.uint8)
W = np.full((64, 80), 127, np.int8)


def product(zeros: str = "", kind: int = TensorProto.UINT8, rows: int = 64) -> onnx.ModelProto:
    weights: dict[str, np.ndarray] = {"w": W[:rows], "z": np.array(7, np.uint8), "wz": np.array(-9, np.int8)}
    operator = node("MatMulInteger", f"x w {zeros}".strip(), "y")
    used = {name: value for name, value in weights.items() if name in operator.input}
    return make([operator], {"x": (kind, ("N", rows))}, {"y": (TensorProto.INT32, ("N", 80))}, used)


@pytest.mark.parametrize(("zeros", "zero", "weight_zero"), [("", 0, 0), ("z", 7, 0), ("z wz", 7, -9)])
def test_sums_that_overflow_pairs_are_exact(
    zeros: str, zero: int, weight_zero: int, save_model: Callable[..., Path]
) -> None:
    path = save_model(product(zeros))
    want = (X.astype(np.int64) - zero) @ (W.astype(np.int64) - weight_zero)
    assert np.array_equal(stages.reference(read_model(path).serialized(), {"x": X})["y"], want)
    program = compile_model(path, "ideal").program
    assert np.array_equal(Emulator.ideal(program).run(X)["y"], want)


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    model = product()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=1)
    found = stages.reference(read_model(path).serialized(), {"x": X})["y"]
    assert np.array_equal(found, X.astype(np.int64) @ W)
    session = read_model(path).open_session()
    assert np.array_equal(session.run(None, {"x": X})[0], found)


def test_products_of_signed_bytes_stay(save_model: Callable[..., Path]) -> None:
    model = product(kind=TensorProto.INT8)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    use_unsigned_weights(changed, {})
    assert changed == model


def test_weights_that_a_signed_product_reads_too_are_kept() -> None:
    nodes = [node("MatMulInteger", "x w", "a"), node("Cast", "x", "s", to=TensorProto.INT8)]
    nodes += [node("MatMulInteger", "s w", "b"), node("Add", "a b", "y")]
    model = make(nodes, {"x": (TensorProto.UINT8, ("N", 64))}, {"y": (TensorProto.INT32, ("N", 80))}, {"w": W})
    use_unsigned_weights(model, {})
    assert [list(item.input) for item in model.graph.node if item.op_type == "MatMulInteger"] == [
        ["x", "w/unsigned", "", "/unsigned"],
        ["s", "w"],
    ]
    shifted = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(shifted["w/unsigned"].astype(int) - shifted["/unsigned"], shifted["w"])


def test_names_that_are_taken_are_left_alone() -> None:
    model = product()
    model.graph.node[0].output[0] = "w/unsigned"
    model.graph.output[0].name = "w/unsigned"
    use_unsigned_weights(model, {})
    assert model.graph.node[0].input[1] == "w/unsigned_"
