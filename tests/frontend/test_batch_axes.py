"""Batch axis of each input, and all that follows from it; the right value is onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import exported
import models
import numpy as np
import onnx
import pytest
import stages
from models import make, node
from numpy.typing import NDArray
from onnx import TensorProto
from scripts import without_phases

import memcompile
from memcompile.cli.main import main
from memcompile.errors import DataError, ModelError, ProgramError, UsageError
from memcompile.frontend.batch_axes import ASSUMED_SIZES
from memcompile.ir.batching import Batching
from memcompile.pipelines import Compilation, compile_model
from memcompile.program.file import load_program, save_program
from memcompile.report.evaluation import evaluate, score_samples
from memcompile.tuning import tune

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Feeds = Mapping[str, NDArray[Any]]
Save = Callable[..., Path]
RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


def weights(*shape: int) -> NDArray[np.float32]:
    return (RNG.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)).astype(np.float32)


LSTM_WEIGHTS = {"w": weights(1, 16, 3), "r": weights(1, 16, 4), "b": weights(1, 32)}
AXES = {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}


def lstm(x: str, outputs: str, states: str = "h c") -> onnx.NodeProto:
    h, c = states.split()
    return onnx.helper.make_node("LSTM", [x, "w", "r", "b", "", h, c], outputs.split(","), name="lstm", hidden_size=4)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: str,
    constants: dict[str, NDArray[Any]],
) -> onnx.ModelProto:
    return make(nodes, inputs, dict.fromkeys(outputs.split(), (FLOAT, None)), constants)


def sequence_first(batch: str | None = "N") -> onnx.ModelProto:
    """States and sequence with the batch on axis 1; ``y`` has it on axis 0, the new state on axis 1."""
    nodes = [lstm("x", ",hn,"), node("Squeeze", "hn zero", "s"), node("Gemm", "s v", "y")]
    inputs = {"x": (FLOAT, (5, batch, 3)), "h": (FLOAT, (1, batch, 4)), "c": (FLOAT, (1, batch, 4))}
    return model(nodes, inputs, "y hn", {**LSTM_WEIGHTS, "v": weights(4, 2), "zero": AXES["zero"]})


def graph_network(nodes: str | None = "nodes", edges: str | None = "edges") -> onnx.ModelProto:
    """Rows of one input are read at the places of another, whatever their number."""
    operators = [node("MatMul", "x w", "a"), node("Gather", "a src", "e"), node("Relu", "e", "y")]
    return model(operators, {"x": (FLOAT, (nodes, 6)), "src": (INT, (edges,))}, "y", {"w": weights(6, 4)})


def streaming() -> onnx.ModelProto:
    """Frames of one recording; the state goes on from each to the next. The convolution sees them one by one."""
    nodes = [
        node("Unsqueeze", "x one", "u"),
        node("Conv", "u k", "f", pads=[1, 1], strides=[2]),
        node("Relu", "f", "g"),
        node("ReduceMean", "g", "m", axes=[2], keepdims=0),
        node("Unsqueeze", "m one", "t"),
        lstm("t", "s,hn,"),
        node("Squeeze", "s both", "q"),
        node("MatMul", "q v", "y"),
    ]
    inputs = {"x": (FLOAT, ("frames", 8)), "h": (FLOAT, (1, 1, 4)), "c": (FLOAT, (1, 1, 4))}
    own = {"k": weights(3, 1, 3), "v": weights(4, 2), "one": AXES["one"], "both": np.array([1, 2], np.int64)}
    return model(nodes, inputs, "y hn", {**LSTM_WEIGHTS, **own})


def scaled(shape: Sequence[Any], divisor: Sequence[Any]) -> onnx.ModelProto:
    nodes = [node("MatMul", "x w", "a"), node("Div", "a t", "y")]
    return model(nodes, {"x": (FLOAT, shape), "t": (FLOAT, divisor)}, "y", {"w": weights(10, 5)})


def boxes(batch: str | int = 1) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x k", "c"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "z v", "g"),
        node("Add", "g f", "y") if batch == 1 else node("MatMul", "f gt", "y"),
    ]
    if batch != 1:
        nodes.insert(4, node("Transpose", "g", "gt", perm=[1, 0]))
    inputs = {"x": (FLOAT, (batch, 3, 6, 6)), "z": (FLOAT, (20, 4))}
    return model(nodes, inputs, "y", {"k": weights(5, 3, 3, 3), "v": weights(4, 5)})


def unbatched() -> onnx.ModelProto:
    nodes = [lstm("x", "s,h1,c1"), node("MatMul", "h1 v", "y")]
    inputs = {"x": (FLOAT, (6, 2, 3)), "h": (FLOAT, (1, 2, 4)), "c": (FLOAT, (1, 2, 4))}
    return model(nodes, inputs, "y h1 c1", {**LSTM_WEIGHTS, "v": weights(4, 3)})


def attention(name: str | None) -> onnx.ModelProto:
    """Every row looks at every other."""
    nodes = [
        node("MatMul", "x w", "q"),
        node("Transpose", "q", "t", perm=[1, 0]),
        node("MatMul", "q t", "l"),
        node("Softmax", "l", "p"),
        node("MatMul", "p q", "y"),
    ]
    return model(nodes, {"x": (FLOAT, (name, 6))}, "y", {"w": weights(6, 6)})


def image_alone() -> onnx.ModelProto:
    nodes = [node("Unsqueeze", "x zero", "u"), node("Conv", "u k", "c"), node("Flatten", "c", "f")]
    nodes.append(node("MatMul", "f w", "y"))
    own = {"k": weights(2, 3, 3, 3), "w": weights(32, 4), "zero": AXES["zero"]}
    return model(nodes, {"x": (FLOAT, (3, 6, 6))}, "y", own)


def classifier(*shape: Any) -> onnx.ModelProto:
    return model([node("MatMul", "x w", "a"), node("Relu", "a", "y")], {"x": (FLOAT, shape)}, "y", {"w": weights(6, 3)})


def state_after_batch() -> onnx.ModelProto:
    """The input is [N, time, 3]; the last state, an output, has the batch on axis 1."""
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2])]
    nodes.append(onnx.helper.make_node("LSTM", ["t", "w", "r", "b"], ["", "hn", ""], name="lstm", hidden_size=4))
    return model(nodes, {"x": (FLOAT, ("batch", 5, 3))}, "hn", LSTM_WEIGHTS)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A network, data for it, the axes that are found, and whether the data are one run of a network run as a whole."""

    model: onnx.ModelProto
    feeds: Feeds
    axes: Mapping[str, int | None]
    whole: bool = False
    runs: int = 0
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    layers: int = 1


