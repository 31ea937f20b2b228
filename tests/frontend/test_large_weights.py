"""Large initializers are held once, beside the model; onnxruntime and the graph read the same memory."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from models import make, node
from onnx import TensorProto, helper, numpy_helper

from memcompile.errors import ModelError
from memcompile.frontend import weights as model_weights
from memcompile.frontend.importer import import_graph, read_model
from memcompile.frontend.sandbox import Limits
from memcompile.frontend.sessions import Weights, open_session
from memcompile.frontend.weights import LARGE_BYTES
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import run_float

SIDE = 512
W = np.random.default_rng(3).standard_normal((SIDE, SIDE)).astype(np.float32)
X = {"x": models.images((2, SIDE))}
NODES = (node("MatMul", "x w", "p"), node("Relu", "p", "y"))
PLACES = pytest.mark.parametrize("outside", [True, False], ids=["in another file", "in the model"])
Write = Callable[[onnx.ModelProto, bool], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(model: onnx.ModelProto, outside: bool) -> Path:
        path = tmp_path / "m.onnx"
        onnx.save_model(model, path, save_as_external_data=outside, location="weights.bin", size_threshold=0)
        return path

    return write


def model(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    types = {"x": (TensorProto.FLOAT, ("N", SIDE))}, {"y": (TensorProto.FLOAT, ("N", SIDE))}
    return make(list(nodes or NODES), *types, weights or {"w": W}, opset=17)


@PLACES
@pytest.mark.parametrize("limits", [None, Limits()])
def test_graph_and_onnxruntime_share_them(write: Write, outside: bool, limits: Limits | None) -> None:
    assert W.nbytes >= LARGE_BYTES
    file = read_model(write(model(), outside), limits)
    assert file.model.ByteSize() < 1000
    assert list(file.weights.arrays) == ["w"] and file.weights.folder is not None
    graph = import_graph(file, X)
    assert np.shares_memory(graph.constants["w"], file.weights.arrays["w"])
    assert np.array_equal(graph.constants["w"], W)


def test_onnxruntime_reads_them_in_place(write: Write) -> None:
    """A session that copied the weights would not see them change."""
    file, own = read_model(write(model(), False)), W.copy()
    session = replace(file, weights=Weights({"w": own}, file.weights.folder)).open_session(once=True)
    before = session.run(["y"], X)[0]
    own *= 2
    np.testing.assert_array_equal(session.run(["y"], X)[0], 2 * before)


@PLACES
def test_the_model_may_lie_behind_a_link(write: Write, outside: bool, tmp_path: Path) -> None:
    path = write(model(), outside)
    want = run_float(read_model(path), X)["y"]
    near, far = tmp_path / "near.onnx", tmp_path / "elsewhere" / "far.onnx"
    far.parent.mkdir()
    near.symlink_to(path)
    far.symlink_to(path)
    np.testing.assert_array_equal(run_float(read_model(near), X)["y"], want)
    if outside:  # external data must lie beside what was named
        with pytest.raises(ModelError, match=r"weights\.bin"):
            read_model(far)
        return
    np.testing.assert_array_equal(run_float(read_model(far), X)["y"], want)


@PLACES
@pytest.mark.parametrize("also", [(), ("p",)])
def test_results_are_those_of_the_whole_model(write: Write, outside: bool, also: tuple[str, ...]) -> None:
    file = read_model(write(model(), outside))
    whole = onnx.ModelProto.FromString(file.serialized())
    assert np.array_equal(numpy_helper.to_array(whole.graph.initializer[0]), W)
    want = open_session(file.serialized(), optimise=not also).run(["y"], X)[0]
    assert np.array_equal(run_float(file, X, also=also)["y"], want)


@PLACES
def test_rewrites_of_the_graph_see_them(write: Write, outside: bool) -> None:
    """onnxruntime folds batch normalisation into weights and lays those of Conv out anew, from where it finds them."""
    rng = np.random.default_rng(5)
    weights = {
        "k": rng.standard_normal((16, 16, 3, 3)).astype(np.float32),
        "s": rng.uniform(0.5, 2, 16).astype(np.float32),
        "b": rng.standard_normal(16).astype(np.float32),
        "v": rng.uniform(0.5, 2, 16).astype(np.float32),
        "g": rng.standard_normal((20, 16 * 36)).astype(np.float32),
    }
    chain = (
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c s b b v", "n"),
        node("Relu", "n", "r"),
        node("Flatten", "r", "f"),
        helper.make_node("Gemm", ["f", "g"], ["y"], transB=1),
    )
    types = {"x": (TensorProto.FLOAT, ("N", 16, 6, 6))}, {"y": (TensorProto.FLOAT, ("N", 20))}
    file = read_model(write(make(list(chain), *types, weights, opset=17), outside))
    assert set(file.weights.arrays) == {"k", "g"}
    feeds = {"x": models.images((3, 16, 6, 6))}
    for also in ((), ("n",)):
        want = open_session(file.serialized(), optimise=not also).run(["y"], feeds)[0]
        assert np.array_equal(run_float(file, feeds, also=also)["y"], want)


def test_of_files_laid_out_in_another_way_are_copied(write: Write) -> None:
    """Unknown places of weights cost memory, never a weight."""
    path = write(model(), False)
    want = run_float(read_model(path), X)["y"]
    with path.open("ab") as stream:
        stream.write(onnx.ModelProto(graph=onnx.GraphProto(name="of two pieces")).SerializeToString())
    file = read_model(path)
    assert file.weights.folder is None and list(file.weights.arrays) == ["w"]
    assert file.model.ByteSize() < 1000
    np.testing.assert_array_equal(run_float(file, X)["y"], want)


def test_the_file_may_have_any_name(write: Write, tmp_path: Path) -> None:
    """Also one that other systems take for a path, which external data may not have."""
    path = write(model(), False)
    want = run_float(read_model(path), X)["y"]
    for name in ("C:m.onnx", "..\\m.onnx", "\\m.onnx"):
        odd = path.rename(tmp_path / name)
        np.testing.assert_array_equal(run_float(read_model(odd), X)["y"], want)
        path = odd


def test_a_file_that_changes_while_it_is_read_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(model(), False)
    whole = model_weights.with_places

    def meanwhile(*arguments: Any) -> bytes | None:
        os.utime(path, (1, 1))
        return whole(*arguments)

    monkeypatch.setattr(model_weights, "with_places", meanwhile)
    with pytest.raises(ModelError, match="changed while it was read; compile it again"):
        read_model(path)


def test_models_may_come_through_a_pipe(write: Write, tmp_path: Path) -> None:
    path, pipe = write(model(), False), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    file = read_model(pipe)
    writer.join()
    np.testing.assert_array_equal(run_float(file, X)["y"], run_float(read_model(path), X)["y"])


@PLACES
@pytest.mark.parametrize("fate", ["gone", "another"])
def test_the_files_may_go_or_change_once_they_are_read(write: Write, outside: bool, fate: str) -> None:
    """A rewrite that reads weights from the file must not find other ones there."""
    path = write(model(), outside)
    file = read_model(path)
    want = run_float(file, X)["y"]
    holder = path.with_name("weights.bin") if outside else path
    assert file.weights.files[-1].path == holder
    if fate == "gone":
        holder.unlink()
    else:
        holder.write_bytes(bytes(holder.stat().st_size))
    assert not file.weights.files[-1].holds
    assert np.array_equal(run_float(file, X)["y"], want)
    assert import_graph(file, X).observed_shapes["x"] == (2, SIDE)


@PLACES
def test_compiles_to_the_same_cells(write: Write, outside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(model(), outside)
    layers = compile_model(path, "pimcomp").program.layers
    monkeypatch.setattr("memcompile.frontend.weights.LARGE_BYTES", 2 * W.nbytes)
    assert not read_model(path).weights.arrays
    for layer, other in zip(layers, compile_model(path, "pimcomp").program.layers, strict=True):
        assert np.array_equal(layer.cells, other.cells) and np.array_equal(layer.scale, other.scale)


@PLACES
def test_that_are_no_numbers(write: Write, outside: bool) -> None:
    path = write(model(w=np.where(W > 2, np.float32(np.nan), W)), outside)
    with pytest.raises(ModelError, match=r"'w' holds \d+ NaN values; train or export"):
        read_model(path)


@PLACES
def test_that_nobody_reads_stay_in_the_model(write: Write, outside: bool) -> None:
    file = read_model(write(model(w=W, unused=W), outside))
    assert list(file.weights.arrays) == ["w"]
    assert file.open_session().run(["y"], X)[0].shape == (2, SIDE)


@PLACES
def test_of_functions_stay_in_the_model(write: Write, outside: bool) -> None:
    made = make(
        [helper.make_node("own", ["x", "w"], ["y"], domain="own")],
        {"x": (TensorProto.FLOAT, ("N", SIDE))},
        {"y": (TensorProto.FLOAT, ("N", SIDE))},
        {"w": W},
        opset=17,
        extra_opsets=[("own", 1)],
    )
    body = [node("MatMul", "a b", "c")]
    made.functions.append(helper.make_function("own", "own", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)]))
    file = read_model(write(made, outside))
    assert not file.weights.arrays
    assert np.array_equal(import_graph(file, X).constants["w"], W)


def test_travel_to_another_process_after_a_session(write: Write) -> None:
    file = read_model(write(model(), True))
    file.open_session()
    copy = pickle.loads(pickle.dumps(file.weights))
    assert copy.folder == file.weights.folder and np.array_equal(copy.arrays["w"], W)
