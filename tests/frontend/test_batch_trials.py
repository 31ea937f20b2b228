"""Batch axes found by running the model: rows that depend on each other are no samples, however a size is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import stages
from models import make, node
from numpy.typing import NDArray
from onnx import TensorProto

import memcompile
from memcompile.pipelines import compile_model
from memcompile.program.program import Program

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(23)
Save = Callable[..., Path]
Names = tuple[str | None, ...]


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANTS: dict[str, NDArray[Any]] = {
    "w": normal(6, 4),
    "v": normal(3, 4),
    "five": normal(5, 4),
    "diagonal": 3 * np.eye(6, dtype=np.float32),
    "zero": np.array([0]),
    "one": np.array([1]),
    "rows": np.array([-1, 4]),
    "first": np.array(0),
}
UNITS = [node("MatMul", "x w", "u"), node("MatMul", "e v", "q")]
TRANSPOSED = node("Transpose", "q", "t", perm=[1, 0])
SUM = node("Add", "u q", "s")
# Of inputs x [?, 6] and e [?, 3].
PAIRS: dict[str, list[onnx.NodeProto]] = {
    "sum": [node("Add", "u q", "y")],
    "outer sum in rows": [
        node("Unsqueeze", "u one", "a"),
        node("Unsqueeze", "q zero", "b"),
        node("Add", "a b", "c"),
        node("Reshape", "c rows", "y"),
    ],
    "products of all pairs": [TRANSPOSED, node("MatMul", "u t", "y")],
    "both similarities": [TRANSPOSED, node("MatMul", "u t", "y"), node("Transpose", "y", "z", perm=[1, 0])],
    "attention between sequences": [
        TRANSPOSED,
        node("MatMul", "u t", "l"),
        node("Softmax", "l", "p"),
        node("MatMul", "p q", "y"),
    ],
    "one after the other": [node("Concat", "u q", "y", axis=0)],
    "mean of one": [node("ReduceMean", "q", "m", axes=[0], keepdims=1), node("Add", "u m", "y")],
    "two towers": [node("Relu", "u", "y"), node("Relu", "q", "z")],
    "largest of all": [SUM, node("ReduceMax", "s", "y", axes=[0], keepdims=0)],
    "sums so far": [node("CumSum", "u first", "s"), node("Add", "s q", "y")],
    "without the mean": [SUM, node("ReduceMean", "s", "m", axes=[0], keepdims=1), node("Sub", "s m", "y")],
    "softmax over rows": [node("Softmax", "u", "s", axis=0), node("Add", "s q", "y")],
}
NAMES: tuple[Names, ...] = (
    ("A", "B"),
    ("N", "N"),
    ("batch_x", "batch_e"),
    ("rows", "rows"),
    (None, None),
)


def network(nodes: list[onnx.NodeProto], inputs: Mapping[str, tuple[int, tuple[Any, ...]]]) -> onnx.ModelProto:
    read = {value for each in nodes for value in each.input}
    made = {value for each in nodes for value in each.output}
    outputs = {name: (FLOAT, None) for name in ("y", "z") if name in made}
    return make(nodes, inputs, outputs, {name: array for name, array in CONSTANTS.items() if name in read})


def assert_as_given(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], save_model: Save, tmp_path: Path
) -> Program:
    """Results are those of onnxruntime on the data as they are, in chunks of any size."""
    np.savez(tmp_path / "d.npz", **feeds)
    path = save_model(model)
    program = compile_model(path, "ideal", data=tmp_path / "d.npz", settings=("replicate.effort=fast",)).program
    want = stages.reference(model, feeds)
    for chunk in (None,) if program.batching.size else (None, 1, 2):
        got = memcompile.Emulator(program, chunk=chunk).run(feeds)
        for output, value in want.items():
            assert got[output].shape == value.shape, (output, chunk, program.batching)
            np.testing.assert_allclose(got[output], value, rtol=1e-4, atol=1e-5)
    return program


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


@pytest.mark.parametrize("names", NAMES, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_two_inputs_of_five_rows(name: str, names: Names, save_model: Save, tmp_path: Path) -> None:
    model = network(UNITS + PAIRS[name], {"x": (FLOAT, (names[0], 6)), "e": (FLOAT, (names[1], 3))})
    assert_as_given(model, {"x": normal(5, 6), "e": normal(5, 3)}, save_model, tmp_path)


@pytest.mark.parametrize(("names", "batched"), [(("A", "B"), True), (("N", "M"), True), (("L", "S"), False)], ids=str)
def test_sizes_of_two_names_are_one_batch_if_running_shows_it(
    names: Names, batched: bool, save_model: Save, tmp_path: Path
) -> None:
    """Without a name that may mean a batch, a run takes all rows. Data of many rows are not run at once."""
    model = network(UNITS + PAIRS["sum"], {"x": (FLOAT, (names[0], 6)), "e": (FLOAT, (names[1], 3))})
    few = assert_as_given(model, {"x": normal(5, 6), "e": normal(5, 3)}, save_model, tmp_path)
    assert few.batching.whole is not batched
    path = tmp_path / "model.onnx"
    assert compile_model(path, "ideal").program.batching.whole is not batched
    if batched:
        feeds = {"x": normal(200_000, 6), "e": normal(200_000, 3)}
        np.savez(tmp_path / "many.npz", **feeds)
        many = compile_model(path, "ideal", data=tmp_path / "many.npz", settings=("replicate.effort=fast",)).program
        assert dict(many.batching.inputs) == {"x": 0, "e": 0}


THREE = [
    ("sum, then pairs", (5, 5, 5)),
    ("sum, then pairs", (5, 5, 3)),
    ("sum, then pairs", (1, 5, 5)),
    ("queries, keys, values", (5, 5, 5)),
    ("queries, keys, values", (5, 3, 3)),
    ("queries, keys, values", (1, 5, 5)),
]
THREE_NAMES = [("A", "B", "C"), ("N", "N", "M"), (None, None, None)]


def agree(names: Sequence[str | None], rows: Sequence[int]) -> bool:
    """Return True if one name stands for one size; onnxruntime may refuse a model whose declaration is wrong."""
    sizes = [(name, size) for name, size in zip(names, rows, strict=True) if name is not None]
    return len(dict(sizes)) == len(set(sizes))


@pytest.mark.parametrize(
    ("kind", "rows", "names"),
    [(kind, rows, names) for kind, rows in THREE for names in THREE_NAMES if agree(names, rows)],
    ids=str,
)
def test_three_inputs(kind: str, rows: tuple[int, ...], names: Names, save_model: Save, tmp_path: Path) -> None:
    nodes = {
        "sum, then pairs": [SUM, node("Transpose", "g", "t", perm=[1, 0]), node("MatMul", "s t", "y")],
        "queries, keys, values": [
            TRANSPOSED,
            node("MatMul", "u t", "l"),
            node("Softmax", "l", "p"),
            node("MatMul", "p g", "y"),
        ],
    }[kind]
    widths = {"x": 6, "e": 3, "g": 4}
    shapes = zip(widths.items(), names, strict=True)
    model = network(UNITS + nodes, {name: (FLOAT, (size, width)) for (name, width), size in shapes})
    feeds = {name: normal(count, width) for (name, width), count in zip(widths.items(), rows, strict=True)}
    assert_as_given(model, feeds, save_model, tmp_path)


@pytest.mark.parametrize("size", ["N", "T", "batch", None])
@pytest.mark.parametrize("kind", ["sum", "contracted", "pairs"])
def test_one_size_on_axis_0_and_on_axis_1(kind: str, size: str | None, save_model: Save, tmp_path: Path) -> None:
    width = 3 if kind == "sum" else 4
    nodes = {
        "sum": [node("Transpose", "e", "t", perm=[1, 0]), node("MatMul", "t v", "q"), node("Add", "u q", "y")],
        "contracted": [node("MatMul", "e u", "y")],
        "pairs": [node("MatMul", "u e", "y")],
    }[kind]
    model = network([UNITS[0], *nodes], {"x": (FLOAT, (size, 6)), "e": (FLOAT, (width, size))})
    assert_as_given(model, {"x": normal(5, 6), "e": normal(width, 5)}, save_model, tmp_path)


@pytest.mark.parametrize("size", ["N", "points", "batch", None])
@pytest.mark.parametrize("kind", ["largest", "mean, kept", "rows and mean", "five rows inside", "places"])
def test_rows_that_are_no_batch(kind: str, size: str | None, save_model: Save, tmp_path: Path) -> None:
    """Also those that an exporter has made out as open, although the network holds a constant for five of them."""
    nodes = {
        "largest": [node("Relu", "u", "r"), node("ReduceMax", "r", "y", axes=[0], keepdims=0)],
        "mean, kept": [node("ReduceMean", "u", "y", axes=[0], keepdims=1)],
        "rows and mean": [node("Relu", "u", "y"), node("ReduceMean", "u", "z", axes=[0], keepdims=0)],
        "five rows inside": [node("Add", "u five", "y")],
        "places": [node("Gather", "u e", "y", axis=0)],
    }[kind]
    inputs: dict[str, tuple[int, tuple[Any, ...]]] = {"x": (FLOAT, (size, 6))}
    feeds: dict[str, NDArray[Any]] = {"x": normal(5, 6)}
    if kind == "places":
        inputs["e"], feeds["e"] = (INT, (size,)), np.array([0, 1, 2, 4, 0])
    program = assert_as_given(network([UNITS[0], *nodes], inputs), feeds, save_model, tmp_path)
    assert program.batching.whole


def test_a_saturated_softmax_does_not_hide_that_rows_look_at_each_other(save_model: Save, tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x diagonal", "u"),
        node("Transpose", "u", "t", perm=[1, 0]),
        node("MatMul", "u t", "l"),
        node("Softmax", "l", "p"),
        node("MatMul", "p u", "y"),
    ]
    x = normal(6, 6)
    x *= 5 / np.linalg.norm(x, axis=1, keepdims=True)
    logits = 9 * x @ x.T
    assert np.sort(logits, axis=1)[:, -2].max() < logits.diagonal().min() - 5  # each row looks at itself
    model = network(nodes, {"x": (FLOAT, ("tokens", 6))})
    assert assert_as_given(model, {"x": x}, save_model, tmp_path).batching.whole


RANGED = [
    node("DynamicQuantizeLinear", "x", "b s o"),
    node("DequantizeLinear", "b s o", "r"),
    node("MatMul", "r w", "u"),
]
"""Inputs whose range is that of the whole batch."""


@pytest.mark.parametrize("size", ["N", None])
def test_a_range_over_the_batch_makes_no_run_of_it(size: str | None, save_model: Save) -> None:
    """A steep output shows the rounding of other samples' ranges much."""
    nodes = [*RANGED, *(node("Mul", f"{a} {a}", b) for a, b in ("up", "pq", "qt")), node("Sigmoid", "t", "y")]
    batching = compile_model(save_model(network(nodes, {"x": (FLOAT, (size, 6))})), "ideal").program.batching
    assert not batching.whole
    assert batching.inputs == {"x": 0}


@pytest.mark.parametrize("size", ["rows", None])
@pytest.mark.parametrize("kind", ["attention", "without the mean", "largest"])
def test_rows_with_a_common_range_that_are_no_batch(kind: str, size: str | None, save_model: Save) -> None:
    nodes = {
        "attention": [
            node("Transpose", "u", "t", perm=[1, 0]),
            node("MatMul", "u t", "l"),
            node("Softmax", "l", "p"),
            node("MatMul", "p u", "y"),
        ],
        "without the mean": [node("ReduceMean", "u", "m", axes=[0], keepdims=1), node("Sub", "u m", "y")],
        "largest": [node("ReduceMax", "u", "y", axes=[0], keepdims=0)],
    }[kind]
    model = network([*RANGED, *nodes], {"x": (FLOAT, (size, 6))})
    assert compile_model(save_model(model), "ideal").program.batching.whole