STATES = {"h": normal(1, 7, 4, seed=1), "c": normal(1, 7, 4, seed=2)}
ONE_STATE = {"h": normal(1, 1, 4, seed=1), "c": normal(1, 1, 4, seed=2)}
NONE = dict.fromkeys
CASES = {
    "state and sequence on axis 1": Case(
        sequence_first(), {"x": normal(5, 7, 3), **STATES}, NONE(("x", "h", "c"), 1), outputs={"hn": 1}, layers=7
    ),
    "the same without names": Case(
        sequence_first(None), {"x": normal(5, 7, 3), **STATES}, NONE(("x", "h", "c"), 1), outputs={"hn": 1}, layers=7
    ),
    "nodes and edges": Case(
        graph_network(), {"x": normal(9, 6), "src": np.array([1, 8, 0, 4])}, NONE(("x", "src")), whole=True
    ),
    "nodes and edges without names": Case(
        graph_network(None, None), {"x": normal(9, 6), "src": np.array([1, 8, 0, 4])}, NONE(("x", "src")), whole=True
    ),
    "as many nodes as edges": Case(
        graph_network(None, None), {"x": normal(4, 6), "src": np.array([1, 3, 0, 3])}, NONE(("x", "src")), whole=True
    ),
    "several graphs": Case(
        graph_network(),
        {"x": normal(3, 9, 6), "src": np.array([[1, 8, 0, 4]] * 3)},
        NONE(("x", "src")),
        whole=True,
        runs=3,
    ),
    "several graphs with the same edges": Case(
        graph_network(), {"x": normal(3, 9, 6), "src": np.array([1, 8, 0])}, NONE(("x", "src")), whole=True, runs=3
    ),
    "frames of a recording": Case(
        streaming(), {"x": normal(6, 8), **ONE_STATE}, NONE(("x", "h", "c")), whole=True, layers=9
    ),
    "a scalar for all": Case(
        scaled(("N", 10), ()), {"x": normal(8, 10), "t": np.array(2.5, np.float32)}, {"x": 0, "t": None}
    ),
    "a scalar beside a fixed batch": Case(
        scaled((2, 10), ()),
        {"x": normal(2, 10), "t": np.array(2.5, np.float32)},
        NONE(("x", "t")),
        whole=True,
    ),
    "one value for all": Case(
        scaled(("N", 10), (1,)), {"x": normal(8, 10), "t": np.array([2.5], np.float32)}, {"x": 0, "t": None}
    ),
    "a value for each, one at a time": Case(
        scaled(("N", 10), (1, 1)), {"x": normal(8, 10), "t": 1 + np.abs(normal(8, 1))}, {"x": 0, "t": 0}
    ),
    "boxes beside an image": Case(
        boxes(), {"x": normal(1, 3, 6, 6), "z": normal(20, 4)}, NONE(("x", "z")), whole=True, layers=2
    ),
    "boxes for all images": Case(
        boxes("batch"), {"x": normal(8, 3, 6, 6), "z": normal(20, 4)}, {"x": 0, "z": None}, layers=2
    ),
    "fixed states beside a sequence": Case(
        unbatched(),
        {"x": normal(6, 2, 3), "h": normal(1, 2, 4), "c": normal(1, 2, 4)},
        NONE(("x", "h", "c")),
        whole=True,
        layers=8,
    ),
    "three runs of them": Case(
        unbatched(),
        {"x": normal(3, 6, 2, 3), "h": normal(3, 1, 2, 4), "c": normal(1, 2, 4)},
        NONE(("x", "h", "c")),
        whole=True,
        runs=3,
        layers=8,
    ),
    "attention over the first axis": Case(attention("tokens"), {"x": normal(7, 6)}, NONE(("x",)), whole=True),
    "attention without names": Case(attention(None), {"x": normal(2, 7, 6)}, NONE(("x",)), whole=True, runs=2),
    "one image without a batch": Case(image_alone(), {"x": normal(3, 6, 6)}, NONE(("x",)), whole=True, layers=2),
    "several such images": Case(image_alone(), {"x": normal(4, 3, 6, 6)}, NONE(("x",)), whole=True, runs=4, layers=2),
    "a fixed batch": Case(classifier(4, 6), {"x": normal(8, 6)}, {"x": 0}),
    "a fixed batch of one": Case(classifier(1, 6), {"x": normal(5, 6)}, {"x": 0}),
    "a free batch without a name": Case(classifier(None, 6), {"x": normal(5, 6)}, {"x": 0}),
    "rows of another name": Case(classifier("rows", 6), {"x": normal(5, 6)}, {"x": 0}),
    "an output with the batch on axis 1": Case(
        state_after_batch(), {"x": normal(40, 5, 3)}, {"x": 0}, outputs={"hn": 1}, layers=5
    ),
}


