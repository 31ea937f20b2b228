"""Models that were exported for one image: many images run at once, their digital stages image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from models import float_model, node

from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.executors.digital import EachImage, of_image


def test_images_together_have_the_bits_of_images_one_by_one() -> None:
    rng = np.random.default_rng(13)
    program = factories.two_layer_program(rng, factories.make_target(), batch=1)
    x = rng.integers(0, 256, (7, 2, 6, 6)).astype(np.float32)
    together, apart = Emulator(program, 3), Emulator(program, 3, chunk=1)
    assert together.batches.chunk > apart.batches.chunk == 1
    assert Emulator(program, executor="literal").batches.chunk == 1
    found, wanted = (emulator.run(x, also=["h", "r"]) for emulator in (together, apart))
    for name, values in wanted.items():
        assert len(values) == 7
        np.testing.assert_array_equal(found[name], values)


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
def test_whatever_digital_stages_make(name: str, tmp_path: Path) -> None:
    nodes, more = TAILS[name]
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 5)).astype(np.float32), **more}
    head = [node("Gemm", "x w", "g"), node("Relu", "g", "h")]
    path = tmp_path / "m.onnx"
    path.write_bytes(float_model([*head, *nodes], (1, 6), weights).SerializeToString())
    program = compile_model(path, settings=("replicate.effort=fast",)).program
    x = rng.normal(size=(9, 6)).astype(np.float32)
    found, wanted = (Emulator(program, 2, chunk=chunk).run({"x": x})["y"] for chunk in (None, 1))
    np.testing.assert_array_equal(found, wanted)


def test_values_of_single_images() -> None:
    assert of_image(EachImage([1, 2, 3]), 1) == 2
    np.testing.assert_array_equal(of_image(np.arange(6).reshape(3, 2), 1), [[2, 3]])
