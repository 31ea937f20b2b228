"""Models that were exported for one image: many images run at once, their digital stages image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import float_model, node

from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

TAILS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "no axis of images": ([node("Squeeze", "h zero", "y")], {"zero": np.array([0])}),
    "a shape inside": (
        [node("Shape", "h", "s"), node("Cast", "s", "f", to=1), node("ReduceSum", "f", "t", keepdims=0),
         node("Add", "h t", "y")],
        {},
    ),
    "a range of each image": (
        [node("DynamicQuantizeLinear", "h", "q scale point"), node("DequantizeLinear", "q scale point", "y")],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_images_together_have_the_bits_of_images_one_by_one(name: str, tmp_path: Path) -> None:
    nodes, more = TAILS[name]
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 5)).astype(np.float32), **more}
    head = [node("Gemm", "x w", "g"), node("Relu", "g", "h")]
    path = tmp_path / "m.onnx"
    path.write_bytes(float_model([*head, *nodes], (1, 6), weights).SerializeToString())
    program = compile_model(path, settings=("replicate.effort=fast",)).program
    x = rng.normal(size=(9, 6)).astype(np.float32)
    together, apart = Emulator(program, 2), Emulator(program, 2, chunk=1)
    assert (together.batches.chunk > 1) == (name != "no axis of images")
    assert apart.batches.chunk == Emulator(program, executor="literal").batches.chunk == 1
    found, wanted = (emulator.run({"x": x})["y"] for emulator in (together, apart))
    np.testing.assert_array_equal(found, wanted)


def test_an_input_that_all_images_share_keeps_them_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    graph = onnx.helper.make_graph(
        [node("Gemm", "x w", "h"), node("Mul", "h gain", "y")],
        "shared",
        [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 6)), ("gain", ()))],
        [onnx.helper.make_tensor_value_info("y", 1, (1, 5))],
        [onnx.numpy_helper.from_array(rng.normal(size=(6, 5)).astype(np.float32), "w")],
    )
    path = tmp_path / "m.onnx"
    opset = [onnx.helper.make_opsetid("", 17)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())
    program = compile_model(path, settings=("replicate.effort=fast",)).program
    emulator = Emulator(program, 2)
    assert emulator.batches.chunk == 1
    x = rng.normal(size=(9, 6)).astype(np.float32)
    found = emulator.run({"x": x, "gain": np.float32(2.0)})["y"]
    assert found.shape == (9, 5)