def wanted(case: Case) -> dict[str, NDArray[Any]]:
    """Outputs of onnxruntime, run by run where a run is one sample or the batch is fixed."""
    batching, session = Batching(case.axes), stages.reference
    if case.runs:
        rank = {value.name: len(value.type.tensor_type.shape.dim) for value in case.model.graph.input}
        runs = [
            session(case.model, {name: a[run] if a.ndim > rank[name] else a for name, a in case.feeds.items()})
            for run in range(case.runs)
        ]
        return {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    declared = [v.type.tensor_type.shape.dim[0] for v in case.model.graph.input if v.type.tensor_type.shape.dim]
    size = max((dim.dim_value for dim in declared), default=0)
    if case.whole or not size or None in case.axes.values():
        return session(case.model, case.feeds)
    if 1 in case.axes.values():
        return session(case.model, case.feeds)
    parts = [
        session(case.model, batching.take(case.feeds, slice(begin, begin + size)))
        for begin in range(0, len(case.feeds["x"]), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compiled(case: Case, save_model: Save, tmp_path: Path, target: str = "ideal") -> Compilation:
    np.savez(tmp_path / "d.npz", **case.feeds)
    return compile_model(save_model(case.model), target, data=tmp_path / "d.npz", settings=("replicate.effort=fast",))


@pytest.mark.parametrize("name", CASES)
def test_axes_are_found_and_results_are_those_of_onnxruntime(name: str, save_model: Save, tmp_path: Path) -> None:
    case = CASES[name]
    compilation = compiled(case, save_model, tmp_path)
    program = compilation.program
    batching = program.batching
    assert (dict(batching.inputs), batching.whole, dict(batching.outputs)) == (case.axes, case.whole, case.outputs)
    assert len(program.layers) == case.layers
    want = wanted(case)
    save_program(program, tmp_path / "p.mcp")
    for one in (program, load_program(tmp_path / "p.mcp")):
        got = memcompile.Emulator(one).run(case.feeds)
        for output, value in want.items():
            assert got[output].shape == value.shape
            assert np.allclose(got[output], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())
    evaluation = evaluate(program, compilation.model, compilation.dataset, seeds=1)
    assert evaluation.quality is not None
    assert min(evaluation.quality.outputs.values()) > 80
    assert ("no batch axis" in " ".join(compilation.warnings)) == case.whole


@pytest.mark.parametrize("name", [name for name in CASES if "axis 1" in name or CASES[name].whole])
def test_both_executors_and_the_export_agree_on_a_chip(name: str, save_model: Save, tmp_path: Path) -> None:
    case = CASES[name]
    program = compiled(case, save_model, tmp_path, "hermes").program
    ideal = memcompile.Emulator.ideal(program).run(case.feeds)
    literal = memcompile.Emulator.ideal(program, "literal").run(case.feeds)
    assert all(np.array_equal(ideal[output], literal[output], equal_nan=True) for output in ideal)
    assert min(stages.signal_to_noise_db(value, ideal[output]) for output, value in wanted(case).items()) > 15
    if not case.runs:
        exported.assert_agrees(program, case.feeds, seed=1)


@pytest.mark.parametrize("name", CASES)
def test_no_data_are_needed(name: str, save_model: Save) -> None:
    compilation = compile_model(save_model(CASES[name].model), "ideal", settings=("replicate.effort=fast",))
    dataset = compilation.dataset
    assert dataset.generated
    feeds = dataset.first_run
    want = stages.reference(CASES[name].model, feeds)
    got = memcompile.Emulator(compilation.program).run(feeds)
    assert all(np.allclose(got[output], value, rtol=1e-4, atol=1e-5) for output, value in want.items())


def test_a_batch_axis_is_no_open_size(save_model: Save, tmp_path: Path) -> None:
    """The command line all through: shapes, predictions as onnxruntime has them, labels of samples on axis 1."""
    case = CASES["state and sequence on axis 1"]
    want = wanted(case)
    np.savez(tmp_path / "d.npz", **case.feeds, labels=want["y"].argmax(axis=1))
    path, program = save_model(case.model), str(tmp_path / "p.mcp")
    data = ["--data", str(tmp_path / "d.npz")]
    assert main([str(path), "-o", program, "--target", "ideal", *data, "--seeds", "1"]) == 0
    assert main(["run", program, *data, "-o", str(tmp_path / "o.npz")]) == 0
    with np.load(tmp_path / "o.npz") as found:
        assert found["hn"].shape == (1, 7, 4)
        assert np.allclose(found["y"], want["y"], atol=1e-5)


@pytest.mark.parametrize("name", ["fixed states beside a sequence", "several graphs"])
def test_run_writes_what_onnxruntime_gives(
    name: str, save_model: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    np.savez(tmp_path / "d.npz", **case.feeds)
    program, data = str(tmp_path / "p.mcp"), ["--data", str(tmp_path / "d.npz")]
    assert main([str(save_model(case.model)), "-o", program, "--target", "ideal", *data]) == 0
    assert main(["run", program, *data, "-o", str(tmp_path / "o.npz")]) == 0
    assert main(["run", program, "-o", str(tmp_path / "made_up.npz")]) == 0
    assert "error" not in capsys.readouterr().err
    with np.load(tmp_path / "o.npz") as found:
        for output, value in wanted(case).items():
            assert np.allclose(found[output], value, rtol=1e-4, atol=1e-5)


def test_labels_of_rows_and_of_runs(save_model: Save, tmp_path: Path) -> None:
    case = CASES["several graphs"]
    rows = wanted(case)["y"].argmax(axis=-1)
    whole = wanted(case)["y"].reshape(3, -1).argmax(axis=1)
    for labels in (rows, whole):
        np.savez(tmp_path / "d.npz", **case.feeds, labels=labels)
        compilation = compile_model(save_model(case.model), "ideal", data=tmp_path / "d.npz")
        evaluation = evaluate(compilation.program, compilation.model, compilation.dataset, seeds=1)
        assert evaluation.accuracy is not None
        assert (evaluation.accuracy.reference, evaluation.accuracy.ideal) == (1.0, 1.0)
    single = CASES["nodes and edges"]
    np.savez(tmp_path / "d.npz", **single.feeds, labels=wanted(single)["y"].argmax(axis=-1))
    compilation = compile_model(save_model(single.model), "ideal", data=tmp_path / "d.npz")
    outputs = memcompile.Emulator(compilation.program).run(compilation.dataset.as_given)
    assert score_samples(outputs, compilation.dataset) == 1.0


# --- sizes ---------------------------------------------------------------------------------------


def recurrent(length: int | str) -> onnx.ModelProto:
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2])]
    nodes.append(onnx.helper.make_node("GRU", ["t", "w", "r"], ["", "y"], name="gru", hidden_size=4))
    own = {"w": LSTM_WEIGHTS["w"][:, :12], "r": LSTM_WEIGHTS["r"][:, :12]}
    return model(nodes, {"x": (FLOAT, ("batch", length, 3))}, "y", own)


def test_a_size_given_is_a_type(save_model: Save, tmp_path: Path) -> None:
    fixed = compile_model(save_model(recurrent(7))).program
    np.savez(tmp_path / "d.npz", x=normal(4, 7, 3))
    open_file = save_model(recurrent("length"), "open.onnx")
    for options in ({"input_shapes": {"x": (1, 7, 3)}}, {"data": tmp_path / "d.npz"}):
        program = compile_model(open_file, **options).program  # type: ignore[arg-type]
        assert [layer.name for layer in program.layers] == [layer.name for layer in fixed.layers]
        assert len(program.layers) == 13  # the inputs of all steps, then two layers a step
        assert program.inputs == fixed.inputs


def test_a_size_behind_a_computed_one_is_a_type(save_model: Save) -> None:
    """Padding that operators compute hides the size from plain shape inference."""
    graph = recurrent("length").graph
    nodes = [node("Add", "p p", "pads"), node("Pad", "x pads", "padded"), *graph.node]
    nodes[2].input[0] = "padded"
    own = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    own["p"] = np.array([0, 0, 0, 0, 1, 0], np.int64)
    path = save_model(model(nodes, {"x": (FLOAT, ("batch", "length", 3))}, "y", own))
    assert len(compile_model(path, input_shapes={"x": (1, 5, 3)}).program.layers) == 13


def test_larger_sizes_are_tried(save_model: Save) -> None:
    nodes = [node("Unsqueeze", "x one", "u"), node("Conv", "u k", "y", strides=[40])]
    path = save_model(
        model(nodes, {"x": (FLOAT, ("batch", "time"))}, "y", {"k": weights(2, 1, 200), "one": AXES["one"]})
    )
    compilation = compile_model(path)
    assert compilation.program.inputs["x"].shape == (None, 256)
    assert "input 'x' leaves sizes open; compiled for [256]" in " ".join(compilation.warnings)


def test_equal_names_get_equal_sizes(save_model: Save) -> None:
    """A mask of four axes is no image."""
    nodes = [node("MatMul", "x w", "q"), node("Unsqueeze", "q one", "u"), node("MatMul", "m u", "y")]
    inputs = {"x": (FLOAT, ("batch", "tokens", 6)), "m": (FLOAT, ("batch", 1, "tokens", "tokens"))}
    path = save_model(model(nodes, inputs, "y", {"w": weights(6, 4), "one": AXES["one"]}))
    assert compile_model(path).program.inputs["m"].shape == (None, 1, 16, 16)


def test_an_open_batch_that_takes_one_sample_only(save_model: Save) -> None:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    constants = {"shape": np.array([1, 6], np.int64), "w": weights(6, 3)}
    path = save_model(model(nodes, {"x": (FLOAT, ("batch", 2, 3))}, "y", constants))
    compilation = compile_model(path, "ideal")
    assert compilation.program.inputs["x"].shape == (1, 2, 3)
    x = normal(5, 2, 3)
    assert np.allclose(
        memcompile.Emulator(compilation.program).run(x)["y"], x.reshape(5, 6) @ constants["w"], atol=1e-5
    )
    assert evaluate(compilation.program, compilation.model, compilation.dataset, seeds=1).quality is not None


def test_sizes_that_cannot_be_assumed_are_one_message_that_says_what_to_pass(save_model: Save) -> None:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    constants = {"shape": np.array([-1, 11], np.int64), "w": weights(11, 3)}
    path = save_model(model(nodes, {"x": (FLOAT, (1, "odd"))}, "y", constants))
    assert not any(size % 11 == 0 for size in ASSUMED_SIZES)
    with pytest.raises(ModelError, match="give matching data with --data, or sizes with --input-shape") as caught:
        compile_model(path)
    assert "your" not in str(caught.value)
    assert compile_model(path, input_shapes={"x": (1, 33)}).program.inputs["x"].shape == (1, 33)


def test_made_up_samples_are_nobodys_fault(save_model: Save) -> None:
    """Half of them have no logarithm."""
    path = save_model(
        model([node("Log", "x", "l"), node("MatMul", "l w", "y")], {"x": (FLOAT, ("N", 6))}, "y", {"w": weights(6, 3)})
    )
    with pytest.raises(DataError, match=r"on generated inputs, value 'l' becomes NaN .* give real samples with --data"):
        compile_model(path)


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "feeds", "message"),
    [
        ("fixed states beside a sequence", {"x": normal(6, 2)}, "no batch axis, a run of it takes"),
        (
            "fixed states beside a sequence",
            {"x": normal(2, 6, 2, 3), "h": normal(3, 1, 2, 4)},
            "numbers of samples differ",
        ),
        ("fixed states beside a sequence", {"x": normal(5, 2, 3)}, "the model wants samples of shape"),
        ("a scalar for all", {"t": normal(3)}, "all samples of a run share one value"),
        ("state and sequence on axis 1", {"x": normal(5)}, "samples lie along axis 1"),
        ("state and sequence on axis 1", {"x": normal(5, 6, 3)}, "numbers of samples differ"),
    ],
)
def test_data_of_another_layout_are_one_message(
    name: str, feeds: Feeds, message: str, save_model: Save, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **{**CASES[name].feeds, **feeds})
    with pytest.raises(DataError, match=message):
        compile_model(save_model(CASES[name].model), data=tmp_path / "d.npz")


def test_inputs_of_another_layout_are_one_message(save_model: Save, tmp_path: Path) -> None:
    case = CASES["several graphs"]
    emulator = memcompile.Emulator(compiled(case, save_model, tmp_path).program)
    with pytest.raises(DataError, match=r"different numbers of runs \(x 2, src 3\)"):
        emulator.run({**case.feeds, "x": case.feeds["x"][:2]})
    with pytest.raises(DataError, match="a further first dimension counts runs"):
        emulator.run({**case.feeds, "x": case.feeds["x"][:, :4]})
    with pytest.raises(DataError, match="there are no runs"):
        emulator.run({name: array[:0] for name, array in case.feeds.items()})
    other = CASES["state and sequence on axis 1"]
    emulator = memcompile.Emulator(compiled(other, save_model, tmp_path).program)
    with pytest.raises(DataError, match="dimension 1, from 0, counts images"):
        emulator.run({**other.feeds, "x": normal(4, 7, 3)})
    shared = CASES["one value for all"]
    emulator = memcompile.Emulator(compiled(shared, save_model, tmp_path).program)
    with pytest.raises(DataError, match="all images share one value"):
        emulator.run({**shared.feeds, "t": normal(2)})


def test_tuning_wants_batches(save_model: Save, tmp_path: Path) -> None:
    case = CASES["state and sequence on axis 1"]
    program = compiled(case, save_model, tmp_path, "hermes").program
    with pytest.raises(UsageError, match="samples do not lie along axis 0 of input 'x'"):
        tune(program, case.feeds, np.zeros(7, np.int64))


def test_a_layout_that_contradicts_the_inputs_is_damage(save_model: Save, tmp_path: Path) -> None:
    program = compiled(CASES["state and sequence on axis 1"], save_model, tmp_path).program
    for layout in (
        replace(program.batching, inputs={"x": 1, "h": 1}),
        replace(program.batching, inputs={"x": 3, "h": 1, "c": 1}),
        replace(program.batching, inputs={"x": 0, "h": 1, "c": 1}),
        replace(program.batching, outputs={"z": 1}),
        replace(program.batching, size=2),
    ):
        save_program(replace(program, layout=layout), tmp_path / "p.mcp")
        with pytest.raises(ProgramError, match=r"layout|open size"):
            load_program(tmp_path / "p.mcp")


def test_a_usual_program_says_nothing_of_its_layout(save_model: Save) -> None:
    assert compile_model(save_model(models.conv_bn())).program.layout is None


@pytest.mark.parametrize("sizes", [(None, None), ("N", "N"), ("A", "B"), ("batch", "batch"), (None, 1)])
def test_samples_share_what_the_data_hold_once(sizes: tuple[Any, Any], save_model: Save, tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "e v", "b"), node("Add", "a b", "y")]
    inputs = {"x": (FLOAT, (sizes[0], 6)), "e": (FLOAT, (sizes[1], 3))}
    network = model(nodes, inputs, "y", {"w": weights(6, 4), "v": weights(3, 4)})
    feeds = {"x": models.images((5, 6)), "e": models.images((1, 3))}
    np.savez(tmp_path / "d.npz", **feeds)
    program = compile_model(save_model(network), "ideal", data=tmp_path / "d.npz").program
    got = memcompile.Emulator(program).run(feeds)["y"]
    np.testing.assert_allclose(got, stages.reference(network, feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [(), (1, 5, 6)])
def test_another_length_than_the_compiled_one_is_a_message_that_says_how_to_compile_for_it(
    given: tuple[int, ...], save_model: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Assumed or given; the advice holds."""
    network = classifier("batch", "length", 6)
    path, program = str(save_model(network)), str(tmp_path / "p.mcp")
    target = ["-o", program, "--target", "ideal", "--no-evaluation"]
    sizes = ["--input-shape", f"x={','.join(map(str, given))}"] if given else []
    assert main([path, *target, *sizes]) == 0
    x = normal(4, 7, 6)
    np.savez(tmp_path / "d.npz", x=x)
    data = ["--data", str(tmp_path / "d.npz")]
    assert main(["run", program, *data]) == 4
    message = without_phases(capsys.readouterr().err)
    assert message.count("\n") == 1
    advice = "where the model leaves a size open, compile it for another one with --data or --input-shape"
    assert f"samples of shape [{5 if given else 16}, 6], the data holds samples of shape [7, 6]" in message
    assert advice in message
    with pytest.raises(DataError, match=advice):
        memcompile.Emulator(load_program(program)).run(x)
    with pytest.raises(DataError) as rank:
        memcompile.Emulator(load_program(program)).run(x[0])
    assert advice not in str(rank.value)
    for mend in (data, ["--input-shape", "x=1,7,6"]):
        assert main([path, *target, *mend]) == 0
        assert main(["run", program, *data, "-o", str(tmp_path / "o.npz")]) == 0
        np.testing.assert_allclose(
            np.load(tmp_path / "o.npz")["y"], stages.reference(network, {"x": x})["y"], atol=1e-5
        )


def test_data_that_contradict_the_model_itself_get_no_advice_on_open_sizes(save_model: Save, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(4, 7))
    with pytest.raises(DataError, match=r"give data of that shape$"):
        compile_model(save_model(classifier("batch", 6)), data=tmp_path / "d.npz")
